"""Scenes: deterministic, disjoint splits, and answers that an independent reading of the layout confirms."""

import re

import numpy as np
import pytest

from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import (
    KINDS,
    PLACES,
    TEXTURES,
    Scene,
    patch_class_names,
    patch_classes,
    reserved_words,
    sign_words,
)
from tokenry.data.scenes.style import CELLS, SMALL, STYLES, SceneStyle
from tokenry.data.scenes.textures import FAMILIES
from tokenry.tokens.errors import InputError, TokenryError

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {split: [make_scene(split, index) for index in range(300)] for split in SPLITS}


def test_a_scene_is_a_function_of_its_arguments() -> None:
    first, again = make_scene("test", 7, 3), make_scene("test", 7, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.owner, again.owner)
    assert (first.items, first.sign, first.ask(8)) == (again.items, again.sign, again.ask(8))
    for other in (make_scene("test", 8, 3), make_scene("test", 7, 4), make_scene("val", 7, 3)):
        assert not np.array_equal(first.pixels, other.pixels)


def test_asking_fewer_questions_asks_the_first_ones() -> None:
    scene = make_scene("train", 5)
    assert scene.ask(8)[:3] == scene.ask(3)


def test_splits_share_no_combination_layout_background_word_or_scale(scenes: dict[str, list[Scene]]) -> None:
    def seen(split: str, what: str) -> set[object]:
        values = {
            "combination": lambda s: frozenset(s.counts),
            "layout": lambda s: (frozenset(i.cell for i in s.items), s.sign.cells if s.sign else None),
            "background": lambda s: s.texture,
            "word": lambda s: s.sign.word if s.sign else s.index + 0.5,
        }
        return {value for value in map(values[what], scenes[split]) if not isinstance(value, float)}

    for what in ("combination", "layout", "background", "word"):
        train, val, test = (seen(split, what) for split in SPLITS)
        assert train, what
        assert not train & val, what
        assert not train & test, what
        assert not val & test, what
    for table in (TEXTURES, *(style.sizes for style in STYLES)):
        values = [value for split in SPLITS for value in table[split]]
        assert len(set(values)) == len(values)
    assert {family for split in SPLITS for family in TEXTURES[split]} == set(FAMILIES)


def test_all_objects_and_letters_occur_in_training() -> None:
    met: set[int] = set()
    for index in range(1500):
        met |= set(make_scene("train", index).counts)
    assert met == set(range(len(load_pack().objects)))
    assert set("".join(sign_words("train"))) == set("abcdefghijklmnopqrstuvwxyz")


def test_sign_words_are_spelt_not_known() -> None:
    for split in SPLITS:
        assert len(sign_words(split)) > 1000
        assert not set(sign_words(split)) & reserved_words()


def answer(scene: Scene, question: str) -> str:
    """Answer a question from names and places alone, without the generator's code."""
    pack = load_pack()
    shown = [(pack.objects[item.index], *item.cell) for item in scene.items]
    place = next((p for p in sorted(PLACES, key=len, reverse=True) if f"at the {p}?" in question), None)
    rows, columns = {"top": 0, "bottom": 2}, {"left": 0, "right": 2}
    if place is not None:
        words = place.split()
        row = next((rows[w] for w in words if w in rows), 1)
        column = next((columns[w] for w in words if w in columns), 1)
        [thing] = [o for o, r, c in shown if (r, c) == (row, column)]
        if question.startswith("what is"):
            return thing.name
        return thing.group if "kind" in question else str(thing.colour)
    if "sign" in question:
        assert scene.sign is not None
        return scene.sign.colour if "color" in question else scene.sign.word
    if match := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if any(o.name == match[1] for o, _, _ in shown) else "no"
    if match := re.fullmatch(r"how many times can you see the (.+)\?", question):
        return str(sum(o.name == match[1] for o, _, _ in shown))
    if match := re.fullmatch(r"where is the (.+)\?", question):
        [(r, c)] = [(r, c) for o, r, c in shown if o.name == match[1]]
        vertical, horizontal = ("top", "", "bottom")[r], ("left", "", "right")[c]
        return f"{vertical} {horizontal}".strip() or "center"
    match = re.fullmatch(r"what is (to the left of|to the right of|above|below) the (.+)\?", question)
    assert match, question
    [(r, c)] = [(r, c) for o, r, c in shown if o.name == match[2]]
    dr, dc = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}[
        match[1]
    ]
    [name] = [o.name for o, y, x in shown if (y, x) == (r + dr, c + dc)]
    return name


