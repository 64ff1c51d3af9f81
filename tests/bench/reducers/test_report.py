"""The report: built from the file alone, needs nothing else, and works in a real browser."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tests.bench import browser
from tests.bench.reducers import synthetic
from tokenry.bench import as_table
from tokenry.bench.lines import ResultsWriter
from tokenry.bench.reducers.page import render
from tokenry.bench.reducers.report import Report, write_report
from tokenry.bench.reducers.results import ArmResult, Line, Refusal, Run, StoredPicture, read_results
from tokenry.bench.reducers.summary import summarise
from tokenry.tokens import InputError

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    file = synthetic.write(folder / "results.jsonl", synthetic.lines())
    return write_report(file, folder / "out")


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return report.page.read_text(encoding="utf-8")


def test_everything_is_there(html: str) -> None:
    for heading in (
        "What accuracy costs",
        "All figures",
        "What was kept",
        "Tokens in each layer",
        "Answers that changed",
    ):
        assert heading in html
    assert "picky at 50%: This model has no [CLS] token." in html
    assert "a model &lt;with&gt; marks" in html
    assert "2 threads" not in html
    assert "1 thread," in html
    assert "sdpa attention" in html


def test_a_page_on_which_nothing_ran_says_so_first_and_why_once(tmp_path: Path) -> None:
    reason = "There is no picture in this call."
    arms = [(method, budget) for method in ("random", "pool", "fine") for budget in ("50%", "25%")]
    content = [synthetic.run(4), *(Refusal(synthetic.SETTING, *arm, reason) for arm in arms)]
    content += [synthetic.result(item=item) for item in range(4)]
    file = synthetic.write(tmp_path / "results.jsonl", content)
    html = write_report(file).page.read_text(encoding="utf-8")
    (verdict,) = re.findall(r'<p class="verdict">([^<]*)</p>', html)
    assert verdict == "Nothing was compared: none of the 6 arms on fewer tokens ran on this model."
    assert html.count(reason) == 1
    assert "random, pool, fine at 50%, 25%: " in html
    # With one arm that ran, it is a comparison again.
    synthetic.write(file, [synthetic.result("fine", "50%", item) for item in range(4)])
    assert "Nothing was compared" not in write_report(file).page.read_text(encoding="utf-8")


def test_what_was_left_out_of_the_data_is_on_the_page(tmp_path: Path) -> None:
    content = synthetic.lines(8)
    run = next(line for line in content if isinstance(line, Run))
    plan = run.plan | {"left_out": ["b.png: picture <b> is an empty file"]}
    content[content.index(run)] = replace(run, plan=plan)  # type: ignore[arg-type]
    page = write_report(synthetic.write(tmp_path / "results.jsonl", content)).page.read_text()
    assert "Left out of the data" in page
    assert "picture &lt;b&gt; is an empty file" in page
    plain = write_report(synthetic.write(tmp_path / "plain.jsonl", synthetic.lines(8))).page.read_text()
    assert "Left out of the data" not in plain


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    loaded = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)|url\(([^)]+)\)|@import""", html)
    assert loaded == []
    assert "<script src" not in html
    assert len(html) < 3_000_000


def test_pictures_are_complete_and_nothing_half_written_is_left(report: Report) -> None:
    names = {p.name for p in report.pictures}
    assert {"score-tokens-mean.png", "score-prefill-flops.png", "score-prefill-ms.png"} < names
    assert sum(p.parent.name == "overlays" for p in report.pictures) == 2
    for path in report.pictures:
        with Image.open(path) as image:
            image.load()
    assert not list(report.page.parent.rglob(".report*"))


def test_a_report_can_be_written_again_and_beside_its_file(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "results.jsonl", synthetic.lines(8))
    first = write_report(tmp_path)
    assert first.page == tmp_path / "report.html"
    assert write_report(tmp_path / "results.jsonl").page.read_text() == first.page.read_text()


def test_damaged_lines_are_counted_in_the_page(tmp_path: Path) -> None:
    file = synthetic.write(tmp_path / "results.jsonl", synthetic.lines(8))
    file.write_text(file.read_text() + "{torn\n")
    found = write_report(file)
    assert found.skipped == 1
    assert "Unreadable lines, skipped: 1." in found.page.read_text()


