"""What methods read of attention equals the matrices that eager attention returns."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import FAMILIES
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.attention import ProbedAttention
from tokenry.hosts.upstream import blocks_of
from tokenry.hosts.vision import watch_vision
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Needs, TokenView, UnsupportedError

TOLERANCE = 1e-5


@functools.cache
def built(family: str, attn: str = "sdpa") -> PreTrainedModel:
    return FAMILIES[family].build(attn)


def encoder_attention(family: str, tower: str, values: Tensor) -> list[Tensor]:
    """[CLS] rows of every block as eager attention gives them: tiles x heads x patches."""
    model: Any = built(family, "eager")
    with torch.no_grad():
        out = getattr(model.model, tower)(values, output_attentions=True)
    return [a[:, :, 0, 1:] for a in out.attentions]


def test_cls_rows_of_llava() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "ragged")
    truth = encoder_attention("llava", "vision_tower", inputs["pixel_values"])
    with (
        torch.no_grad(),
        watch_vision(
            Host.of(model),
            Needs(
                cls_layers=(
                    0,
                    1,
                )
            ),
        ) as recorder,
    ):
        model(**inputs)
    for item in range(2):
        for layer in (0, 1):
            row = recorder.pictures["image"].attention(item, layer)
            assert float((row - truth[layer][item]).abs().max()) <= TOLERANCE


def test_cls_rows_of_tiles_follow_the_packing() -> None:
    """Independent count: 48 x 96 holds 40 x 90 scaled to 43 x 96 (rows 6 -> 5 after unpadding); a newline per row."""
    model: Any = built("llava-next")
    inputs = FAMILIES["llava-next"].batch(model, "two")
    values = inputs["pixel_values"]
    flat = torch.cat([values[0, :3], values[1, :5]])
    truth = encoder_attention("llava-next", "vision_tower", flat)[1]
    with torch.no_grad(), watch_vision(Host.of(model), Needs(cls_layers=(1,))) as recorder:
        model(**inputs)
    record = recorder.pictures["image"]
    for item, (first, down, across, size) in enumerate([(0, 1, 2, (40, 90)), (3, 2, 2, (70, 60))]):
        places = expected_places(down, across, size)
        assert record.lengths[item] == len(places)
        row = record.attention(item, 1)
        for token, place in enumerate(places):
            if place is None:
                assert float(row[:, token].abs().max()) == 0
                assert int(record.tile[item][token]) == -1  # type: ignore[index]
            else:
                tile, cell = place
                expected = truth[first + tile, :, cell]
                assert float((row[:, token] - expected).abs().max()) <= TOLERANCE
                assert int(record.tile[item][token]) == tile  # type: ignore[index]


def test_keys_and_logits_of_blocks_are_those_that_attention_came_from() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "ragged")
    truth = encoder_attention("llava", "vision_tower", inputs["pixel_values"])
    needs = Needs(cls_layers=(1,), cls_logit_layers=(1,), key_layers=(0, 1))
    with torch.no_grad(), watch_vision(Host.of(model), needs) as recorder:
        model(**inputs)
    record = recorder.pictures["image"]
    layer: Any = blocks_of(model.model.vision_tower)[1]
    with torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[1]
        keys = layer.self_attn.k_proj(layer.layer_norm1(hidden))[:, 1:]
    for item in range(2):
        logits = record.logits(item, 1)
        share = truth[1][item].sum(1, keepdim=True)  # what [CLS] leaves for patches
        assert float((logits.softmax(1) * share - truth[1][item]).abs().max()) <= TOLERANCE
        mine = record.encoder_keys(item, 1)
        assert float((mine.transpose(0, 1).flatten(1) - keys[item]).abs().max()) <= TOLERANCE


def test_tiles_lie_as_they_were_cut() -> None:
    """Rows and columns of crops, the place of a token in its tile, and the picture's own size in pixels."""
    model: Any = built("llava-next")
    inputs = FAMILIES["llava-next"].batch(model, "two")
    with torch.no_grad(), watch_vision(Host.of(model), Needs()) as recorder:
        model(**inputs)
    record = recorder.pictures["image"]
    assert record.tiles == [(1, 2), (2, 2)]
    assert record.sizes == [(40, 90), (70, 60)]
    for item, (down, across, size) in enumerate([(1, 2, (40, 90)), (2, 2, (70, 60))]):
        cells = record.cells(item).tolist()
        for cell, place in zip(cells, expected_places(down, across, size), strict=True):
            assert cell == ([-1, -1] if place is None else [place[1] // 6, place[1] % 6])


def expected_places(down: int, across: int, size: tuple[int, int]) -> list[tuple[int, int] | None]:
    """Tile and cell of each token, by hand: the thumbnail, then rows of the stitched tiles without their padding."""
    places: list[tuple[int, int] | None] = [(0, c) for c in range(36)]
    h, w = size
    height, width = 6 * down, 6 * across
    if w / h > width / height:
        pad = (height - int(round(h * width / w, 7))) // 2
        rows, cols = range(pad, height - pad), range(width)
    else:
        pad = (width - int(round(w * height / h, 7))) // 2
        rows, cols = range(height), range(pad, width - pad)
    for y in rows:
        places += [(1 + (y // 6) * across + x // 6, (y % 6) * 6 + x % 6) for x in cols]
        places.append(None)
    return places


def test_cls_rows_of_frames() -> None:
    """Video-LLaVA hands [CLS] of every frame to its language model; that token belongs to no tile."""
    model: Any = built("video-llava")
    inputs = FAMILIES["video-llava"].batch(model, "video")
    truth = encoder_attention("video-llava", "video_tower", inputs["pixel_values_videos"].flatten(0, 1))[1]
    with torch.no_grad(), watch_vision(Host.of(model), Needs(cls_layers=(1,))) as recorder:
        model(**inputs)
    record = recorder.pictures["video"]
    assert record.lengths == [111, 111]
    for item in range(2):
        row = record.attention(item, 1).unflatten(1, (3, 37))
        assert float(row[:, :, 0].abs().max()) == 0
        for frame in range(3):
            assert float((row[:, frame, 1:] - truth[item * 3 + frame]).abs().max()) <= TOLERANCE


def test_keys_of_frames_are_those_of_their_patches() -> None:
    """Also where nothing is read of [CLS], which is handed to the language model as a token of no tile."""
    model: Any = built("video-llava")
    inputs = FAMILIES["video-llava"].batch(model, "video")
    with torch.no_grad(), watch_vision(Host.of(model), Needs(cls_layers=(1,), key_layers=(1,))) as both:
        model(**inputs)
    with torch.no_grad(), watch_vision(Host.of(model), Needs(key_layers=(1,))) as keys:
        model(**inputs)
    for item in range(2):
        found = keys.pictures["video"].encoder_keys(item, 1)
        assert torch.equal(found, both.pictures["video"].encoder_keys(item, 1))
        assert found.unflatten(1, (3, 37)).ne(0).any((0, 3)).tolist() == [[False] + [True] * 36] * 3


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "internvl", "mistral3", "qwen2-vl"])
def test_keys_are_refused_where_a_token_is_no_single_patch(family: str) -> None:
    model: Any = built(family)
    inputs = FAMILIES[family].batch(model, "two")
    with torch.no_grad(), watch_vision(Host.of(model), Needs(key_layers=(1,))) as recorder:
        model(**inputs)
    with pytest.raises(UnsupportedError, match="folds or interpolates the encoder's patches"):
        recorder.pictures["image"].encoder_keys(0, 1)


def test_fastervlm_keeps_as_many_of_every_frame() -> None:
    model: Any = built("video-llava")
    inputs = FAMILIES["video-llava"].batch(model, "video")
    with tk.reduced(model, "fastervlm", budget=30) as run, torch.no_grad():
        model(**inputs)
    kept = run.trace[0].kept.view(3, 37)
    assert kept.sum(1).tolist() == [10, 10, 10]
    assert not bool(kept[:, 0].any())


# --- the decoder -------------------------------------------------------------------------------------------------

DECODERS = (
    "llava",
    "qwen2-vl",
    "gemma3",
    "mistral3",
    "llama",
    "qwen3",
    "gemma3-text",
    "mistral",
    "paligemma",
)


@pytest.mark.parametrize("shape", ["one", "ragged"])
@pytest.mark.parametrize("name", DECODERS)
def test_rows_masses_and_propagation_equal_eager_attention(
    name: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouped heads, left padding, sliding windows, bidirectional prefixes; the layer just run and the next one."""
    family = FAMILIES[name]
    model: Any = built(name)
    inputs = family.batch(model, shape)
    with torch.no_grad():
        eager: Any = built(name, "eager")
        with tk.reduced(eager, RandomTokens(budget=1.0), tokens=family.tokens):
            truth = eager(**inputs, output_attentions=True).attentions
    real = inputs["attention_mask"].bool()
    for method, layer in ((FastV(budget=0.5, layer=2), 1), (PyramidDrop(budget=0.9, layers=(2,)), 2)):
        views: list[TokenView] = []

        def watch(self: Any, view: TokenView, views: list[TokenView] = views) -> Tensor:
            views.append(view)
            return torch.rand(view.features.shape[:2])

        monkeypatch.setattr(type(method), "score", watch)
        with tk.reduced(model, method, tokens=family.tokens), torch.no_grad():
            model(**inputs)
        attention, expected = views[0].attention, truth[layer]
        last = real.shape[1] - 1
        assert gap(attention.row(), expected[:, :, last]) <= TOLERANCE
        query = real.long().argmax(1) + 9
        picked = torch.stack([e[:, q] for e, q in zip(expected, query, strict=True)])
        assert gap(attention.row(query), picked) <= TOLERANCE
        group = torch.zeros_like(real)
        group[:, 7:19] = True
        mass = expected[..., 7:19].sum(-1).masked_fill(~real[:, None], 0)
        assert gap(attention.mass(group & real).masked_fill(~real[:, None], 0), mass) <= TOLERANCE
        p = torch.rand(expected.shape[:3], generator=torch.Generator().manual_seed(0)) * real[:, None]
        step = (p[:, :, None] @ expected)[:, :, 0]
        assert gap(attention.propagate(p), step) <= TOLERANCE * 10  # a sum over all queries


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def test_what_padding_computes_does_not_reach_the_tokens() -> None:
    """Padding may attend to anything where the mask says so, and some kernels give it NaN."""
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 2, 9, 4, generator=generator)
    real = torch.arange(9)[None] >= 3
    mask = torch.ones(9, 9, dtype=torch.bool).tril() | ~real.T
    clean = ProbedAttention(query, key, mask[None, None], real, 0.5)
    query, key = (x.masked_fill(~real[:, None, :, None], torch.nan) for x in (query, key))
    poisoned = ProbedAttention(query, key, mask[None, None], real, 0.5)
    p = torch.rand(1, 2, 9, generator=generator) * real
    assert gap(poisoned.propagate(p), clean.propagate(p)) <= 1e-6
    assert gap(poisoned.mass(real), clean.mass(real)) <= 1e-6
    assert gap(poisoned.row(), clean.row()) <= 1e-6


def test_reading_attention_in_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenry.hosts.reducing import attention as probes

    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(2, h, 17, 4, generator=generator) for h in (4, 2))
    real = torch.ones(2, 17, dtype=torch.bool)
    real[1, :5] = False
    attention = probes.ProbedAttention(query, key, None, real, 0.5)
    p = torch.rand(2, 4, 17, generator=generator)
    whole = attention.propagate(p), attention.mass(real), attention.propagate(p, 0.7)
    monkeypatch.setattr(probes, "_CHUNK_ELEMENTS", 300)
    sliced = attention.propagate(p), attention.mass(real), attention.propagate(p, 0.7)
    for a, b in zip(whole, sliced, strict=True):
        assert gap(a, b) <= 1e-6


class _Views(RandomTokens):
    """Keeps the views that it is shown."""

    slug = "views"

    def reduce(self, view: TokenView, keep: Tensor) -> Any:
        SEEN.append(view)
        return super().reduce(view, keep)


SEEN: list[TokenView] = []


def test_merged_tokens_stand_for_as_many_as_they_came_from() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    SEEN.clear()
    with tk.reduced(model, [Pool(budget=9), _Views(budget=4)]):
        model(**inputs)
    (view,) = SEEN
    assert view.size.tolist() == [[4.0] * 9]
    assert view.tiles.tolist() == [[1, 1]]
    assert view.image_size.tolist() == [[0, 0]]
    assert view.coordinates()[0, :4].tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 4], [0, 2, 0]]
    assert view.cell.equal(view.coordinates()[..., 1:])
