"""Laws of every quantizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from tests.laws.quantizers.members import MEMBERS
from tests.laws.strategies import Batch, laws, noise, reduced_batches
from tokenry.codecs.quantize import Quantized, Quantizer

pytestmark = pytest.mark.parametrize("name", MEMBERS)
batches = reduced_batches(torch.float32).map(lambda pair: pair[0])
"""Ragged batches of vectors of three numbers whose padding is NaN."""


def mask_of(batch: Batch) -> Tensor:
    return torch.arange(batch.x.shape[1]) < batch.length[:, None]


@laws
@given(batch=batches)
def test_values_are_what_ids_decode_to(name: str, batch: Batch) -> None:
    quantizer, mask = MEMBERS[name](), mask_of(batch)
    made = quantizer(batch.x, mask)
    assert made.values.equal(quantizer.decode(made.ids))
    assert made.ids.equal(quantizer.encode(batch.x, mask))
    assert made.ids.shape[2] == len(quantizer.sizes)
    assert bool((made.ids[mask] >= 0).all() and (made.ids[mask] < torch.tensor(quantizer.sizes)).all())
    assert bool((made.ids[~mask] == -1).all() and (made.values[~mask] == 0).all())
    codebook = quantizer.codebook()
    if codebook is not None:
        assert made.values[mask].equal(codebook[made.ids[mask][:, 0]])


@laws
@given(batch=batches)
def test_a_code_is_nearest_to_itself(name: str, batch: Batch) -> None:
    quantizer = MEMBERS[name]()
    ids = quantizer.encode(batch.x.nan_to_num())
    assert quantizer.nearest(quantizer.decode(ids)).equal(ids)


def parts(quantizer: Quantizer, x: Tensor, mask: Tensor | None) -> tuple[Quantized, Tensor, list[Tensor]]:
    """What comes out, and the gradients of inputs and weights."""
    x = x.clone().requires_grad_()
    made = quantizer(x, mask)
    quantizer.zero_grad()
    (made.values.square().sum() + sum(made.losses.values())).backward()
    assert x.grad is not None
    return made, x.grad, [p.grad.clone() for p in quantizer.parameters() if p.grad is not None]


@laws
@given(batch=batches)
def test_padding_touches_nothing(name: str, batch: Batch) -> None:
    quantizer, mask = MEMBERS[name](), mask_of(batch)
    made, grad, weights = parts(quantizer, batch.x, mask)
    bare, bare_grad, bare_weights = parts(quantizer, batch.x[mask][None], None)
    assert made.values[mask].equal(bare.values[0])
    assert bool((grad[~mask] == 0).all())
    torch.testing.assert_close(grad[mask], bare_grad[0])
    torch.testing.assert_close(weights, bare_weights)
    torch.testing.assert_close((made.losses, made.stats), (bare.losses, bare.stats))


def test_the_gradient_goes_straight_through(name: str) -> None:
    quantizer, towards = MEMBERS[name](), noise(2, 50, 3, seed=2)
    z, same = (noise(2, 50, 3, seed=1).requires_grad_() for _ in range(2))
    (quantizer(z).values * towards).sum().backward()
    (quantizer.project(same) * towards).sum().backward()
    torch.testing.assert_close(z.grad, same.grad, rtol=0, atol=0)


def test_half_precision_and_autocast_choose_the_codes_of_float32(name: str) -> None:
    quantizer, z = MEMBERS[name](), noise(4, 500, 3, seed=0, dtype=torch.bfloat16)
    ids = quantizer(z.float()).ids
    assert quantizer(z).ids.equal(ids)
    assert quantizer(z).values.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert quantizer(z.float()).ids.equal(ids)
        assert quantizer.encode(z).equal(ids)


def test_a_row_does_not_see_the_other_rows(name: str) -> None:
    quantizer, z = MEMBERS[name](), noise(5, 20, 3, seed=3)
    alone = torch.cat([quantizer.encode(z[i : i + 1]) for i in range(len(z))])
    assert quantizer.encode(z).equal(alone)


def test_a_forward_pass_draws_no_lots_and_changes_nothing(name: str) -> None:
    quantizer = MEMBERS[name]().train()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    lots = torch.get_rng_state()
    quantizer(noise(2, 10, 3, seed=0))
    assert torch.get_rng_state().equal(lots)
    assert all(value.equal(before[key]) for key, value in quantizer.state_dict().items())


def test_statistics_are_those_of_the_codes(name: str) -> None:
    quantizer = MEMBERS[name]()
    one = quantizer(noise(1, 1, 3, seed=0).expand(2, 9, 3)).stats
    assert one["usage"] == pytest.approx(1 / quantizer.sizes[0])
    assert one["perplexity"] == pytest.approx(1)
    many = quantizer(3 * noise(4, 2000, 3, seed=0)).stats
    assert many["usage"] > 0.9
    assert 1 < many["perplexity"] <= quantizer.sizes[0]
