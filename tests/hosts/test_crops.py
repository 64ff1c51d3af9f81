"""One item is one picture with its crops, in every family that cuts pictures into tiles, laid out as processors do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import BOS, FAMILIES, IMAGE, Inputs, pixels, prompts, text
from tests.hosts.zoo import features_of, known, specimen
from tokenry.hosts.host import Host
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.tokens import InputError, Reduction, TokenView

START, END, NEWLINE, GRID, COL, ROW, WHOLE = 120, 121, 122, 123, 124, 125, 126
FAKE = START
MARKS = 100
"""The marks of tiles 0, 1, 2 ... are 100, 101, 102 ..."""


@functools.cache
def built(model_type: str) -> PreTrainedModel:
    return specimen(model_type).build("eager" if model_type == "got_ocr2" else "sdpa")


def tile(n: int) -> list[int]:
    return [IMAGE] * n


def together(n: int, tiles: int) -> list[int]:
    """InternVL, Qianfan, GOT: nothing between the tiles."""
    return [START, *tile(n * tiles), END]


def aya(n: int, tiles: int) -> list[int]:
    marked = [t for i in range(tiles - 1) for t in (MARKS + i, *tile(n))]
    return [START, *marked, WHOLE, *tile(n), END]


def cohere2(n: int, tiles: int) -> list[int]:
    return [START, *([*tile(n), NEWLINE] * tiles), END]


def ovis2(n: int, tiles: int) -> list[int]:
    """The whole picture, then a grid of one row."""
    crops = [t for i in range(tiles - 1) for t in ([COL] * (i > 0) + tile(n))]
    return [START, *tile(n), GRID, *crops, END]


def lfm2(n: int, tiles: int) -> list[int]:
    marked = [t for i in range(tiles - 1) for t in (MARKS + i, *tile(n))]
    return [START, *marked, *([WHOLE] if tiles > 1 else []), *tile(n), END]


def idefics(n: int, tiles: int) -> list[int]:
    """Rows of two crops, each ended by a line break; the whole picture last."""
    crops = []
    for i in range(tiles - 1):
        crops += [FAKE, MARKS + i, *tile(n)] + [NEWLINE] * (i % 2)
    return [*crops, *([NEWLINE] if crops else []), FAKE, WHOLE, *tile(n), FAKE]


def minicpm(n: int, tiles: int) -> list[int]:
    slices = [t for i in range(tiles - 1) for t in ([NEWLINE] * (i % 2) + [COL, *tile(n), ROW])]
    return [START, *tile(n), END, *slices]


def flat(size: int) -> Callable[[Sequence[Sequence[int]]], Inputs]:
    def made(rows: Sequence[Sequence[int]]) -> Inputs:
        return {"pixel_values": pixels(sum(map(sum, rows)), 3, size, size)}

    return made


def by_row(size: int) -> Callable[[Sequence[Sequence[int]]], Inputs]:
    """Tiles of a row, all its pictures together, filled up with black ones."""

    def made(rows: Sequence[Sequence[int]]) -> Inputs:
        values = pixels(len(rows), max(map(sum, rows)), 3, size, size)
        for row, pictures in enumerate(rows):
            values[row, sum(pictures) :] = 0
        return {"pixel_values": values}

    return made


def docling(rows: Sequence[Sequence[int]]) -> Inputs:
    inputs = by_row(64)(rows)
    real = [[i < sum(row) for i in range(max(map(sum, rows)))] for row in rows]
    return inputs | {"pixel_attention_mask": torch.tensor(real)}


def siglip2(rows: Sequence[Sequence[int]]) -> Inputs:
    n = sum(map(sum, rows))
    return {
        "pixel_values": pixels(n, 64, 768),
        "spatial_shapes": torch.tensor([[8, 8]] * n),
        "pixel_attention_mask": torch.ones(n, 64, dtype=torch.long),
    }


def sliced(rows: Sequence[Sequence[int]]) -> Inputs:
    n = sum(map(sum, rows))
    return {"pixel_values": pixels(1, 3, 16, 16 * 64 * n), "target_sizes": torch.tensor([[8, 8]] * n)}


Layout = tuple[Callable[[int, int], list[int]], Callable[[Sequence[Sequence[int]]], Inputs]]
LAYOUTS: dict[str, Layout] = {
    "internvl": (together, flat(64)),
    "qianfan_ocr": (together, flat(64)),
    "got_ocr2": (together, flat(64)),
    "aya_vision": (aya, flat(64)),
    "cohere2_vision": (cohere2, flat(64)),
    "ovis2": (ovis2, flat(64)),
    "lfm2_vl": (lfm2, siglip2),
    "smolvlm": (idefics, by_row(48)),
    "idefics3": (idefics, by_row(48)),
    "granite_docling": (idefics, docling),
    "minicpmv4_6": (minicpm, sliced),
}
WHOLE_FIRST = {"ovis2", "minicpmv4_6"}
ROWS = [[3, 1], [1, 4], [5]]
"""Tiles of each picture of each row. Pictures stand next to each other, with no text between."""


def inputs_of(model_type: str, rows: Sequence[Sequence[int]] = ROWS, between: int = 0) -> Inputs:
    write, make = LAYOUTS[model_type]
    model, values = built(model_type), make(rows)
    with torch.no_grad():
        features = features_of(model)(**values, return_dict=True).pooler_output  # type: ignore[misc]
    n = sum(f.shape[:-1].numel() for f in features) // sum(map(sum, rows))
    lines = []
    for i, row in enumerate(rows):
        blocks = [t for tiles in row for t in (*write(n, tiles), *text(between, tiles))]
        lines.append([BOS, text(4 + i, i), blocks, text(6, 9)])
    return prompts(*lines) | values


class _Seen(Reducer):
    """Keeps everything and remembers what it was shown."""

    slug = "seen"

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        views.append(view)
        return Reduction.identity(view.length, view.features.shape[1])


views: list[TokenView] = []


def shown(model_type: str, **options: Any) -> TokenView:
    inputs = inputs_of(model_type, **options)
    with torch.no_grad(), tk.reduced(built(model_type), _Seen(budget=1.0)):
        built(model_type)(**inputs)
    return views.pop()


@pytest.mark.parametrize("between", [0, 1, 7])
@pytest.mark.parametrize("model_type", known(*LAYOUTS))
def test_an_item_is_a_picture_with_its_crops(model_type: str, between: int) -> None:
    view = shown(model_type, between=between)
    tiles = [n for row in ROWS for n in row]
    assert view.row.tolist() == [0, 0, 1, 1, 2]
    per_tile = int(view.length.sum()) // sum(tiles)
    assert view.length.tolist() == [n * per_tile for n in tiles]
    for item, n in enumerate(tiles):
        numbers = list(range(n)) if model_type in WHOLE_FIRST else [*range(1, n), 0]
        seen = view.tile[item, : int(view.length[item])]
        assert seen.tolist() == [t for t in numbers for _ in range(per_tile)]
        assert view.source[item, : n * per_tile].tolist() == list(range(n * per_tile))
        t, h, w = view.grid[item].tolist()
        assert t * h * w == n * per_tile
        assert t in (n, 1)


@pytest.mark.parametrize("model_type", known(*LAYOUTS))
def test_a_budget_is_for_a_picture_with_its_crops(model_type: str) -> None:
    model, inputs = built(model_type), inputs_of(model_type)
    with torch.no_grad(), tk.reduced(model, "random", budget=5) as run:
        model(**inputs)
    assert [int(item.kept.sum()) for item in run.trace] == [min(5, item.n) for item in run.trace]
    assert len(run.trace) == 5


@pytest.mark.parametrize("model_type", ["internvl", "smolvlm", "aya_vision", "minicpmv4_6"])
def test_a_picture_of_several_tiles_runs_exactly(model_type: str) -> None:
    model, inputs = built(model_type), inputs_of(model_type, [[3, 2], [2]])
    with torch.no_grad():
        scale = float(model(**inputs).logits.abs().max())
        gap = oracle_gap(Host.of(model), inputs, tk.reducer("pool", budget=0.4), 3)
    assert gap <= 2e-5 * scale


def test_what_a_picture_keeps_does_not_depend_on_its_batch() -> None:
    """Tiles of one row are no part of another's, and seeds are those of a picture's own pixels."""
    for model_type in ("internvl", "smolvlm"):
        alone, both = shown(model_type, rows=[[3, 1]]), shown(model_type, rows=[[3, 1], [1, 4]])
        assert alone.key.tolist() == both.key[:2].tolist()
        assert len(set(both.key.tolist())) == 4


def test_a_total_is_for_all_pictures_of_a_prompt() -> None:
    model, inputs = built("internvl"), inputs_of("internvl", [[3, 1], [2]])
    with torch.no_grad(), tk.reduced(model, "random", budget=tk.Budget.total(16)) as run:
        model(**inputs)
    assert [(item.n, int(item.kept.sum())) for item in run.trace] == [(48, 12), (16, 4), (32, 16)]


@pytest.mark.parametrize("method", ["random", "fastv", "pyramiddrop", "aim"])
def test_each_picture_can_have_its_own_budget(method: str) -> None:
    model, inputs = built("internvl"), inputs_of("internvl", [[3, 1], [2, 2]])
    with torch.no_grad(), tk.reduced(model, method, budget=[0.25, 8]) as run:
        model(**inputs)
    first, last = ([item.counts[at] for item in run.trace] for at in (0, -1))
    # AIM's budget is what merging leaves; its pruning goes on from there.
    assert (first if method == "aim" else last) == [12, 8, 8, 8]


def test_beams_share_their_pictures() -> None:
    model, inputs = built("internvl"), inputs_of("internvl", [[3, 1], [2]])
    with tk.reduced(model, "random", budget=4) as run:
        model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False, pad_token_id=0)
    assert [item.row for item in run.trace] == [0, 0, 1, 1, 2, 3]
    assert {int(item.kept.sum()) for item in run.trace} == {4}


def test_two_pictures_side_by_side_stay_two_where_nothing_is_cut() -> None:
    family = FAMILIES["llava"]
    model: Any = family.build()
    inputs = prompts([BOS, text(4, 1), tile(36), tile(36), text(5, 2)]) | {
        "pixel_values": pixels(2, 3, 48, 48)
    }
    with torch.no_grad(), tk.reduced(model, "random", budget=5) as run:
        model(**inputs)
    assert [int(item.kept.sum()) for item in run.trace] == [5, 5]


def test_pictures_whose_marks_say_nothing_of_crops_stay_single() -> None:
    """Idefics2 writes quarters as it writes pictures: nothing is guessed."""
    model: Any = built("idefics2")
    values = pixels(2, 2, 3, 64, 64)
    values[1, 1] = 0
    with torch.no_grad():
        n = sum(map(len, features_of(model)(values, return_dict=True).pooler_output)) // 3  # type: ignore[misc]
    two, one = [FAKE, *tile(n), FAKE, *tile(n), FAKE], [FAKE, *tile(n), FAKE]
    inputs = prompts([BOS, text(4, 1), two, text(5, 2)], [BOS, text(3, 1), one, text(5, 3)])
    with torch.no_grad(), tk.reduced(model, "random", budget=2) as run:
        model(**inputs, pixel_values=values)
    assert [(item.row, int(item.kept.sum())) for item in run.trace] == [(0, 2), (0, 2), (1, 2)]


def test_crops_that_the_prompt_does_not_tell_can_be_said() -> None:
    """Crops of Gemma3's pan-and-scan stand in the prompt as pictures of their own do."""
    family = FAMILIES["gemma3"]
    model: Any = family.build()
    inputs = family.batch(model, "two")
    with torch.no_grad(), tk.reduced(model, "random", budget=5) as run:
        model(**inputs)
    assert [item.n for item in run.trace] == [16, 16]
    with torch.no_grad(), tk.reduced(model, "random", budget=5, crops=[2]) as run:
        model(**inputs)
    assert [(item.n, int(item.kept.sum())) for item in run.trace] == [(32, 5)]
    refused = pytest.raises(InputError, match=r"`crops` says \[3\].*delivered 2")
    with refused, torch.no_grad(), tk.reduced(model, "random", budget=5, crops=[3]):
        model(**inputs)
