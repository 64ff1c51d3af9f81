"""A session under the ways in which people call a model: loops of their own, copied caches, turns, padding, storage."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

import tokenry as tk
from tests.hosts.families import FAMILIES, Inputs, text
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.session import encode
from tokenry.tokens import Positions, UnsupportedError

STEPS = 6
KINDS = ("llava", "qwen2-vl", "qwen3-vl", "gemma3", "mistral3", "paligemma")
METHODS = (RandomTokens(budget=0.4), RandomTokens(budget=0.4, positions="compact"), PyramidDrop(budget=0.3))


@functools.cache
def built(family: str) -> PreTrainedModel:
    return FAMILIES[family].build("sdpa")


def generated(model: Any, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    settings = dict(max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True)
    out = model.generate(**inputs, **settings | options, pad_token_id=0)
    return out.sequences, torch.stack(out.logits)


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def loop(model: Any, inputs: Inputs, cache: Any = None, mask: bool = True, steps: int = STEPS) -> Tensor:
    """Greedy decoding by hand, without position ids: logits per step."""
    inputs = dict(inputs)
    padding = inputs.pop("attention_mask", None)
    logits, given = [], dict(inputs)
    for _ in range(steps):
        if mask and padding is not None:
            given["attention_mask"] = padding
        with torch.no_grad():
            out = model(**given, **with_cache(model, cache), use_cache=True)
        cache, last = cache_of(out), out.logits[:, -1]
        logits.append(last)
        given = {"input_ids": last.argmax(-1, keepdim=True)}
        padding = None if padding is None else torch.nn.functional.pad(padding, (0, 1), value=1)
    return torch.stack(logits)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.slug}-{m.positions}")
@pytest.mark.parametrize("name", KINDS)
def test_a_loop_without_position_ids_gives_what_generate_gives(
    name: str, method: Reducer, mask: bool
) -> None:
    """The model would count positions from the shortened cache; the session counts for it."""
    model = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    with method(model):
        _, expected = generated(model, inputs)
        logits = loop(model, inputs, mask=mask)
    assert close(logits, expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_loop_equals_the_same_loop_on_the_masked_full_sequence(name: str) -> None:
    model = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    with_mask = not name.startswith(
        "qwen"
    )  # the models themselves fail there: one new token, positions for all
    with RandomTokens(budget=0.4)(model) as run:
        mine = loop(model, inputs, mask=with_mask)
    visual = inputs["input_ids"] == 110
    with masked(Host.of(model), run.trace, visual, {0: Positions.KEEP}):
        truth = loop(model, inputs, mask=with_mask)
    assert close(mine, truth)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "mistral3"])
def test_padded_rows_of_a_loop_with_a_mask_give_what_generate_gives(name: str) -> None:
    model = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    if name == "qwen2-vl":
        inputs["attention_mask"] = inputs["attention_mask"].long()
    for method in METHODS:
        with method(model):
            _, expected = generated(model, inputs)
            given, logits = dict(inputs), []
            cache, padding = None, inputs["attention_mask"]
            for _ in range(STEPS):
                position = (padding.cumsum(1) - 1).clamp(min=0)[:, -given["input_ids"].shape[1] :]
                given["attention_mask"] = padding
                extra = {} if name == "qwen2-vl" else {"position_ids": position}
                with torch.no_grad():
                    out = model(**given, **extra, **with_cache(model, cache), use_cache=True)
                cache = cache_of(out)
                logits.append(out.logits[:, -1])
                given = {"input_ids": logits[-1].argmax(-1, keepdim=True)}
                padding = torch.nn.functional.pad(padding, (0, 1), value=1)
        assert close(torch.stack(logits), expected)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
def test_a_copied_prefix_is_used_twice(name: str) -> None:
    """Prefix caching: one prefill, several continuations, each from its own copy of the shortened cache."""
    model = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    for method in METHODS:
        with method(model), torch.no_grad():
            prefix = cache_of(model(**inputs, use_cache=True))
            answers = []
            for seed in (40, 41, 40):
                more = torch.tensor([text(4, seed)])
                answers.append(model(input_ids=more, **with_cache(model, copy.deepcopy(prefix))).logits)
            assert torch.equal(answers[0], answers[2])
            assert not close(answers[0], answers[1])
            whole = model(input_ids=torch.tensor([text(4, 40)]), **with_cache(model, prefix)).logits
            assert torch.equal(answers[0], whole)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "qwen3-vl", "mistral3"])
def test_a_second_turn_of_text_equals_the_oracle(name: str) -> None:
    model = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    more = torch.tensor([text(5, 50)])
    host, visual = Host.of(model), inputs["input_ids"] == 110
    for method in METHODS:

        def turns() -> Tensor:
            with torch.no_grad():
                first = model(**inputs, use_cache=True)
                second = model(input_ids=more, **with_cache(model, cache_of(first)))
                third = model(input_ids=more[:, :2], **with_cache(model, cache_of(second)))
            return torch.cat([second.logits, third.logits], 1)

        with method(model) as run:
            mine = turns()
        rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
        with masked(host, run.trace, visual, rules):
            truth = turns()
        assert close(mine, truth), method.slug


@pytest.mark.parametrize("name", KINDS)
def test_without_a_cache(name: str) -> None:
    """A plain forward keeps the shape of its logits; positions that stayed have the oracle's."""
    model = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    host, visual = Host.of(model), inputs["input_ids"] == 110
    for method in METHODS:
        with torch.no_grad(), method(model) as run:
            mine = model(**inputs, use_cache=False).logits
        rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
        mask = inputs["attention_mask"].bool()
        with torch.no_grad(), masked(host, run.trace, visual, rules, mask):
            truth = model(**inputs, use_cache=False).logits
        stayed = mask & ~visual
        assert mine.shape == truth.shape
        assert close(mine[stayed], truth[stayed])


