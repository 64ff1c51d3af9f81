"""What a card accepts, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenry.catalog import Card, card, cards, load_cards
from tokenry.tokens.errors import TokenryError, UnknownNameError

VALID = {
    "name": "Brightest",
    "title": "Brightness Is All",
    "arxiv": "2401.00001",
    "year": 2024,
    "room": "reduce",
    "kind": "reducer",
    "trained": False,
    "summary": "Keeps the brightest tokens",
    "state": "open",
}
VARIANT = {
    "name": "dim+bright",
    "kind": "reducer",
    "summary": "Keeps the others",
    "entry_point": "tokenry.reduce.dim:Dim",
}


def test_a_card_answers_for_its_variants() -> None:
    made = Card.from_mapping(
        "bright", VALID | {"variants": [VARIANT, VARIANT | {"name": "dim", "aliases": ["dark"]}]}
    )
    assert [(v.name, v.aliases) for v in made.variants] == [("dim+bright", ()), ("dim", ("dark",))]


def test_paths_follow_from_slug_and_room() -> None:
    made = Card.from_mapping("very-bright", VALID)
    assert made.page == "docs/methods/very-bright.md"
    assert made.tests == "tests/reduce/test_very_bright.py"
    assert made.reproduction == "docs/results/very-bright.json"
    assert made.link == "https://arxiv.org/abs/2401.00001"


def test_a_paper_outside_arxiv_has_a_url() -> None:
    values = VALID | {"url": "https://example.org/paper"}
    del values["arxiv"]
    assert Card.from_mapping("bright", values).link == "https://example.org/paper"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"state": "finished"}, "state 'finished' is none of done, partly, open"),
        ({"room": "attic"}, "room 'attic'"),
        ({"stage": "decoder"}, "stage 'decoder'"),
        ({"kind": "gadget"}, "kind 'gadget'"),
        ({"year": "2024"}, "year must be a non-empty int, not '2024'"),
        ({"year": True}, "year must be a non-empty int, not True"),
        ({"trained": "no"}, "trained must be a non-empty bool"),
        ({"notes": ""}, "notes must be a non-empty str"),
        ({"arxiv": "2401.00001v2"}, "arxiv '2401.00001v2'"),
        ({"entry_point": "os.path:join"}, "entry_point 'os.path:join'"),
        ({"folder": "weights"}, "folder 'weights' is not tokenry.room.module:Name"),
        ({"entry_point": "tokenry.embed.bright:Bright"}, "is not in its room, 'reduce'"),
        ({"control": 1}, "only a baseline can be the control"),
        ({"aliases": "light"}, "aliases must be a non-empty list, not 'light'"),
        ({"aliases": ["Light"]}, "alias 'Light' is not lower-case words"),
        ({"variants": [VARIANT | {"kind": "gadget"}]}, "kind 'gadget' is none of"),
        ({"variants": [VARIANT | {"summary": "Dim."}]}, "summary is one line without a full stop"),
        ({"variants": [VARIANT | {"entry_point": "os.path:join"}]}, "entry_point 'os.path:join'"),
        ({"variants": [VARIANT | {"colour": "red"}]}, "unknown field 'colour'; a variant has"),
        ({"variants": [{"name": "dim"}]}, "entry_point, kind, summary missing"),
        ({"summary": "Keeps the brightest tokens."}, "summary is one line without a full stop"),
        ({"summary": "Keeps\nsome"}, "summary is one line"),
        ({"state": "done"}, "done has an entry_point"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(TokenryError, match=r"(Card|Variant) '(bright|dim\+bright)'") as error:
        Card.from_mapping("bright", VALID | change)
    assert message in str(error.value)


@pytest.mark.parametrize("field", ["name", "summary", "state", "trained"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(TokenryError, match=f"{field} missing"):
        Card.from_mapping("bright", {k: v for k, v in VALID.items() if k != field})


@pytest.mark.parametrize("field", ["year", "arxiv"])
def test_only_baselines_go_without_a_paper(field: str) -> None:
    values = {k: v for k, v in VALID.items() if k != field}
    with pytest.raises(TokenryError, match="only baselines"):
        Card.from_mapping("bright", values)
    assert Card.from_mapping("bright", values | {"baseline": True}).baseline


@pytest.mark.parametrize("slug", ["Bright", "bright_er", "-bright", "bright--er", ""])
def test_a_slug_is_words_and_hyphens(slug: str) -> None:
    with pytest.raises(TokenryError, match="slug"):
        Card.from_mapping(slug, VALID)


def test_a_broken_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "bright.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(TokenryError, match="Card 'bright' cannot be read"):
        load_cards(tmp_path)


def test_a_stray_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bright.yaml").touch()
    with pytest.raises(TokenryError, match=r"'bright\.yaml'"):
        load_cards(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match="No cards"):
        load_cards(tmp_path)


def test_one_file_is_one_more_card(tmp_path: Path) -> None:
    lines = [f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in VALID.items()]
    (tmp_path / "bright.toml").write_text("\n".join(lines), encoding="utf-8")
    assert load_cards(tmp_path) == (Card.from_mapping("bright", VALID),)


def test_an_unknown_slug_suggests_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="did you mean fastervlm"):
        card("FasterVML")
    with pytest.raises(UnknownNameError, match="tokenry list"):
        card("zzzzzzzzzz")


def test_filters() -> None:
    assert {c.room for c in cards(room="steer")} == {"steer"}
    assert {c.stage for c in cards(stage="layer")} == {"layer"}
    assert all(not c.trained for c in cards(trained=False))
    baselines = {c.slug for c in cards(baseline=True)}
    known = {
        "random",
        "pool",
        "fastv",
        "tome",
        "embedded",
        "embedded-mrope",
        "embedded-tiles",
        "dinov2-heads",
    }
    assert baselines == known | {"dinov2-smollm2"}
    assert cards(room="steer", stage="layer") == ()
    assert set(cards(state="open")) | set(cards(state="partly")) | set(cards(state="done")) == set(cards())


@pytest.mark.parametrize("wrong", [{"room": "attic"}, {"stage": "decoder"}, {"state": "finished"}])
def test_a_filter_that_nothing_can_match_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="choose one of"):
        cards(**wrong)
