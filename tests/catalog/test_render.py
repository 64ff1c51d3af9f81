"""What is generated from the catalogue: up to date in the repository, and right for cards of every sort."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.catalog.test_results import VALUES
from tokenry.catalog import Card, card, cards, render
from tokenry.catalog.page import deciding
from tokenry.catalog.results import Result
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
    (tmp_path / "docs/testbeds.md").write_text("<!-- testbeds:begin -->\n<!-- testbeds:end -->\n")
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


def test_a_page_has_paper_example_entry_point_and_result(checkout: Path, done: Card) -> None:
    measured = {"arms": {"ours": {"score": 0.5}}, "notes": ["One <seed>.", "Two."]}
    (checkout / done.reproduction).write_text(json.dumps(VALUES | measured))
    page = render.generate(checkout, [done])[Path(done.page)]
    assert "https://arxiv.org/abs/2412.01818" in page
    assert f"```python\n{done.example}```\n\n```console\n{done.shell}\n```" in page
    assert f"::: {(done.entry_point or '').replace(':', '.')}\n" in page
    assert "Verdict **shown** on this claim: half the tokens, the same answers" in page
    assert "accuracy on questions about pictures: 0.9123 against 0.8." in page
    assert "**Arms**:\n\n|  | score |\n| --- | --- |\n| ours | 0.5 |" in page
    assert "\n\n- One &lt;seed>.\n- Two.\n\nEverything else" in page
    assert page.endswith("is in [fastervlm.json](../results/fastervlm.json).\n")


def test_a_page_has_criteria_with_intervals_and_what_does_not_decide(checkout: Path, done: Card) -> None:
    one = {"value": 2.5, "at least": 2, "interval": [1.5, 3.5], "holds": True, "decisive": True}
    other = {"value": 0.5, "at most": 0.25, "holds": False, "decisive": False}
    both = "| a | at least 2 | 2.5 | 1.5 to 3.5 | yes |\n| b † | at most 0.25 | 0.5 |  | **no** |"
    for criteria, expected in (
        ({"b": other, "a": one}, both),
        ({"a": {**one, "interval": []}}, "| a | at least 2 | 2.5 | yes |"),
    ):
        (checkout / done.reproduction).write_text(json.dumps(VALUES | {"criteria": criteria}))
        page = render.generate(checkout, [done])[Path(done.page)]
        assert expected in page
        assert ("† does not decide the verdict." in page) == ("b" in criteria)


def test_of_several_tables_the_one_that_compares_is_shown() -> None:
    by_kind = {"kind": ["score"], "color": [0.1]}
    arms = {"arm": ["score", "cost"], "ours": [0.91234567, 1], "random": [0.8, 1]}
    found = deciding(Result(Path("x.json"), VALUES | {"by kind": by_kind, "arms": arms}))
    assert found is not None
    label, records, total = found
    assert (label, [record["arm"] for record in records], total) == ("arms", ["ours", "random"], 2)
    assert deciding(Result(Path("x.json"), VALUES)) is None


def test_of_a_long_table_the_arms_like_ours_are_shown() -> None:
    arms = {"arm": ["score", "tokens", "seconds", "seed"], "full": [0.99, 144, 9.0, 0]}
    arms |= {f"random {n}": [n / 100, n, n / 10, 0] for n in (8, 9, 36, 72, 80)}
    arms |= {
        "ours 36": [0.91234567, 36, 3.6, 0],
        "ours 72": [0.95, 72, 7.2, 0],
        "fastv 36": [0.7, 36, 3.6, 0],
    }
    values = VALUES | {"baseline": 0.36, "full": {"what": "all", "value": 0.99}, "arms": arms}
    found = deciding(Result(Path("x.json"), values))
    assert found is not None
    assert [record["arm"] for record in found[1]] == ["full", "random 36", "ours 36", "fastv 36"]
    assert found[2] == len(arms) - 1
    found = deciding(Result(Path("x.json"), values | {"ours": 0.123}))
    assert found is not None
    assert len(found[1]) == 8, "no arm is ours: the first rows"


def test_every_page_is_short() -> None:
    """What would not be read is in the result file."""
    for path, text in render.generate(ROOT).items():
        if path.parent.name == "methods" and path.name != "index.md":
            rows = [line for line in text.splitlines() if line.startswith("|")]
            assert len(rows) <= 24, path
            assert max((len(cell) for row in rows for cell in row.split(" | ")), default=0) < 250, path


def test_a_caution_stands_beside_every_verdict(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES))
    wary = replace(done, caution="The model was trained on *it*.")
    files, plain = render.generate(checkout, [wary]), render.generate(checkout, [done])
    _, _, measured = files[Path(done.page)].partition("Verdict **shown**")
    assert measured.split("\n\n")[2] == r"**Caution.** The model was trained on \*it\*."
    link = "shown, with [caution](methods/fastervlm.md#what-was-measured) |"
    assert link in files[Path("docs/results.md")]
    assert all("aution" not in text for text in plain.values())


def test_text_is_literal_in_tables(checkout: Path) -> None:
    index = render.generate(checkout, [replace(card("read"), summary="Turns <SEG> | [this] into *that*")])
    assert r"Turns &lt;SEG> \| \[this\] into \*that\*" in index[Path("docs/methods/index.md")]


def test_readme_counts_the_systems_of_each_room(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES))
    catalogue = [done, card("dymu"), card("random"), replace(card("zett"), state="partly")]
    text = render.generate(checkout, catalogue)[Path("README.md")]
    assert text.startswith("above\n<!-- methods:begin -->\n3 published systems and 1 baselines")
    assert text.endswith("\n<!-- methods:end -->\nbelow\n")
    assert "| [Fewer tokens](docs/methods/index.md#fewer-tokens) | 2 |  | 1 | 1 |  |  |" in text
    assert "| [Text and tokens](docs/methods/index.md#text-and-tokens) |  | 1 |  |  |  |  |" in text
    assert "*partly*: usable, but something of what done means is missing" in text


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


def test_reproductions_are_one_table_a_room(checkout: Path, done: Card) -> None:
    result = {"claim": "c", "ours": {"what": "o", "value": 0.5}, "baseline": {"what": "b", "accuracy": 0.25},
              "ratio": 2.0, "metric": "bits", "seeds": [0], "verdict": "shown"} | WHERE  # fmt: skip
    (checkout / "docs/results/fastervlm.json").write_text(json.dumps(result))
    text = render.generate(checkout, [done, card("zett")])[Path("docs/results.md")]
    assert "### Text and tokens" not in text, "nothing was measured"
    assert "### Fewer tokens" in text
    assert "| [fastervlm](methods/fastervlm.md) | bits | 0.5 | 0.25 | 2 | shown |" in text


def test_the_index_has_a_row_for_each_system_below_its_room(checkout: Path, done: Card) -> None:
    (checkout / done.reproduction).write_text(json.dumps(VALUES | {"verdict": "not shown"}))
    catalogue = [replace(card("fastv"), state="partly"), done, card("dymu"), card("zett")]
    text = render.generate(checkout, catalogue)[Path("docs/methods/index.md")]
    reducing, others = text.partition("## Fewer tokens")[2].split("## Text and tokens")
    assert "| partly | usable, but something of what done means is missing" in text
    assert "| [fastv](fastv.md) | partly |  |" in reducing
    assert "| [fastervlm](fastervlm.md) | done | not shown |" in reducing
    assert "| dymu | open |  |" in reducing
    assert "| [zett](zett.md) |" in others


def test_a_registry_becomes_a_table_where_a_page_names_it(checkout: Path) -> None:
    name = "tokenry.data.questions.metrics:METRICS"
    page = checkout / "docs/page.md"
    page.write_text(f"above\n<!-- {name}:begin -->\n<!-- {name}:end -->\nbelow\n")
    text = render.generate(checkout, cards())[Path("docs/page.md")]
    assert "| metric | what it is |\n| --- | --- |\n" in text
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == list(METRICS)
    assert text.startswith("above\n")
    assert text.endswith("below\n")
