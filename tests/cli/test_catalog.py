"""`tokenry list`, `tokenry info`, and how the command line fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tokenry.catalog import card, cards, results
from tokenry.cli.main import app
from tokenry.tokens.errors import TokenryError

WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def _run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env=WIDE | (env or {}))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_shows_every_system() -> None:
    code, out, _ = _run("list")
    assert code == 0
    assert all(f"\n{card.slug} " in f"\n{out}" for card in cards())
    assert f"{len(cards())} systems" in out


def test_list_filters() -> None:
    code, out, _ = _run("list", "--room", "reduce", "--stage", "layer", "--state", "open")
    wanted = cards(room="reduce", stage="layer", state="open")
    assert code == 0
    assert f"{len(wanted)} systems, 0 done" in out


def test_info_shows_card_and_docstring() -> None:
    code, out, _ = _run("info", "fastervlm")
    assert code == 0
    assert "[CLS] Attention is All You Need" in out  # brackets are text, not markup
    assert "https://arxiv.org/abs/2412.01818" in out
    assert "tokenry.reduce.fastervlm:FasterVLM" in out
    assert "Attributes:" in out


@pytest.mark.parametrize(("slug", "what"), [("fastv", "rows"), ("recoverable-compression", "cosine")])
def test_info_tells_what_biases_a_verdict(slug: str, what: str) -> None:
    """The embedded model was trained on what these two read."""
    _, out, _ = _run("info", slug)
    found, caution = results.find(card(slug)), card(slug).caution
    assert found is not None
    assert caution is not None
    assert what in caution
    shown = " ".join(out.split())
    assert f"verdict {found.verdict} caution {caution}" in shown


@pytest.mark.parametrize("slug", ["fastv", "recoverable-compression"])
def test_info_leaves_room_for_what_was_measured(slug: str) -> None:
    """However long the names of measurements are, in a terminal of 80 columns."""
    found = results.find(card(slug))
    assert found is not None
    _, out, _ = _run("info", slug, env={"COLUMNS": "80"})
    shown = "".join(out.split())
    assert found.values["date"] in shown
    assert all("".join(word.split()) in shown for word in found.values["claim"].split())


def test_info_tells_it_where_there_are_no_results_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "checkout", lambda: None)  # as in an installed wheel
    _, out, _ = _run("info", "fastv")
    assert f"caution {card('fastv').caution}" in " ".join(out.split())


def test_info_of_an_open_system_without_entry_point() -> None:
    code, out, _ = _run("info", "elm")
    assert code == 0
    assert "open" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "fastvlm"), "did you mean fastervlm"),
        (("list", "--room", "attic"), "there is no room 'attic'"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = _run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_debug_keeps_the_traceback() -> None:
    with pytest.raises(TokenryError):
        _run("info", "fastvlm", env={"TOKENRY_DEBUG": "1"})


def test_version() -> None:
    code, out, _ = _run("--version")
    assert code == 0
    assert out.startswith("tokenry ")


def test_the_catalogue_is_shown_without_importing_torch() -> None:
    program = (
        "import sys\n"
        "from tokenry.cli.main import app\n"
        "try:\n    app(['list'])\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "heavy = sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | WIDE
    )
    assert done.returncode == 0, done.stderr
