"""The life of a shortened cache: copied, repeated, cut, stored; and what becomes of it outside its session."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import tokenry as tk
from tests.hosts.families import FAMILIES, IMAGE, Inputs, text
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.upstream import cache_of, keys_seen, with_cache
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import InputError, Positions

METHODS = [
    RandomTokens(budget=0.4),
    RandomTokens(budget=0.4, positions="compact"),
    FastV(budget=0.4, layer=2),
]
MORE = torch.tensor([text(5, 50)])


@functools.cache
def built(family: str) -> PreTrainedModel:
    return FAMILIES[family].build("sdpa")


def prefill(model: Any, inputs: Inputs) -> Any:
    with torch.no_grad():
        return cache_of(model(**inputs, use_cache=True))


def go_on(model: Any, cache: Any, ids: Tensor = MORE, **more: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **with_cache(model, cache), **more).logits


def truth(model: Any, inputs: Inputs, run: Any, method: Reducer, act: Any) -> Tensor:
    """What `act` gives on the full sequence with the dropped tokens masked out."""
    rules = dict.fromkeys(method.cuts(Host.of(model).depth), Positions(method.positions))
    mask = inputs["attention_mask"].bool()
    with masked(Host.of(model), run.trace, inputs["input_ids"] == IMAGE, rules, mask):
        return act(prefill(model, inputs))


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


# --- outside ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.slug}-{m.positions}")
def test_a_shortened_cache_refuses_to_grow_outside_a_session(name: str, method: Reducer) -> None:
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    with method(model) as run:
        cache = prefill(model, inputs)
        held = int(
            run.lengths.min()
        )  # what is missing at a layer is said, though the first layer may hold all
    seen = inputs["input_ids"].shape[1]
    whole = torch.cat([inputs["input_ids"], MORE], 1)
    settings = dict(max_new_tokens=2, do_sample=False, pad_token_id=0)
    for act in (
        lambda c: go_on(model, c),
        lambda c: model.generate(
            whole, attention_mask=torch.ones_like(whole), **with_cache(model, c), **settings
        ),
        lambda c: go_on(model, copy.deepcopy(c)),
        lambda c: go_on(model, copy.copy(c)),
        lambda c: go_on(model, pickle.loads(pickle.dumps(c))),
    ):
        with pytest.raises(InputError, match=f"holds {held} of the {seen} tokens .*tk.reduced"):
            act(cache)
    with method(model) as again:  # what was refused left no trace
        mine = go_on(model, cache)
    assert again._prompts.latest is None
    assert close(mine, truth(model, inputs, run, method, lambda c: go_on(model, c)))


def test_a_cache_that_is_whole_may_be_used_anywhere() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    expected = go_on(model, prefill(model, inputs))
    for method in (
        RandomTokens(budget=1.0),
        RandomTokens(budget=1.0, positions="compact"),
        FastV(budget=1.0),
    ):
        with method(model):
            cache = prefill(model, inputs)
        assert isinstance(cache, DynamicCache)
        assert close(go_on(model, cache), expected)
        with method(model), pytest.raises(InputError, match="also used outside"):
            go_on(model, cache)


def test_a_cache_that_was_emptied_starts_anew() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    expected = go_on(model, prefill(model, inputs))
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=80)
    for _ in range(2):  # inside, outside, inside, outside
        with RandomTokens(budget=0.4)(model) as run, torch.no_grad():
            model(**inputs, **with_cache(model, cache))
            mine = go_on(model, cache)
        assert close(mine, truth(model, inputs, run, RandomTokens(budget=0.4), lambda c: go_on(model, c)))
        cache.reset()
        with torch.no_grad():
            model(**inputs, **with_cache(model, cache))
        assert close(go_on(model, cache), expected)
        cache.reset()


def test_an_interrupted_call_leaves_its_cache_to_nobody() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    with RandomTokens(budget=0.4)(model):
        cache = prefill(model, inputs)
        hook = Host.of(model).layers[2].register_forward_pre_hook(lambda m, a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go_on(model, cache)
        hook.remove()
        with pytest.raises(InputError, match="was interrupted"):
            go_on(model, cache)
    with pytest.raises(InputError, match="was interrupted"):
        go_on(model, cache)


# --- inside ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "gemma3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.slug}-{m.positions}")
def test_rows_are_repeated_chosen_and_reordered_with_the_cache(name: str, method: Reducer) -> None:
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], 1)
    given = MORE.expand(2, -1).contiguous()

    def four(cache: Any) -> Tensor:
        cache.batch_repeat_interleave(2)
        return go_on(model, cache, given.repeat_interleave(2, 0), attention_mask=mask.repeat_interleave(2, 0))

    def swapped(cache: Any) -> Tensor:
        cache.reorder_cache(torch.tensor([1, 0]))
        return go_on(model, cache, given, attention_mask=mask.flip(0))

    def second(cache: Any) -> Tensor:
        cache.batch_select_indices(torch.tensor([1]))
        return go_on(model, cache, given[1:], attention_mask=mask[1:])

    with method(model) as run:
        mine = [act(prefill(model, inputs)) for act in (four, swapped, second)]
    plain = truth(model, inputs, run, method, lambda c: go_on(model, c, given, attention_mask=mask))
    assert close(mine[0], plain.repeat_interleave(2, 0))
    assert close(mine[1], plain.flip(0))
    assert close(mine[2], plain[1:])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.slug}-{m.positions}")
def test_tokens_are_taken_back_and_the_cache_is_stored(method: Reducer) -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")

    def tried(cache: Any) -> Tensor:
        go_on(model, cache, torch.tensor([text(3, 60)]))
        cache.crop(-3)
        return go_on(model, cache)

    with method(model) as run:
        mine = tried(pickle.loads(pickle.dumps(prefill(model, inputs))))
    assert close(mine, truth(model, inputs, run, method, lambda c: go_on(model, c)))


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_a_cache_goes_on_in_a_session_with_other_methods(name: str) -> None:
    """What the first session did to its layers holds, whatever the second would do to a prompt of its own."""
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    others: list[Reducer] = [RandomTokens(budget=0.4), PyramidDrop(budget=0.3), FastV(budget=0.3, layer=1)]
    for first in others:
        with first(model) as run:
            cache = prefill(model, inputs)
        expected = truth(model, inputs, run, first, lambda c: go_on(model, c))
        for second in others:
            with second(model):
                assert close(go_on(model, copy.deepcopy(cache)), expected), (first.slug, second.slug)


# --- a prefix that many requests share -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "qwen3-vl", "mistral3"])
@pytest.mark.parametrize("static", [False, True])
def test_a_prefix_of_text_from_outside_stands_before_the_picture(name: str, static: bool) -> None:
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    start = int((ids[0] == IMAGE).nonzero()[0]) - (name.startswith("qwen"))  # the marker that opens a picture
    prefix = DynamicCache(config=model.config.get_text_config())
    if static:
        prefix = StaticCache(config=model.config.get_text_config(), max_cache_len=90)
    with torch.no_grad():
        model(input_ids=ids[:, :start], **with_cache(model, prefix))
    rest = inputs | {"input_ids": ids[:, start:]}
    rest |= {k: v[:, start:] for k, v in inputs.items() if k.endswith("token_type_ids")}
    if name.startswith("qwen"):  # the models themselves count positions of a later part by the part alone
        rest["position_ids"] = model.model.get_rope_index(
            ids,
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )[0][..., start:]
    method = RandomTokens(budget=0.4)
    with method(model) as run, torch.no_grad():
        model(**inputs)
        whole = run.trace[0].kept
        mine = model(**rest, **with_cache(model, prefix)).logits[:, -1]
        step = go_on(model, prefix)
        assert keys_seen(prefix, 0) == ids.shape[1] + 5 - int((~whole).sum())

    def full(cache: Any) -> Tensor:
        return go_on(model, cache)

    assert close(step, truth(model, inputs, run, method, full))
    with torch.no_grad(), masked(Host.of(model), run.trace, ids == IMAGE, {0: Positions.KEEP}, mask.bool()):
        assert close(mine, model(**inputs).logits[:, -1])


def test_a_prefix_from_outside_and_methods_that_read_the_decoder() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    start = int((inputs["input_ids"][0] == IMAGE).nonzero()[0])
    prefix = prefill(model, {"input_ids": inputs["input_ids"][:, :start]})
    rest = inputs | {"input_ids": inputs["input_ids"][:, start:]}
    with (
        tk.reduced(model, "fastv"),
        pytest.raises(tk.TokenryError, match="cannot be judged by decoder attention"),
    ):
        model(**rest, **with_cache(model, prefix))
