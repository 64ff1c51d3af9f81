"""Laws of every codec."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.laws.codecs.members import MEMBERS, which
from tokenry.codecs import Codec
from tokenry.tokens import Codes, InputError, Latents, UnsupportedError

every = pytest.mark.parametrize("name", MEMBERS)


def build(name: str, n: int = 4) -> tuple[Codec, Tensor]:
    member = MEMBERS[name]
    return member.build(), member.signals(n, 0)


def tokens_of(codes: Codes | Latents) -> Tensor:
    return codes.ids if isinstance(codes, Codes) else codes.values


@torch.no_grad()
def decode(codec: Codec, codes: Codes | Latents) -> Tensor:
    return codec.decode(codes, generator=torch.Generator().manual_seed(0))


@every
def test_signals_come_back_in_their_shape_and_nearly_as_they_were(name: str) -> None:
    codec, x = build(name)
    back = decode(codec, codec.encode(x))
    assert back.shape == x.shape
    codec.output.check(back)
    assert (back - x).square().mean() < 0.5 * x.var()


@every
def test_a_row_does_not_see_the_other_rows(name: str) -> None:
    codec, x = build(name)
    together = codec.encode(x)
    alone = [codec.encode(x[i : i + 1]) for i in range(len(x))]
    assert tokens_of(together).equal(torch.cat([tokens_of(one) for one in alone]))
    apart = torch.cat([decode(codec, one) for one in alone])
    torch.testing.assert_close(apart, decode(codec, together), rtol=1e-5, atol=1e-5)


@every
def test_it_is_the_same_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    codec, x = build(name)
    codec.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    assert codec.config.model_type.startswith("tokenry-")
    loaded = type(codec).from_pretrained(tmp_path).eval()
    codes = codec.encode(x)
    assert loaded.fingerprint() == codec.fingerprint()
    assert tokens_of(loaded.encode(x)).equal(tokens_of(codes))
    assert decode(loaded, codes).equal(decode(codec, codes))


@every
def test_bits_are_tokens_times_the_bits_of_their_codebooks(name: str) -> None:
    codec, x = build(name)
    codes = codec.encode(x)
    if isinstance(codes, Codes):
        assert codes.bits().tolist() == pytest.approx(
            [n * math.log2(math.prod(codes.sizes)) for n in codes.length.tolist()]
        )
        assert codes.grid is None or codes.scales or codes.grid.prod(1).equal(codes.length)


@every
def test_tokens_of_another_codec_are_refused(name: str) -> None:
    codec, x = build(name)
    codes = codec.encode(x)
    with pytest.raises(InputError, match=rf"are of codec 'other', not of '{codec.fingerprint()}'"):
        codec.decode(replace(codes, codec="other"))
    with torch.no_grad():
        next(codec.parameters()).add_(1)
    with pytest.raises(InputError, match="with the weights that it had"):
        codec.decode(codes)


@every
def test_it_is_the_same_codec_in_bfloat16(name: str) -> None:
    codec, x = build(name)
    codes = codec.encode(x)
    there = decode(codec.to(torch.bfloat16), codes)
    torch.testing.assert_close(there.float(), decode(codec.float(), codes), rtol=0.05, atol=0.05)


@every
def test_signals_that_are_none_are_refused(name: str) -> None:
    codec, x = build(name)
    for wrong in (x[0], x.long(), x.repeat(1, 2, *[1] * (x.ndim - 2)), torch.full_like(x, torch.nan)):
        with pytest.raises(InputError):
            codec.encode(wrong)
    with (
        pytest.raises(UnsupportedError, match="one pass")
        if not codec.iterative
        else pytest.raises(InputError)
    ):
        codec.decode(codec.encode(x), steps=0)


@every
def test_nothing_is_drawn_but_from_the_generator(name: str) -> None:
    codec, x = build(name)
    lots = torch.get_rng_state()
    codes = codec.encode(x, generator=torch.Generator().manual_seed(1))
    assert tokens_of(codes).equal(tokens_of(codec.encode(x, generator=torch.Generator().manual_seed(1))))
    assert decode(codec, codes).equal(decode(codec, codes))
    assert torch.get_rng_state().equal(lots)


@pytest.mark.parametrize("name", which("flexible"))
def test_every_prefix_decodes_and_longer_ones_are_no_worse_on_average(name: str) -> None:
    codec, x = build(name, 16)
    whole = codec.encode(x)
    errors = []
    for n in range(1, whole.width + 1):
        codes = codec.encode(x, tokens=n)
        assert tokens_of(codes).equal(tokens_of(whole)[:, :n])
        errors.append(float((decode(codec, codes) - x).square().mean()))
    spread = float(x.var())
    assert all(later <= sooner + 0.002 * spread for sooner, later in pairwise(errors))
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("name", which("flexible"))
def test_items_of_a_batch_may_have_prefixes_of_their_own(name: str) -> None:
    codec, x = build(name, 3)
    together = decode(codec, codec.encode(x, tokens=[1, 3, 2]))
    for i, n in enumerate((1, 3, 2)):
        alone = decode(codec, codec.encode(x[i : i + 1], tokens=n))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted({*MEMBERS} - {*which("flexible")}))
def test_a_codec_that_needs_all_tokens_says_so(name: str) -> None:
    codec, x = build(name)
    with pytest.raises(UnsupportedError, match="decodes only all tokens"):
        codec.encode(x, tokens=1)
    with pytest.raises(InputError, match="decodes only all tokens"):
        codec.decode(codec.encode(x).prefix(1))


@pytest.mark.parametrize("name", which("causal"))
def test_what_comes_later_changes_no_earlier_token(name: str) -> None:
    codec, x = build(name)
    other = MEMBERS[name].signals(len(x), 1)
    codes = codec.encode(x)
    assert codes.grid is not None
    moments, step = int(codes.grid[0, 0]), codec.signal.multiple[0]
    first = (codec.signal.first or (0,))[0]
    for t in (1, moments // 2, moments - 1):
        mixed = torch.cat([x[:, :, : first + t * step], other[:, :, first + t * step :]], 2)
        now = tokens_of(codec.encode(mixed)).unflatten(1, (moments, -1))
        before = tokens_of(codes).unflatten(1, (moments, -1))
        assert now[:, :t].equal(before[:, :t])
        assert not now.equal(before)