def test_a_damaged_picture_costs_its_overlays_only(tmp_path: Path) -> None:
    file = synthetic.write(tmp_path / "results.jsonl", synthetic.lines(8))
    with ResultsWriter(file) as writer:
        writer.append(StoredPicture(synthetic.SETTING, "picture 0", "aGVsbG8="))
    assert sum(p.parent.name == "overlays" for p in write_report(file).pictures) == 1


def test_answers_are_escaped(tmp_path: Path) -> None:
    content = [line for line in synthetic.lines(4) if not isinstance(line, ArmResult)]
    content += [
        synthetic.result(item=0),
        synthetic.result("fine", "50%", 0, 0.0, answer="<script>alert(1)</script>"),
    ]
    page = write_report(synthetic.write(tmp_path / "results.jsonl", content)).page.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize(("losses", "colour"), [(6, False), (30, True)])
def test_a_colour_holds_for_all_rows_together(tmp_path: Path, losses: int, colour: bool) -> None:
    """6 lost of 40 are a loss by themselves, and no more than luck has where four arms were tried."""
    content: list[Line] = [synthetic.run(40)]
    for i in range(40):
        content.append(synthetic.result(item=i, picture=str(i)))
        content += [
            synthetic.result(m, b, i, picture=str(i)) for m in ("fine", "poor") for b in ("50%", "25%")
        ]
        content.append(synthetic.result("poor", "25%", i, float(i >= losses), picture=str(i)))
    results = read_results(synthetic.write(tmp_path / "results.jsonl", content))
    poor = next(r for r in summarise(results) if (r.method, r.budget) == ("poor", "25%"))
    assert poor.change is not None
    assert poor.change.high < 0
    screen = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
    screen.print(as_table(results))
    assert ("\x1b[31m" in screen.file.getvalue()) == colour  # type: ignore[attr-defined]
    assert ("#cf3f5a" in render(results)) == colour


def test_without_references_agreement_takes_the_scores_place(tmp_path: Path) -> None:
    content = [synthetic.run(2)]
    for i in range(2):
        content += [synthetic.result(item=i, score=None), synthetic.result("fine", "50%", i, None)]  # type: ignore[list-item]
    page = write_report(synthetic.write(tmp_path / "results.jsonl", list(content))).page.read_text()
    assert "no reference answers" in page
    assert "same answer as full" in page


def test_nothing_measured_yet_is_told(tmp_path: Path) -> None:
    file = synthetic.write(tmp_path / "results.jsonl", [synthetic.run(3)])
    with pytest.raises(InputError, match="no results yet"):
        write_report(file)


