"""The documentation builds without a warning, and the files that it points to exist."""

from __future__ import annotations

import html
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import tokenry
from tokenry.catalog import Card
from tokenry.cli.main import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_builds(site: Path) -> None:
    assert (site / "methods/index.html").is_file()
    assert not (site / "hooks").exists(), "what makes pages is no page"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """What a package hands out of other libraries is documented there."""
    packages = [m.name for m in pkgutil.walk_packages(tokenry.__path__, "tokenry.") if m.ispkg]
    lost = []
    for face in ["tokenry", *packages]:
        offered = {n: getattr(import_module(face), n) for n in getattr(import_module(face), "__all__", ())}
        names = [n for n, found in offered.items() if not str(found).startswith("<class 'transformers.")]
        file = site / "reference" / ".".join(face.split(".")[:2]) / "index.html"
        page = file.read_text(encoding="utf-8") if names else ""
        lines = set(map(str.strip, page.splitlines()))
        lost += [
            f"{face}.{n}" for n in names if f"{face}.{n}" not in lines and f"<code>{n}</code></a>" not in page
        ]
    assert lost == []


def test_entries_about_several_parameters_tell_of_each(site: Path) -> None:
    """`ByteTrie` has an entry "lo, hi: ..."; the parser of docstrings knows one name an entry."""
    page = (site / "reference/tokenry.text/index.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert re.search(r"lo \(Int.{20,30} node -> the tokens that start .* hi \(Int.{20,30} See lo\.", text)


def test_every_room_has_a_page(site: Path) -> None:
    rooms = {m.name for m in pkgutil.iter_modules(tokenry.__path__) if m.ispkg} - {"cli"}
    pages = {page.name.removeprefix("tokenry.") for page in (site / "reference").iterdir()}
    assert pages == rooms | {"tokenry", "cli"}


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = html.unescape((site / "reference/cli/index.html").read_text(encoding="utf-8"))

    def check(command: Any, path: str) -> None:
        section = page.partition(f"<code>{path}</code>")[2].partition("<h2")[0]
        assert path == "tokenry" or section, path
        for parameter in command.params if path != "tokenry" else ():
            assert all(name in section for name in parameter.opts if name.startswith("-")), parameter.opts
            assert (parameter.help or "").split("`")[0].strip() in section, parameter.name
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path} {name}")

    check(get_command(app), "tokenry")
    assert "[default: 50%, 25%, 10%]" in page


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_outside_the_site_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_example_card_of_the_guide_is_a_card() -> None:
    text = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(name.*?)```", text, re.DOTALL)
    assert block is not None
    assert (
        Card.from_mapping("brightest", tomllib.loads(block[1])).entry_point
        == "tokenry.reduce.brightest:Brightest"
    )
