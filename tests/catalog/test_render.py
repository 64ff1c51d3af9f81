"""What is generated from the catalogue: up to date in the repository, and right for cards of every sort."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.catalog.test_results import VALUES
from tokenry.catalog import Card, card, cards, render
from tokenry.data.questions.metrics import METRICS
from tokenry.tokens.errors import TokenryError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("above\n<!-- methods:begin -->\nold\n<!-- methods:end -->\nbelow\n")
    tables = [f"<!-- {name}:{end} -->\n" for name in ("families", "classes") for end in ("begin", "end")]
    (tmp_path / "docs/hosts.md").write_text("".join(tables))
    (tmp_path / "docs/releases.md").write_text("<!-- releases:begin -->\n<!-- releases:end -->\n")
    names = ("intervals-few", "intervals-rules", "intervals")
    tables = [f"<!-- {name}:{end} -->\n" for name in names for end in ("begin", "end")]
    (tmp_path / "docs/intervals.md").write_text("".join(tables))
    markers = [f"<!-- {name}:{end} -->\n" for name in ("reproductions", "speed") for end in ("begin", "end")]
    (tmp_path / "docs/results.md").write_text("".join(markers))
    return tmp_path


@pytest.fixture
def done() -> Card:
    return replace(card("fastervlm"), state="done", caution=None)


def test_the_repository_is_up_to_date() -> None:
    files = render.generate(ROOT)
    outdated = [
        str(path) for path, text in files.items() if (ROOT / path).read_text(encoding="utf-8") != text
    ]
    assert outdated == [], "run `make docs-generate`"
    pages = {page.relative_to(ROOT) for page in (ROOT / "docs/methods").glob("*.md")}
    assert pages <= set(files), "pages of no card: run `make docs-generate`"


def test_a_page_has_paper_entry_point_and_result(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES | {"arms": {"ours": {"score": 0.5}}}))
    page = render.generate(checkout, [done])[Path(done.page)]
    assert "https://arxiv.org/abs/2412.01818" in page
    assert 'tk.reduced(model, "fastervlm")' in page
    assert "::: tokenry.reduce.fastervlm.FasterVLM" in page
    assert "verdict **shown**" in page
    assert "| ours, accuracy | 0.9123 |" in page
    assert "### arms\n\n|  | score |\n| --- | --- |\n| ours | 0.5 |" in page


def test_a_caution_stands_beside_every_verdict(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES))
    wary = replace(done, caution="The model was trained on *it*.")
    files, plain = render.generate(checkout, [wary]), render.generate(checkout, [done])
    _, _, measured = files[Path(done.page)].partition("verdict **shown**")
    assert measured.split("\n\n")[1] == r"**Caution.** The model was trained on \*it\*."
    link = "shown, with [caution](methods/fastervlm.md#what-was-measured) |"
    assert link in files[Path("docs/results.md")]
    assert all("aution" not in text for text in plain.values())


def test_text_is_literal_in_tables(checkout: Path) -> None:
    index = render.generate(checkout, [replace(card("read"), summary="Turns <SEG> | [this] into *that*")])
    assert r"Turns &lt;SEG> \| \[this\] into \*that\*" in index[Path("docs/methods/index.md")]


def test_readme_keeps_what_is_around_the_table(checkout: Path, done: Card) -> None:
    text = render.generate(checkout, [done, card("dymu")])[Path("README.md")]
    assert text.startswith("above\n<!-- methods:begin -->\n*reproduced*: the verdict")
    assert text.endswith("\n<!-- methods:end -->\nbelow\n")
    assert "[`fastervlm`](docs/methods/fastervlm.md)" in text
    assert "dymu" not in text
    assert "1 of the catalogue's 2 systems are still open" in text


WHERE = {"machine": {"cores": 2}, "versions": {"torch": "2.13.0"}, "date": "2026-11-21"}


def test_families_become_a_table(checkout: Path) -> None:
    families = {
        "what": "largest gap",
        "families": [{"family": "LLaVA", "not_supported": {}, "stages": ["input", "layer"]}],
    }
    (checkout / "docs/results/families.json").write_text(json.dumps(families | WHERE))
    text = render.generate(checkout, cards())[Path("docs/hosts.md")]
    assert "| family | not supported | stages |\n| --- | --- | --- |\n| LLaVA |  | input, layer |" in text
    assert "largest gap. cores 2; torch 2.13.0; 2026-11-21." in text


def test_benchmarks_become_tables_with_all_columns(checkout: Path) -> None:
    rows = [{"kept": "50%", "speed-up": 1.93236}, {"kept": "25%", "speed-up": None, "FLOPs ratio": 3.2}]
    result = {"name": "prefill", "rows": rows, "targets": {"speed-up": ">= 0.95"}} | WHERE
    (checkout / "docs/results/bench-prefill.json").write_text(json.dumps(result))
    text = render.generate(checkout, cards())[Path("docs/results.md")]
    assert (
        "| kept | speed-up | FLOPs ratio |\n| --- | --- | --- |\n| 50% | 1.932 |  |\n| 25% |  | 3.2 |" in text
    )
    assert "Targets: speed-up >= 0.95. cores 2; torch 2.13.0; 2026-11-21." in text


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"what": "x", "families": [], "machine": {}, "versions": {}, "date": ""}']
)
@pytest.mark.parametrize("name", ["families", "bench-x"])
def test_damaged_results_are_refused(checkout: Path, name: str, text: str) -> None:
    (checkout / f"docs/results/{name}.json").write_text(text)
    with pytest.raises(TokenryError, match=rf"{name}\.json"):
        render.generate(checkout, cards())


def test_write_changes_only_what_differs_and_removes_stale_pages(checkout: Path, done: Card) -> None:
    stale = checkout / "docs/methods/gone.md"
    stale.parent.mkdir()
    stale.touch()
    assert Path("docs/methods/gone.md") in render.write(checkout, [done])
    assert not stale.exists()
    assert render.write(checkout, [done]) == []
    assert render.write(checkout, [replace(done, state="open")])[-1] == Path(done.page)
    assert not (checkout / done.page).exists()
    assert not list(checkout.rglob(".*")), "temporary files stay behind"


def test_a_missing_marker_is_an_error(checkout: Path) -> None:
    (checkout / "README.md").write_text("no table here")
    with pytest.raises(TokenryError, match=r"README\.md needs the lines <!-- methods:begin -->"):
        render.generate(checkout, cards())


def test_reproductions_are_one_table(checkout: Path, done: Card) -> None:
    result = {"claim": "c", "ours": {"what": "o", "value": 0.5}, "baseline": {"what": "b", "accuracy": 0.25},
              "ratio": 2.0, "metric": "bits", "seeds": [0], "verdict": "shown"} | WHERE  # fmt: skip
    (checkout / "docs/results/fastervlm.json").write_text(json.dumps(result))
    text = render.generate(checkout, [done])[Path("docs/results.md")]
    assert "| [`fastervlm`](methods/fastervlm.md) | bits | 0.5 | 0.25 | 2 | shown |" in text


def test_partly_is_marked_and_explained_in_every_table_of_methods(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES | {"verdict": "not shown"}))
    half = replace(card("fastv"), state="partly")
    files = render.generate(checkout, [half, done])
    readme, index = files[Path("README.md")], files[Path("docs/methods/index.md")]
    assert "| [`fastv`](docs/methods/fastv.md) (partly) |" in readme
    assert "A method marked (partly) is usable, but something of what done means is missing" in readme
    assert "| input | not shown | [2412.01818]" in readme
    assert "| partly | usable, but something of what done means is missing" in index
    assert "| [fastervlm](fastervlm.md) | done | not shown |" in index
    assert "(partly)" not in render.generate(checkout, [done])[Path("README.md")]


def test_a_registry_becomes_a_table_where_a_page_names_it(checkout: Path) -> None:
    name = "tokenry.data.questions.metrics:METRICS"
    page = checkout / "docs/page.md"
    page.write_text(f"above\n<!-- {name}:begin -->\n<!-- {name}:end -->\nbelow\n")
    text = render.generate(checkout, cards())[Path("docs/page.md")]
    assert "| metric | what it is |\n| --- | --- |\n" in text
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == list(METRICS)
    assert text.startswith("above\n")
    assert text.endswith("below\n")