@pytest.mark.parametrize("name", ["llava", "mistral3"])
def test_right_padding_in_a_plain_forward(name: str) -> None:
    """Training batches are padded on the right."""
    model = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    shift = int((inputs["attention_mask"][1] == 0).sum())
    right = {k: v.clone() for k, v in inputs.items()}
    for key in ("input_ids", "attention_mask"):
        right[key][1] = inputs[key][1].roll(-shift)
    for method in METHODS:
        with torch.no_grad(), method(model):
            left_logits = model(
                **inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            ).logits
            right_logits = model(**right).logits
        kept = inputs["attention_mask"][1].bool()
        assert close(right_logits[0], left_logits[0])
        assert close(right_logits[1][: int(kept.sum())], left_logits[1][kept])


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen3-vl", "video-llava", "smolvlm", "gemma3"])
def test_pictures_encoded_beforehand_give_the_same_as_pixels(name: str) -> None:
    family, model = FAMILIES[name], built(name)
    inputs = family.batch(model, "ragged")
    methods: list[Reducer] = [Pool(budget=0.4), PyramidDrop(budget=0.3)]
    methods += [FasterVLM(budget=0.3)] if family.has_cls else []
    encoded = encode(model, inputs, methods)
    assert encoded.seconds > 0
    for method in methods:
        for options in ({}, {"num_beams": 3}):
            with method(model):
                sequences, logits = generated(model, inputs, **options)
            with tk.reduced(model, method, encoded=encoded) as run:
                again, logits_again = generated(model, encoded.inputs, **options)
            assert torch.equal(sequences, again)
            assert torch.equal(logits, logits_again)
            assert len(run.trace) == 2 * options.get("num_beams", 1)


def test_each_picture_keeps_its_own_tokens_and_the_trace_tells() -> None:
    model = built("qwen2-vl")
    inputs = FAMILIES["qwen2-vl"].batch(model, "mixed")
    with RandomTokens(budget=0.25)(model) as run:
        generated(model, inputs)
    picture, video = run.trace
    assert (picture.grid, picture.n, int(picture.kept.sum())) == ((1, 3, 4), 12, 3)
    assert (video.grid, video.n, int(video.kept.sum())) == ((3, 2, 3), 18, 5)  # 4.5 rounds up
    assert run.lengths.tolist() == [[inputs["input_ids"].shape[1] - 30 + 8] * 4]
    assert picture.counts == [3, 3, 3, 3]


def test_grids_of_tiles_and_frames() -> None:
    for name, shape, grid, n in [
        ("smolvlm", "one", (3, 3, 3), 27),
        ("internvl", "one", (1, 4, 4), 16),
        ("mistral3", "one", (1, 4, 6), 24),
        ("llava", "one", (1, 6, 6), 36),
        ("video-llava", "video", (1, 1, 111), 111),  # [CLS] of every frame is among the tokens
        ("llava-onevision", "video", (1, 1, 28), 28),  # a newline token ends it
    ]:
        model = built(name)
        inputs = FAMILIES[name].batch(model, shape)
        with RandomTokens(budget=0.5)(model) as run:
            generated(model, inputs, max_new_tokens=1)
        assert (run.trace[0].grid, run.trace[0].n) == (grid, n), name


def test_the_same_picture_keeps_the_same_tokens_in_any_batch() -> None:
    """Padding of a batch, to the most tiles or the largest picture, does not change what a picture's pixels are."""
    for name in ("mistral3", "smolvlm", "qwen2-vl", "llava"):
        model = built(name)
        family = FAMILIES[name]
        both = family.batch(model, "ragged")
        with RandomTokens(budget=0.5)(model) as run:
            generated(model, both, max_new_tokens=1)
        expected = run.trace[1].kept
        alone = {k: v[1:] for k, v in both.items()}
        if name == "smolvlm":
            alone |= {k: v[:, :2] for k, v in alone.items() if k.startswith("pixel")}
        if name == "qwen2-vl":
            alone["pixel_values"] = both["pixel_values"][-int(alone["image_grid_thw"].prod()) :]
        if name == "mistral3":
            h, w = alone["image_sizes"][0].tolist()
            alone["pixel_values"] = alone["pixel_values"][..., :h, :w]
        with RandomTokens(budget=0.5)(model) as run:
            generated(model, alone, max_new_tokens=1)
        assert torch.equal(run.trace[0].kept, expected), name


