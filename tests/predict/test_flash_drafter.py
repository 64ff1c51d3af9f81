"""FLASH's drafters: compression, positions, caches, and what is saved of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from tokenry.predict.lm.flash.drafter import (
    ChainDrafter,
    Drafter,
    FlashConfig,
    FlashDrafter,
    LatentCompressor,
    load_drafter,
    visual_span,
)
from tokenry.tokens.errors import InputError

CONFIG = FlashConfig(width=32, offsets=3, latents=4, heads=4, kv_heads=2, feed_forward=48)
SPAN = (2, 12)


def fresh(kind: type[Drafter] = FlashDrafter, **changed: Any) -> Any:
    torch.manual_seed(0)
    return kind(replace(CONFIG, **changed)).eval()


def text(length: int = 20, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Hidden states, and embeddings of the tokens after the picture."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rows, length, 32, generator=generator),
        torch.randn(rows, length - SPAN[1], 32, generator=generator),
    )


def test_compression_with_one_hot_weights_changes_nothing() -> None:
    visual = 30 * torch.eye(12)[None].expand(2, -1, -1)  # states that a query can tell apart for certain
    compressor = LatentCompressor(12, 12)
    with torch.no_grad():
        compressor.queries.copy_(torch.eye(12))
    torch.testing.assert_close(compressor(visual), visual)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compressor.queries.copy_(torch.eye(12)[order])
    torch.testing.assert_close(compressor(visual), visual[:, order])


def test_compression_is_a_softmax_over_visual_positions_without_scaling() -> None:
    compressor = LatentCompressor(1, 2)
    with torch.no_grad():
        compressor.queries.copy_(torch.tensor([[1.0, 0.0]]))
    visual = torch.tensor([[[0.0, 8.0], [torch.tensor(3.0).log(), 4.0]]])
    expected = torch.tensor([[[0.75 * torch.tensor(3.0).log(), 0.25 * 8 + 0.75 * 4]]])
    torch.testing.assert_close(compressor(visual), expected)


def test_a_drafter_with_one_hot_compression_guesses_as_without() -> None:
    """What surrounds the picture stays where it is, in positions and in order."""
    plain, compressed = fresh(latents=None), fresh(latents=SPAN[1] - SPAN[0])
    compressed.load_state_dict(plain.state_dict(), strict=False)
    hidden, following = text()
    visual = F.one_hot(torch.arange(10), 32).float() * 40
    hidden[:, SPAN[0] : SPAN[1]] = visual
    with torch.no_grad():
        compressed.compressor.queries.copy_(visual)
    torch.testing.assert_close(compressed(hidden, following, SPAN), plain(hidden, following, SPAN))


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_what_enters(kind: type[Drafter]) -> None:
    drafter = fresh(kind)
    hidden, following = text()
    entered = drafter.enter(hidden, following, SPAN)
    assert entered.shape == (2, 2 + 4 + 8, 32)
    assert torch.equal(entered[:, :2], hidden[:, :2])
    assert torch.equal(entered[:, 2:6], drafter.compressor(hidden[:, 2:12]))
    assert torch.equal(entered[:, 6:], drafter.fc(torch.cat([following, hidden[:, 12:]], -1)))
    words = drafter.enter(hidden[:, 12:], following, (0, 0))  # no picture: all of it is text
    torch.testing.assert_close(words, entered[:, 6:])
    with pytest.raises(InputError, match="want 8 embeddings, got 7"):
        drafter.enter(hidden, following[:, 1:], SPAN)


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
@pytest.mark.parametrize("latents", [None, 4])
def test_reading_in_pieces_is_reading_at_once(kind: type[Drafter], latents: int | None) -> None:
    drafter = fresh(kind, latents=latents)
    hidden, following = text(rows=1)
    expected = drafter(hidden, following, SPAN)
    assert expected.shape == (1, 8, drafter.offsets, 32)
    kv = DynamicCache()
    got = [drafter.read(drafter.enter(hidden[:, :15], following[:, :3], SPAN), kv)[:, -3:]]
    for start, end in ((15, 16), (16, 20)):
        got.append(drafter.read(drafter.pair(hidden[:, start:end], following[:, start - 12 : end - 12]), kv))
    torch.testing.assert_close(drafter.predict(torch.cat(got, 1)), expected)


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_no_guess_looks_ahead(kind: type[Drafter]) -> None:
    drafter = fresh(kind)
    hidden, following = text()
    before = drafter(hidden, following, SPAN)
    hidden[:, 16:] += 1
    following[:, 4:] += 1
    after = drafter(hidden, following, SPAN)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4], before[:, 4])


def test_heads_share_keys_in_groups() -> None:
    """Against attention written out, with each head paired with its group."""
    drafter = fresh(latents=None)
    hidden, following = text(rows=1)
    entered = drafter.enter(hidden, following, SPAN)[0]
    attention, (cos, sin) = drafter.attention, drafter.rotary(entered[None], torch.arange(20)[None])

    def turned(x: Tensor) -> Tensor:
        return x * cos[0] + torch.cat([-x[:, 4:], x[:, :4]], -1) * sin[0]

    heads = []
    for head in range(4):
        own, group = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        q, k = turned(attention.q_proj(entered)[:, own]), turned(attention.k_proj(entered)[:, group])
        scores = (q @ k.T / 8**0.5).masked_fill(~torch.ones(20, 20, dtype=torch.bool).tril(), -torch.inf)
        heads.append(scores.softmax(-1) @ attention.v_proj(entered)[:, group])
    expected = drafter.mlp(attention.o_proj(torch.cat(heads, -1))).view(20, 3, 32)[12:]
    torch.testing.assert_close(drafter(hidden, following, SPAN)[0], expected)


def test_one_offset_without_compression_is_a_head_for_chains() -> None:
    drafter, chain = fresh(offsets=1, latents=None), fresh(ChainDrafter, latents=None)
    hidden, following = text()
    assert drafter(hidden, following, SPAN).shape == chain(hidden, following, SPAN).shape == (2, 8, 1, 32)
    assert drafter.offsets == chain.offsets == 1


def test_the_residual_is_a_choice() -> None:
    published, other = fresh(latents=None), fresh(latents=None, residual=True)
    hidden, following = text()
    entered = published.enter(hidden, following, SPAN)
    torch.testing.assert_close(other.read(entered), entered + published.read(entered))


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_saved_and_loaded(kind: type[Drafter], tmp_path: Path) -> None:
    drafter = fresh(kind)
    loaded = load_drafter(drafter.save(tmp_path / "drafter"))
    assert type(loaded) is kind
    assert loaded.config == CONFIG
    assert not loaded.training
    hidden, following = text()
    assert torch.equal(loaded(hidden, following, SPAN), drafter(hidden, following, SPAN))


def test_what_is_no_drafter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no drafter"):
        load_drafter(tmp_path)
    folder = fresh().save(tmp_path / "drafter")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"width": 64}))
    with pytest.raises(InputError, match="holds no drafter"):
        load_drafter(folder)


def test_where_the_picture_lies() -> None:
    assert visual_span([1, 9, 9, 9, 4, 5], 9) == (1, 4)
    assert visual_span([1, 9, 9, 4, 9, 9, 5], 9) == (1, 6)
    assert visual_span([1, 2, 3], 9) == visual_span([1, 2, 3], None) == (0, 0)
    assert visual_span([1, 9, 9, 9], 9) == (1, 3)  # what follows the last position has to be read
    assert visual_span([9], 9) == (0, 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"offsets": 0}, "at least 1"),
        ({"latents": -1}, "at least 1"),
        ({"heads": 5}, "must divide the width"),
        ({"kv_heads": 3}, "must divide the heads"),
    ],
)
def test_sizes_that_mean_nothing(changed: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(CONFIG, **changed)