def test_files_of_before_are_read(tmp_path: Path) -> None:
    """They have a scorer where a metric is now, no prompt, and no baselines in their plan."""
    facts = {k: v for k, v in synthetic.FACTS.items() if k not in ("metric", "prompt")} | {"scorer": "mine"}
    plan = {k: v for k, v in synthetic.run(8).plan.items() if k != "against"}
    lines = [
        synthetic.run(8, facts=facts, plan=plan),
        *(x for x in synthetic.lines(8) if isinstance(x, ArmResult)),
    ]
    file = synthetic.write(tmp_path / "results.jsonl", lines)
    assert "scored by mine" in write_report(file).page.read_text()
    screen = Console(width=2000, file=io.StringIO())
    screen.print(as_table(read_results(file)))
    assert "scored by mine" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = synthetic.write(tmp_path / "results.jsonl", synthetic.lines(4))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="choose another folder"):
        write_report(file, tmp_path / "file")


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    program = browser.executable()
    if program is None:
        pytest.skip("NOT TESTED: the report in a browser. Install chromium (.ci/run does).")
    with browser.chromium(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_fits_the_window_silently_and_offline(
    page: browser.Page, report: Report, width: int, dark: bool
) -> None:
    page.open(report.page, width, dark=dark)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.complaints == []
    assert page.requests == [report.page.resolve().as_uri()]
    # Every picture and chart has a size, so nothing is broken or collapsed.
    shown = (
        "[...document.querySelectorAll('main svg')]"
        ".filter((s) => s.checkVisibility() && s.getAttribute('width') !== '0')"
    )
    assert page.evaluate(f"{shown}.length") > 20
    assert page.evaluate(f"{shown}.every((s) => s.getBoundingClientRect().width > 5)")


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_text_is_large_enough_and_contrasts(page: browser.Page, report: Report, width: int) -> None:
    page.open(report.page, width)
    chart = "[...document.querySelectorAll('.tradeoff text')].filter((t) => t.checkVisibility())"
    assert page.evaluate(f"Math.min(...{chart}.map((t) => t.getBoundingClientRect().height))") >= 10
    for dark in (False, True):
        page.open(report.page, width, dark=dark)
        colours = page.evaluate(
            "['body', '.kicker', '.right', '.tile span'].map((s) => document.querySelector(s)).filter(Boolean)"
            ".map((e) => getComputedStyle(e).color)"
        )
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert all(contrast(colour, paper) >= 4.5 for colour in colours)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two CSS colours."""

    def light(colour: str) -> float:
        parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


_COLUMN = (
    "((name) => { const t = document.querySelector('#figures-table');"
    " const i = [...t.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === name);"
    " return [...t.tBodies[0].rows].map((r) => r.cells[i]?.dataset.value ?? ''); })"
)
_HEADING = (
    "[...document.querySelectorAll('#figures-table thead th')].find((c) => c.textContent.trim() === '{}')"
)


@pytest.mark.browser
@pytest.mark.parametrize(("column", "first"), [("score", -1), ("prefill ms", 1)])
def test_a_table_sorts_by_mouse(page: browser.Page, report: Report, column: str, first: int) -> None:
    page.open(report.page, 1280)
    heading = _HEADING.format(column)
    for sign, state in ((first, ""), (-first, "")):
        page.evaluate(f"{heading}.querySelector('button').click()")
        values = [float(v) for v in page.evaluate(f"{_COLUMN}('{column}')") if v]
        assert values == sorted(values, reverse=sign < 0), state
        expected = "ascending" if sign > 0 else "descending"
        assert page.evaluate(f"{heading}.getAttribute('aria-sort')") == expected
    # The arm that could not run has no figures, and stays last.
    assert page.evaluate("document.querySelector('#figures-table tbody').lastElementChild.textContent").count(
        "not run"
    )


@pytest.mark.browser
@pytest.mark.parametrize(("key", "code"), [("Enter", "Enter"), (" ", "Space")])
def test_a_table_sorts_by_keyboard(page: browser.Page, report: Report, key: str, code: str) -> None:
    page.open(report.page, 390)
    page.evaluate(f"{_HEADING.format('method')}.querySelector('button').focus()")
    page.press(key, code)
    methods = page.evaluate(
        "[...document.querySelectorAll('#figures-table tbody th')].map((c) => c.dataset.value)"
    )
    assert methods == sorted(methods)
    assert len(set(methods)) > 3


@pytest.mark.browser
def test_choosing_a_cost_and_a_picture_shows_only_that(page: browser.Page, report: Report) -> None:
    page.open(report.page, 1280)
    for bar in range(page.evaluate("document.querySelectorAll('[data-switch]').length")):
        shown = page.evaluate(
            f"(() => {{ const b = [...document.querySelectorAll('[data-switch]')][{bar}].querySelectorAll('button');"
            " b[b.length - 1].click(); return [...b].map((x) =>"
            " document.getElementById(x.getAttribute('aria-controls')).checkVisibility()); })()"
        )
        assert shown == [False] * (len(shown) - 1) + [True]
        assert len(shown) > 1


@pytest.mark.browser
def test_pressing_a_method_singles_it_out(page: browser.Page, report: Report) -> None:
    page.open(report.page, 1280)
    page.evaluate("document.querySelector('.legend button[data-method=fine]').click()")
    clear = page.evaluate(
        "[...new Set([...document.querySelectorAll('.tradeoff [data-series]:not(.dim)')].map((s) => s.dataset.series))]"
    )
    assert clear == ["fine"]
    page.evaluate("document.querySelector('.legend button[data-method=fine]').click()")
    assert page.evaluate("document.querySelectorAll('.dim').length") == 0
