"""Finite scalar quantization: the values of the specification, and every code there and back."""

from __future__ import annotations

import pytest
import torch

from tokenry.codecs.quantize import FiniteScalarQuantizer
from tokenry.tokens import InputError

FLEXTOK = (8, 8, 8, 5, 5, 5)


@pytest.mark.parametrize(
    ("z", "id_", "code"),
    [
        ([0.0] * 6, 32036, [0.0] * 6),
        ([-10.0] * 6, 0, [-1.0] * 6),
        ([10.0] * 6, 63999, [0.75, 0.75, 0.75, 1.0, 1.0, 1.0]),
        ([0.5, -0.5, 1.0, 0.5, -0.5, 1.0], 55701, [0.25, -0.5, 0.5, 0.5, -0.5, 1.0]),
    ],
)
def test_values_of_the_specification(z: list[float], id_: int, code: list[float]) -> None:
    made = FiniteScalarQuantizer(FLEXTOK)(torch.tensor([[z]]))
    assert made.ids.item() == id_
    assert made.values[0, 0].tolist() == code
    assert not made.losses


def test_the_first_number_counts_fastest() -> None:
    quantizer = FiniteScalarQuantizer((3, 4))
    made = quantizer(torch.tensor([[[0.3, -1.0]]]))
    assert made.ids.item() == 4
    assert made.values[0, 0].tolist() == [0.0, -0.5]
    assert quantizer.digits(torch.tensor([[[0], [1], [3], [11]]]))[0].tolist() == [
        [0, 0],
        [1, 0],
        [0, 1],
        [2, 3],
    ]


@pytest.mark.parametrize("levels", [FLEXTOK, (2,), (3, 4), (2, 2, 2, 2), (7, 6, 16)])
def test_every_code_there_and_back(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    ids = torch.arange(quantizer.sizes[0])[None, :, None]
    assert quantizer.nearest(quantizer.decode(ids)).equal(ids)
    codebook = quantizer.codebook()
    assert codebook is not None
    assert len(codebook.unique(dim=0)) == quantizer.sizes[0]
    far = torch.cartesian_prod(*[torch.tensor([-100.0, 100.0])] * len(levels)).view(1, -1, len(levels))
    ends = torch.where(far > 0, torch.tensor(levels) - 1, 0)
    assert quantizer.digits(quantizer.encode(far)).equal(ends)


def test_levels_of_an_id_beyond_any_list() -> None:
    quantizer = FiniteScalarQuantizer((16,) * 15)
    z = torch.randn(1, 50, 15, generator=torch.Generator().manual_seed(0))
    assert quantizer.codebook() is None
    assert quantizer.nearest(quantizer.decode(quantizer.encode(z))).equal(quantizer.encode(z))


def test_levels_that_are_none_are_refused() -> None:
    for wrong in ((), (8, 1), (16,) * 16):
        with pytest.raises(InputError, match="Levels are 2 or more"):
            FiniteScalarQuantizer(wrong)
