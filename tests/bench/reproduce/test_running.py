"""Finding reproductions in a checkout, running them, and the command."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from tokenry.bench.reproduce import (
    Study,
    VqaLab,
    find,
    folder,
    load_experiment,
    reproduce,
    reproductions_folder,
    systems,
)
from tokenry.bench.reproduce.result import Reproduction
from tokenry.catalog import card
from tokenry.cli.main import app
from tokenry.tokens import InputError, TokenryError, UnknownNameError

ROOT = reproductions_folder().parent


def test_every_design_has_its_experiment_beside_it_in_the_room_of_its_card() -> None:
    assert len(systems()) > 30
    for slug in systems():
        path = folder.design_path(slug)
        assert path.with_name(f"{slug.replace('-', '_')}.py").is_file()
        assert path.parent.name == card(slug).room, slug
        design = find(slug).design
        assert design.claim
        assert design.questions is None or len(design.seeds) >= 3


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="fastv"):
        find("fastw")
    with pytest.raises(InputError, match="no reproduction"):
        find("pool")


def test_reproductions_go_into_the_sdist_and_not_into_the_wheel() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == ["src/tokenry"]
    assert "/reproductions" in targets["sdist"]["include"]


def installed(monkeypatch: pytest.MonkeyPatch, site: Path, here: Path) -> None:
    """As if tokenry lay elsewhere, and the user were in a folder."""
    monkeypatch.setattr(folder, "__file__", str(site / "tokenry" / "bench" / "reproduce" / "folder.py"))
    monkeypatch.chdir(here)


def test_an_installed_package_has_no_reproductions_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reproductions").mkdir()  # anybody's, not those of tokenry
    (tmp_path / "reproductions" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    installed(monkeypatch, tmp_path, tmp_path)
    for call in (systems, lambda: find("fastv"), lambda: load_experiment("fastv")):
        with pytest.raises(TokenryError, match="not part of the installed package; clone the repository"):
            call()
    outcome = CliRunner().invoke(app, ["reproduce", "fastv"])
    assert "not part of the installed package" in " ".join(outcome.output.split()) + str(outcome.exception)


def test_an_installed_package_finds_those_of_the_checkout_that_the_user_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, site = tmp_path / "clone", tmp_path / "site"
    shutil.copytree(ROOT / "reproductions", clone / "reproductions")
    shutil.copy(ROOT / "pyproject.toml", clone)
    (clone / "docs").mkdir()
    installed(monkeypatch, site, clone / "docs")
    assert reproductions_folder() == clone / "reproductions"
    assert find("fastv").path == clone / "docs" / "results" / "fastv.json"
    for name in [n for n in sys.modules if n.split(".")[0] == "reproductions"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != ROOT])
    loaded = sys.modules[load_experiment("fastv").__module__]
    assert loaded.__name__ == "reproductions.reduce.fastv"
    assert loaded.__file__ == str(clone / "reproductions" / "reduce" / "fastv.py")
    for name in [n for n in sys.modules if n.split(".")[0] == "reproductions"]:
        del sys.modules[name]


def test_another_package_of_that_name_is_not_mistaken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("reproductions")
    other.__path__ = ["/elsewhere"]
    monkeypatch.setitem(sys.modules, "reproductions", other)
    with pytest.raises(InputError, match="/elsewhere"):
        load_experiment("fastv")


def test_an_interrupted_reproduction_leaves_no_half_result_and_goes_on(
    tiny: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = find("aim", out=tmp_path / "out")
    plan = replace(plan, design=plan.design.rehearsal())
    ask: Callable[..., Any] = tiny[0].generate
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return ask(*args, **kwargs)

    def lab() -> VqaLab:
        return VqaLab(*tiny, cache=tmp_path / "cache")

    monkeypatch.setattr(tiny[0], "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, lab=lab)
    assert not plan.path.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    reproduce(plan, lab=lab)
    assert calls == 3 + 4  # six arms: two were kept, the interrupted one and three more were run
    assert [p.name for p in plan.path.parent.iterdir()] == ["aim.json"]
    lab().forget()
    assert not list((tmp_path / "cache").iterdir())


def test_the_embedded_model_is_opened_only_where_it_is_asked(tmp_path: Path) -> None:
    def refuse() -> VqaLab:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(find("fastv", out=tmp_path), lab=refuse)
    plan = find("mrt5", out=tmp_path)
    reproduce(replace(plan, design=plan.design.rehearsal()), lab=refuse)
    assert plan.path.is_file()


def test_questions_are_put_only_where_the_design_has_some(lab: VqaLab, tmp_path: Path) -> None:
    study = Study("mrt5", {}, (0,), tmp_path, lambda: lab)
    for call in (lambda: study.ask({"full": [()]}), study.asked_patches):
        with pytest.raises(InputError, match="mrt5 has no questions"):
            call()


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = find("fastv")
    done = Reproduction.of_json(json.loads(plan.path.read_text()))
    with pytest.raises(InputError, match="could not be written"):
        done.write(tmp_path / "file" / "x.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--all"),
        (["fastv", "--all"], "--all"),
        (["fastw"], "fastv"),
        (["pool"], "no reproduction"),
        (["fastv", "--rehearse"], "--out"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["reproduce", *arguments])
    assert outcome.exit_code != 0
    assert message in outcome.output + str(outcome.exception)
    assert outcome.exit_code == 2 or isinstance(outcome.exception, TokenryError)


def test_the_command_shows_verdict_criteria_and_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))
    outcome = CliRunner().invoke(app, ["reproduce", "mrt5", "--rehearse", "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    for said in ("mrt5:", "(decisive)", "learnt gate", "mrt5.json"):
        assert said in outcome.output
