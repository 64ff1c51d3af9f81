"""Laws of every generator of tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws.generators.members import MEMBERS, Member
from tokenry.predict import TokenGenerator
from tokenry.tokens import Codes, InputError, Latents

pytestmark = pytest.mark.parametrize("name", MEMBERS)


def lots(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens_of(codes: Codes | Latents) -> Tensor:
    return codes.ids if isinstance(codes, Codes) else codes.values


def build(name: str) -> tuple[TokenGenerator, Member, Codes]:
    member = MEMBERS[name]
    codes = member.codes()
    return member.build(codes), member, codes


def write(model: TokenGenerator, condition: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    return tokens_of(model.generate(condition, generator=lots(seed), **settings))


def test_the_same_generator_writes_the_same_codes_and_nothing_else_is_drawn(name: str) -> None:
    model, member, codes = build(name)
    before = torch.get_rng_state()
    first, second, other = (write(model, member.condition, seed) for seed in (0, 0, 1))
    losses = [model.loss(codes, member.condition, generator=lots(0))[0] for _ in range(2)]
    assert first.equal(second)
    assert not first.equal(other)
    assert losses[0].equal(losses[1])
    assert torch.get_rng_state().equal(before)


def test_what_it_writes_is_laid_out_as_what_it_learned(name: str) -> None:
    model, member, codes = build(name)
    made = model.generate(member.condition, generator=lots(0))
    assert type(made) is type(codes)
    assert made.codec == codes.codec
    assert tokens_of(made).shape == tokens_of(codes).shape
    assert (made.grid is None) == (codes.grid is None)
    assert made.grid is None or made.grid.equal(codes.grid)
    if isinstance(made, Codes):
        assert (made.sizes, made.scales) == (codes.sizes, codes.scales)


def test_it_learns_two_pictures_by_heart_in_seconds(name: str) -> None:
    model, member, codes = build(name)
    optimiser, generator = torch.optim.AdamW(model.parameters(), lr=1e-2), lots(0)
    losses = []
    for _ in range(80):
        loss, figures = model.loss(codes, member.condition, generator=generator)
        assert all(figure.ndim == 0 and not figure.requires_grad for figure in figures.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert write(model, member.condition, temperature=0).equal(tokens_of(codes))


def test_guidance_of_1_is_none_and_more_is_some(name: str) -> None:
    model, member, _ = build(name)
    plain, near, strong = (
        write(model, member.condition, guidance=weight) for weight in (1.0, 1.0 + 1e-7, 200.0)
    )
    assert near.equal(plain)
    assert not strong.equal(plain)


def test_a_row_does_not_see_the_other_rows(name: str) -> None:
    model, member, _ = build(name)
    together = write(model, member.condition)
    same = write(model, member.condition[:1].expand(2))
    assert same[0].equal(together[0])
    assert not same[1].equal(together[1])


def test_the_order_of_rows_is_nothing_that_it_learns_from(name: str) -> None:
    model, member, codes = build(name)
    model.config.unconditional = 0.0
    turned = replace(codes, ids=codes.ids.flip(0))
    loss, other = (
        model.loss(c, y, generator=lots(0))[0]
        for c, y in ((codes, member.condition), (turned, member.condition.flip(0)))
    )
    torch.testing.assert_close(loss, other)


def test_codes_of_another_codec_and_impossible_wishes_are_refused(name: str) -> None:
    model, member, codes = build(name)
    with pytest.raises(InputError, match="are of codec 'other', not of 'made-up'"):
        model.loss(replace(codes, codec="other"), member.condition, generator=lots(0))
    for wish in ({"steps": 0}, {"temperature": -1.0}):
        with pytest.raises(InputError):
            write(model, member.condition, **wish)


def test_it_is_the_same_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    model, member, codes = build(name)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    assert model.config.model_type.startswith("tokenry-")
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert write(loaded, member.condition).equal(write(model, member.condition))
    losses = [m.loss(codes, member.condition, generator=lots(0))[0] for m in (model, loaded)]
    assert losses[0].equal(losses[1])