def test_spans_of_a_text_model() -> None:
    model, family = built("llama"), FAMILIES["llama"]
    inputs = family.batch(model, "one")
    marks = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    marks[:, 8:28] = True
    answers = []
    for tokens in (slice(8, 28), marks, lambda ids: marks):
        with tk.reduced(model, "random", budget=0.5, tokens=tokens):
            answers.append(generated(model, inputs)[1])
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_static_caches_at_the_input(name: str) -> None:
    """Tokens that never enter need no room: a static cache is as good as a dynamic one, in a loop of one's own."""
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=90)
    with RandomTokens(budget=0.4)(model):
        assert close(loop(model, inputs, cache, mask=False), loop(model, inputs, mask=False))
        with pytest.raises(UnsupportedError, match=r"static caches\. Use the default cache"):
            generated(model, inputs, cache_implementation="static")


@pytest.mark.parametrize("name", ["llava", "mistral3"])
def test_a_picture_in_a_later_turn(name: str) -> None:
    """Two turns, a picture each, give what one prompt with both gives: attention looks back, never ahead."""
    model = built(name)
    inputs = FAMILIES[name].batch(model, "two")
    ids, values = inputs["input_ids"], inputs["pixel_values"]
    cut = int((ids[0] == 110).nonzero()[0]) + {"llava": 38, "mistral3": 30}[name]  # in the text between
    sizes = inputs.get("image_sizes")
    turns = [(ids[:, :cut], 0), (ids[:, cut:], 1)]
    for method in (RandomTokens(budget=0.4), Pool(budget=0.4)):
        with method(model), torch.no_grad():
            whole = model(**inputs).logits[:, -1]
            cache = None
            for part, picture in turns:
                own = {} if sizes is None else {"image_sizes": sizes[picture : picture + 1]}
                pixels = values[picture : picture + 1]
                if sizes is not None:
                    h, w = sizes[picture].tolist()
                    pixels = pixels[..., :h, :w]
                out = model(
                    input_ids=part, pixel_values=pixels, **with_cache(model, cache), use_cache=True, **own
                )
                cache = cache_of(out)
        assert close(out.logits[:, -1], whole), method.slug


@pytest.mark.parametrize("name", ["llava", "qwen3-vl", "gemma3"])
def test_rows_without_a_picture_are_left_alone(name: str) -> None:
    model: Any = built(name)
    alone = FAMILIES[name].batch(model, "one")
    width = alone["input_ids"].shape[1]
    words = torch.tensor([[0] * (width - 12) + [1, *text(11, 60)]])
    inputs = dict(alone)
    inputs["input_ids"] = torch.cat([words, alone["input_ids"]])
    inputs["attention_mask"] = torch.cat([(words != 0).long(), alone["attention_mask"]])
    for key in ("token_type_ids", "mm_token_type_ids"):
        if key in alone:
            inputs[key] = torch.cat([torch.zeros_like(words).to(alone[key]), alone[key]])
    for method in METHODS:
        gap = oracle_gap(Host.of(model), inputs, method)
        assert gap <= 1e-5 * 5
        with method(model) as run:
            generated(model, inputs)
        assert [item.row for item in run.trace] == [1]
        assert run.lengths[0].tolist() == [12] * 4


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
def test_half_precision(name: str) -> None:
    model: Any = FAMILIES[name].build("sdpa").to(torch.bfloat16)
    inputs = FAMILIES[name].batch(model, "ragged")
    inputs |= {k: v.to(torch.bfloat16) for k, v in inputs.items() if v.is_floating_point()}
    for method in (*METHODS, Pool(budget=0.4)):
        with method(model), torch.no_grad():
            mine = model(**inputs).logits[:, -1]
            assert mine.dtype == torch.bfloat16
        model.float()
        exact = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
        with method(model), torch.no_grad():
            truth = model(**exact).logits[:, -1]
        model.to(torch.bfloat16)
        if method.slug != "pyramiddrop":  # rounding may reverse a close choice
            assert float((mine - truth).abs().max() / truth.abs().max()) <= 0.1


def test_a_bare_decoder_and_a_bare_base_model() -> None:
    """Models without a head are models, too: what they return keeps its length."""
    for name in ("llama", "llava"):
        family, model = FAMILIES[name], built(name)
        inputs = family.batch(model, "one")
        base = model.base_model
        with tk.reduced(base, "random", budget=0.4, tokens=family.tokens), torch.no_grad():
            hidden = base(**inputs).last_hidden_state
        with tk.reduced(model, "random", budget=0.4, tokens=family.tokens) as run, torch.no_grad():
            again = model.base_model(**inputs).last_hidden_state
        assert hidden.shape[1] == inputs["input_ids"].shape[1]
        assert torch.equal(hidden, again)
        assert int((hidden[0].abs().sum(-1) == 0).sum()) == run.trace[0].n - int(run.trace[0].kept.sum())