@pytest.mark.parametrize("split", SPLITS)
def test_answers_follow_from_the_layout(split: str, scenes: dict[str, list[Scene]]) -> None:
    kinds: set[str] = set()
    for scene in scenes[split]:
        for question in scene.ask(8):
            assert question.answer == answer(scene, question.text), (scene, question)
            kinds.add(question.kind)
    assert kinds == set(KINDS)


def test_yes_and_no_balance_and_counts_are_not_all_one(scenes: dict[str, list[Scene]]) -> None:
    asked = [q for split in SPLITS for scene in scenes[split] for q in scene.ask(8)]
    yes = [q.answer == "yes" for q in asked if q.kind == "exists"]
    assert 0.45 < np.mean(yes) < 0.55
    ones = [q.answer == "1" for q in asked if q.kind == "count"]
    assert np.mean(ones) < 0.5


def test_boxes_hold_exactly_the_ink_and_stay_in_their_cells(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"][:100]:
        for number, item in enumerate(scene.items):
            x0, y0, x1, y1 = item.box
            ys, xs = np.nonzero(scene.owner == number + 1)
            assert x0 <= xs.min() <= xs.max() < x1
            assert y0 <= ys.min() <= ys.max() < y1
            row, column = item.cell
            assert 32 * column <= x0 < x1 <= 32 * column + 32
            assert 32 * row <= y0 < y1 <= 32 * row + 32


def test_regions_are_where_the_answer_is(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["test"][:100]:
        for question in scene.ask(8):
            assert question.regions
            assert set(question.regions) <= set(scene.boxes)
            if question.kind in ("place", "where", "group"):
                assert len(question.regions) == 1
            if question.kind == "relation":
                assert len(question.regions) == 2
            if question.kind == "sign":
                assert scene.sign is not None
                assert question.regions == (scene.sign.box,)
            if question.kind == "count":
                assert len(question.regions) == int(question.answer)


def test_patch_mask_marks_the_objects_and_most_of_a_scene_is_background(
    scenes: dict[str, list[Scene]],
) -> None:
    shares = []
    for scene in scenes["test"][:100]:
        mask = scene.patch_mask((12, 12))
        ink = (scene.owner > 0).reshape(12, 8, 12, 8).sum((1, 3))
        assert np.array_equal(mask, ink >= 0.2 * 64)
        assert np.array_equal(patch_classes(scene) > 0, mask & (patch_classes(scene) > 0))
        shares.append(mask.mean())
    assert 0.15 <= np.mean(shares) <= 0.25
    with pytest.raises(TokenryError, match="cannot be cut"):
        scene.patch_mask((7, 7))


def test_patch_classes_name_what_is_shown(scenes: dict[str, list[Scene]]) -> None:
    names = patch_class_names()
    pack = load_pack()
    for scene in scenes["train"][:100]:
        found = {names[i] for i in np.unique(patch_classes(scene))} - {"background", "sign"}
        expected = {pack.objects[i].name for i in scene.counts}
        expected |= {f"letter {letter}" for letter in (scene.sign.word if scene.sign else "")}
        assert found <= expected
        assert {pack.objects[i].name for i in scene.counts} <= found


@pytest.mark.parametrize("arguments", [("dev", 0, 0), ("test", -1, 0), ("test", 0, -2)])
def test_bad_arguments_are_refused(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(TokenryError):
        make_scene(*arguments)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_style_draws_everything_inside_the_picture(style: SceneStyle) -> None:
    signs = 0
    for index in range(120):
        scene = make_scene("train", index, style=style)
        assert scene.pixels.shape == (style.side, style.side, 3)
        assert scene.owner.shape == (style.side, style.side)
        for x0, y0, x1, y1 in scene.boxes:
            assert 0 <= x0 < x1 <= style.side
            assert 0 <= y0 < y1 <= style.side
        for item in scene.items:
            x0, y0, x1, y1 = item.box
            row, column = item.cell
            reach = style.reach
            assert row * style.cell - reach <= y0 < y1 <= (row + 1) * style.cell + reach
            assert column * style.cell - reach <= x0 < x1 <= (column + 1) * style.cell + reach
            assert row * style.cell <= (y0 + y1) / 2 <= (row + 1) * style.cell
            assert column * style.cell <= (x0 + x1) / 2 <= (column + 1) * style.cell
        signs += scene.sign is not None
    assert abs(signs / 120 - style.signs) < 0.15


def test_a_style_whose_things_do_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=rf"cells of {90 // CELLS} pixels: objects of 40 "):
        SceneStyle("tight", 90, {"train": (12, 40), "val": (11,), "test": (13,)}, letter=(6, 8))
    with pytest.raises(InputError, match="letters of 17 x 9 do not fit"):
        SceneStyle("wide", 96, SMALL.sizes, letter=(17, 9))
