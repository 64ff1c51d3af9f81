"""`tokenry list`, `tokenry info`, and how the command line fails."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console, Group
from typer.testing import CliRunner

from tokenry.catalog import card, cards, results
from tokenry.catalog.docstrings import docstring
from tokenry.cli import system
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
    assert f"{len(cards())} systems ({len(cards(baseline=True))} of them baselines), " in out


def test_list_filters() -> None:
    code, out, _ = _run("list", "--room", "reduce", "--stage", "layer", "--state", "open")
    wanted = cards(room="reduce", stage="layer", state="open")
    assert code == 0
    assert f"{len(wanted)} systems, 0 done" in out


def test_one_system_is_one_system() -> None:
    (alone,) = cards(room="reduce", state="partly")
    _, out, _ = _run("list", "--room", alone.room, "--state", alone.state)
    assert re.search(r"^1 system(,| \()", out, re.MULTILINE)


def test_list_drops_columns_that_do_not_fit() -> None:
    _, wide, _ = _run("list", "--room", "reduce", env={"COLUMNS": "140"})
    _, narrow, _ = _run("list", "--room", "reduce", env={"COLUMNS": "80"})
    assert wide.split()[:4] == ["system", "state", "stage", "reproduced"]
    assert narrow.split()[:3] == ["system", "state", "what"]
    assert all(f"\n{card.slug} " in narrow for card in cards(room="reduce")), "no name is broken"


def _words(text: str) -> str:
    return "".join(text.split())


def _shown(what: Group, width: int) -> str:
    """As the commands print it, without the making of a command line for each of a hundred systems."""
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "most"), [(60, 66), (80, 54), (200, 45)])
def test_info_of_every_system_fits_on_a_screen(width: int, most: int) -> None:
    for one in cards():
        out = _shown(system.brief(one, results.find(one), width), width)
        lines = out.splitlines()
        assert len(lines) <= most, one.slug
        assert max(map(len, lines)) <= width, one.slug
        shown = _words(out)
        used = filter(None, (one.example, one.shell))
        assert all(_words(told) in shown for told in (one.title, one.summary, *used)), one.slug
        if (found := results.find(one)) is not None:
            rows = [line for line in lines if re.search(r"\d .* (yes|no) *$", line)]
            assert f"reproduction:{_words(found.verdict)}" in shown
            assert len(rows) == sum(criterion.decisive for criterion in found.criteria) > 0, one.slug


def test_info_shows_what_decided_the_verdict() -> None:
    found = results.find(card("fastv"))
    assert found is not None
    first = found.criteria[0]
    assert first.decisive
    for columns, interval in (("200", first.interval.split()), ("80", [])):
        _, out, _ = _run("info", "fastv", env={"COLUMNS": columns})
        (row,) = (line for line in out.splitlines() if first.name[:40] in line)
        told = [*first.bound.split(), first.measured, *interval, "yes" if first.holds else "no"]
        assert row.split()[-len(told) :] == told


def test_info_explains_what_partly_means() -> None:
    _, out, _ = _run("info", "aim")
    assert "partly: usable, but something of what done means is missing" in out


def test_full_shows_all_of_the_docstring_and_of_the_measurements() -> None:
    for one in cards():
        found = results.find(one)
        if one.entry_point is None or found is None:
            continue
        console = Console(width=700)  # no cell wraps
        shown = _words(_shown(system.full(one, found, console), console.width))
        markup = str.maketrans("", "", "`*")
        text = docstring(one.entry_point).replace("::", "").translate(markup)
        lost = [word for word in text.split() if word.strip(":") not in shown.translate(markup)]
        assert lost == [], one.slug
        figures = [value for _, value in found.rows()]
        tables = [records for label, records in found.tables() if label != "criteria"]
        figures += [results.text(value) for records in tables for r in records for value in r.values()]
        figures += [c.measured + c.interval for c in found.criteria]
        assert [figure for figure in figures if _words(figure) not in shown] == [], one.slug


@pytest.mark.parametrize(("slug", "what"), [("fastv", "rows"), ("recoverable-compression", "cosine")])
def test_info_tells_what_biases_a_verdict(slug: str, what: str) -> None:
    """The embedded model was trained on what these two read."""
    _, out, _ = _run("info", slug)
    caution = card(slug).caution
    assert caution is not None
    assert what in caution
    assert f"caution: {caution}" in " ".join(out.split())


def test_info_tells_it_where_there_are_no_results_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "checkout", lambda: None)  # as in an installed wheel
    _, out, _ = _run("info", "fastv")
    shown = " ".join(out.split())
    assert f"caution {card('fastv').caution}" in shown
    assert "not in an installed package" in shown


def test_info_needs_no_more_than_ascii() -> None:
    program = "from tokenry.cli.main import app; app(['info', 'fastv', '--full'])"
    encoding = {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, env=os.environ | encoding
    )
    assert done.returncode == 0, done.stderr
    assert b"criterion" in done.stdout


def test_info_of_an_open_system_without_entry_point() -> None:
    code, out, _ = _run("info", "elm")
    assert code == 0
    assert "open: planned, not usable yet" in out
    assert "--full" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "fastvlm"), "did you mean fastervlm"),
        (("list", "--room", "attic"), "There is no room 'attic'"),
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
