"""Codes and latents: exact examples, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tokenry.tokens import InputError
from tokenry.tokens.codes import Codes, Latents

IDS = torch.tensor([[[1, 0], [2, 3]], [[0, 1], [-1, -1]]])


def codes(**changes: Any) -> Codes:
    usual = dict(ids=IDS, length=torch.tensor([2, 1]), sizes=(3, 4), grid=None, scales=None, codec="a")
    return Codes(**usual | changes)


def test_flat_gives_each_group_ids_of_its_own() -> None:
    assert codes().flat(10).tolist() == [[11, 13, 12, 16], [10, 14, -1, -1]]
    assert codes().flat().tolist() == [[1, 3, 2, 6], [0, 4, -1, -1]]


def test_bits_of_256_tokens_of_4096_codes_are_3072() -> None:
    plain = Codes(torch.zeros(1, 256, 1, dtype=torch.long), torch.tensor([256]), (4096,), None, None, "a")
    assert plain.bits().tolist() == [3072.0]  # One-D-Piece's 384 bytes
    assert plain.prefix(32).bits().tolist() == [384.0]
    assert codes().bits().tolist() == pytest.approx([2 * math.log2(12), math.log2(12)])


def test_scales_end_where_their_tokens_do() -> None:
    scales = tuple((1, side, side) for side in (1, 2, 4, 6, 8, 10, 12, 14))
    ids = torch.zeros(1, 561, 1, dtype=torch.long)
    many = Codes(ids, torch.tensor([561]), (32768,), torch.tensor([[1, 14, 14]]), scales, "a")
    assert many.ends == (1, 5, 21, 57, 121, 221, 365, 561)  # TokenFlow's 561 tokens
    assert many.prefix(many.ends[2]).length.tolist() == [21]


def test_a_prefix_may_differ_by_item_and_never_lengthens() -> None:
    short = codes().prefix([1, 5])
    assert short.length.tolist() == [1, 1]
    assert short.ids.tolist() == [[[1, 0]], [[0, 1]]]
    assert codes().prefix(0).ids.shape == (2, 0, 2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an id beyond its codebook": ({"sizes": (2, 4)}, r"0\.\.size-1 \(sizes \(2, 4\)\)"),
    "padding that is none": ({"length": torch.tensor([1, 1])}, "-1 behind an item's length"),
    "an item with holes": ({"length": torch.tensor([2, 2])}, "Codes lie in"),
    "lengths beyond the row": ({"length": torch.tensor([3, 1])}, r"Lengths lie in 0\.\.2"),
    "a codebook too few": ({"sizes": (3,)}, "one codebook for each of 2 groups"),
    "an empty codebook": ({"sizes": (3, 0)}, "1 entry or more"),
    "floats": ({"ids": IDS.float()}, "whole numbers"),
    "a grid for one item": ({"grid": torch.tensor([[1, 1, 2]])}, r"\(t, h, w\) for each of 2 items"),
    "a grid that is too small": ({"grid": torch.tensor([[1, 1, 1], [1, 1, 1]])}, "more than their grids"),
    "scales that are too few": ({"scales": ((1, 1, 1),)}, "more than their grids or scales have places: 1"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", WRONG)
def test_what_are_no_codes_is_refused(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        codes(**changes)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_prefix_is_refused() -> None:
    for wrong in (-1, [1], [1, -1], 0.5):
        with pytest.raises(InputError, match="A prefix is a number of tokens"):
            codes().prefix(wrong)  # type: ignore[arg-type]


def test_ids_that_end_within_a_token_or_lie_in_another_group_are_refused() -> None:
    for wrong in ([[0, 3, 1]], [[0, 3, 1, -1]]):
        with pytest.raises(InputError, match="do not divide into tokens of 2 groups"):
            Codes.of_flat(torch.tensor(wrong), (3, 4), "a")
    with pytest.raises(InputError, match="Codes lie in"):
        Codes.of_flat(torch.tensor([[3, 0]]), (3, 4), "a")


def test_another_codec_is_refused() -> None:
    codes().require("a")
    with pytest.raises(InputError, match="These codes are of codec 'a', not of 'b'"):
        codes().require("b")
    with pytest.raises(InputError, match="These latents are of codec 'a', not of 'b'"):
        Latents(torch.zeros(1, 1, 2), torch.tensor([1]), None, "a").require("b")


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="cannot be read as codes"):
        Codes.from_safetensors(file)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="holds tensors of another program, not codes"):
        Codes.from_safetensors(file)
    Latents(torch.zeros(1, 1, 2), torch.tensor([1]), torch.tensor([[1, 1, 1]]), "a").to_safetensors(file)
    with pytest.raises(InputError, match="holds latents, not codes"):
        Codes.from_safetensors(file)
    assert Latents.from_safetensors(file).values.shape == (1, 1, 2)
