"""The autoregressive generator: codebooks of places, exact losses, guidance, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.laws.generators.members import MEMBERS
from tokenry.predict import AutoregressiveConfig, AutoregressiveGenerator
from tokenry.predict.image.base import draw, guided
from tokenry.tokens import Codes, InputError, Latents

MEMBER = MEMBERS["autoregressive"]


def lots(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_and_codes() -> tuple[Any, Codes]:
    codes = MEMBER.codes()
    return MEMBER.build(codes), codes


def test_a_network_that_knows_nothing_pays_the_bits_of_its_codebooks() -> None:
    model, codes = model_and_codes()
    model.head.weight.data.zero_()
    loss, figures = model.loss(codes, MEMBER.condition, generator=lots())
    assert float(figures["bits_per_token"]) == pytest.approx(math.log2(7 * 5))  # 7 and 5 codes, and no others
    assert float(loss) == pytest.approx(math.log(35) / 2)


def test_padding_is_nothing_to_learn() -> None:
    model, codes = model_and_codes()
    model.config.unconditional = 0.0
    ragged = Codes(codes.prefix([6, 4]).ids, torch.tensor([6, 4]), codes.sizes, codes.grid, None, codes.codec)
    loss = model.loss(ragged, MEMBER.condition, generator=lots())[0]
    first = model.loss(codes, MEMBER.condition, generator=lots())[0]
    halves = [
        model.loss(
            Codes(c.ids[i : i + 1], c.length[i : i + 1], c.sizes, None, None, c.codec), y, generator=lots()
        )[0]
        for i, c, y in ((0, codes, MEMBER.condition[:1]), (1, codes.prefix(4), MEMBER.condition[1:]))
    ]
    torch.testing.assert_close(loss, (6 * halves[0] + 4 * halves[1]) / 10)
    assert loss != first


def test_the_first_tokens_are_those_of_the_whole() -> None:
    model, _ = model_and_codes()
    whole = model.generate(MEMBER.condition, generator=lots())
    part = model.generate(MEMBER.condition, steps=2, generator=lots())
    assert part.length.tolist() == [2, 2]
    assert part.ids.equal(whole.ids[:, :2])


def test_writing_with_a_cache_is_reading_without() -> None:
    model, _ = model_and_codes()
    made = model.generate(MEMBER.condition, temperature=0, generator=lots())
    flat = made.flat()
    start = MEMBER.condition + model.codes
    with torch.no_grad():
        hidden = model.backbone(torch.cat([start[:, None], flat[:, :-1]], 1)).last_hidden_state
    assert model._logits(hidden, 0).argmax(-1).equal(flat)


def test_guidance_and_lots_by_hand() -> None:
    c, u = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert [guided(c, u, w).tolist() for w in (0.0, 1.0, 3.0)] == [[0.0, 2.0], [1.0, 0.0], [3.0, -4.0]]
    assert draw(torch.tensor([[0.0, 1.0, 0.5]]), 0, lots()).tolist() == [1]
    rows = torch.tensor([0.0, 1.0, -torch.inf]).expand(20_000, 3)
    for temperature in (1.0, 0.5):
        share = (draw(rows, temperature, lots()) == 1).float().mean()
        assert float(share) == pytest.approx(1 / (1 + math.exp(-1 / temperature)), abs=0.01)
    assert not (draw(rows, 1.0, lots()) == 2).any()


def test_without_a_condition_it_learns_to_write_anything() -> None:
    model, codes = model_and_codes()
    model.config.unconditional = 1.0
    told = model.loss(codes, MEMBER.condition, generator=lots())[0]
    assert told.equal(model.loss(codes, None, generator=lots())[0])


def test_wrong_conditions_and_codes_are_refused() -> None:
    model, codes = model_and_codes()
    for wrong, message in (
        (torch.tensor([0, 3]), r"Classes are 0 to 2; got \[0, 3\]"),
        (torch.tensor([0]), "number of a class for each of 2 pictures"),
        (torch.tensor([0.0, 1.0]), "got torch.float32"),
    ):
        with pytest.raises(InputError, match=message):
            model.loss(codes, wrong, generator=lots())
    latents = Latents(torch.zeros(2, 6, 3), codes.length, None, codes.codec)
    with pytest.raises(InputError, match=r"writes codes of sizes \(7, 5\)"):
        model.loss(latents, MEMBER.condition, generator=lots())
    with pytest.raises(InputError, match="1 to 6 tokens"):
        model.generate(MEMBER.condition, steps=7, generator=lots())


def test_its_layout_is_read_from_codes() -> None:
    config = AutoregressiveConfig.of(MEMBER.codes(), classes=4)
    assert (config.codec, config.sizes, config.tokens, config.grid, config.classes) == (
        "made-up",
        (7, 5),
        6,
        [1, 2, 3],
        4,
    )
    assert AutoregressiveGenerator(config).backbone.config.vocab_size == 7 + 5 + 4 + 1
