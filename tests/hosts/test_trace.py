"""What a session tells of each picture: counts per layer, what is kept where, and the drawing of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tokenry.hosts.trace import ItemTrace
from tokenry.tokens import InputError, Reduction, UnsupportedError

SIDE = 40


def _trace(*steps: tuple[int, Reduction], grid: tuple[int, int, int] = (1, 2, 2)) -> ItemTrace:
    return ItemTrace(row=0, index=0, grid=grid, n=int(np.prod(grid)), layers=4, steps=steps)


def _select(*kept: int, of: int) -> Reduction:
    return Reduction.select(torch.tensor([kept]), of)


def _white() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), "white")


def _middles(picture: Image.Image) -> list[bool]:
    """Whether the middle of each quarter is as bright as the picture was."""
    quarter, half = SIDE // 4, SIDE // 2
    return [
        picture.getpixel((quarter + half * x, quarter + half * y)) == (255,) * 3
        for y in (0, 1)
        for x in (0, 1)
    ]


def test_steps_add_up() -> None:
    trace = _trace((0, _select(0, 2, 3, of=4)), (2, _select(1, of=3)))
    assert trace.counts == [3, 3, 1, 1]
    assert trace.cuts == [0, 2]
    assert trace.kept_at(0).tolist() == trace.kept_at(1).tolist() == [True, False, True, True]
    assert trace.kept_at(2).tolist() == [False, False, True, False]


def test_what_is_kept_is_what_the_last_cut_left() -> None:
    """A method that acts inside the decoder keeps everything at the way in; nobody asks for that."""
    trace = _trace((2, _select(0, 3, of=4)), (3, _select(1, of=2)))
    assert trace.kept.tolist() == [False, False, False, True]
    assert _middles(trace.draw(_white())) == [False, False, False, True]
    assert trace.kept_at(1).all()
    assert _trace().kept.all()


def test_layers_that_are_not_there_are_not_drawn() -> None:
    for layer in (-1, 4):
        with pytest.raises(InputError, match=f"Layer {layer} does not exist; .* layers 0 to 3"):
            _trace().draw(_white(), layer=layer)


def test_dropped_tokens_are_dimmed_layer_by_layer() -> None:
    trace = _trace((0, _select(0, 2, 3, of=4)), (2, _select(1, of=3)))
    assert _middles(trace.draw(_white(), layer=0)) == [True, False, True, True]
    assert _middles(trace.draw(_white(), layer=1)) == [True, False, True, True]
    assert _middles(trace.draw(_white(), layer=3)) == [False, False, True, False]


def test_a_merged_area_has_no_line_through_it() -> None:
    trace = _trace((0, Reduction.merge(torch.tensor([[0, 0, 1, 2]]))))
    lines = np.asarray(trace.draw(Image.new("RGB", (SIDE, SIDE), "black"))) == 255
    assert not lines[SIDE // 4, SIDE // 2].any()  # between the two merged tokens
    assert lines[3 * SIDE // 4, SIDE // 2].all()  # between the two that stayed apart


def test_a_frame_of_a_video_is_drawn() -> None:
    trace = _trace((0, _select(0, 1, 2, 3, 4, of=8)), grid=(2, 2, 2))
    assert _middles(trace.draw(_white(), frame=0)) == [True] * 4
    assert _middles(trace.draw(_white(), frame=1)) == [True, False, False, False]
    with pytest.raises(InputError, match="Frame 2"):
        trace.draw(_white(), frame=2)


def test_tokens_without_a_grid_are_not_drawn() -> None:
    with pytest.raises(UnsupportedError, match="no grid"):
        _trace((0, _select(0, of=5)), grid=(1, 1, 5)).draw(_white())
