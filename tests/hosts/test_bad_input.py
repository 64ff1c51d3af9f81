"""What a user can get wrong: a clear `TokenryError`, and a model that is exactly what it was."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import FAMILIES, Inputs, prompts, text
from tests.hosts.test_families import logits_of, state_of
from tokenry.hosts.host import Host
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.reduce.aim import AIM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.session import encode
from tokenry.tokens import InputError, ReductionError, Stage, TokenryError, UnsupportedError


@functools.cache
def built(family: str) -> PreTrainedModel:
    return FAMILIES[family].build("sdpa")


def batch(family: str, shape: str = "one") -> Inputs:
    return FAMILIES[family].batch(built(family), shape)


@contextmanager
def left_as_it_was(family: str) -> Iterator[Any]:
    """The model; afterwards its state and its outputs, bit for bit, are what they were."""
    model, inputs = built(family), batch(family)
    if FAMILIES[family].tokens is None:
        before, marks = logits_of(model, inputs), state_of(model)
        yield model
        assert state_of(model) == marks
        assert torch.equal(logits_of(model, inputs), before)
    else:
        yield model


def refused(
    family: str,
    act: Callable[[Any], Any],
    error: type[TokenryError],
    message: str,
    method: Any = None,
    **options: Any,
) -> None:
    """Acting inside a session is refused with an error and a message."""

    def inside(model: Any) -> None:
        chosen = RandomTokens(budget=0.5) if method is None else method
        with tk.reduced(model, chosen, **options):
            act(model)

    with left_as_it_was(family) as model, pytest.raises(error, match=message):
        inside(model)


def nothing(model: Any) -> None: ...


def test_a_picture_without_a_place_in_the_prompt() -> None:
    words = prompts([1, text(6, 1)]) | {"pixel_values": batch("llava")["pixel_values"]}
    for call in (lambda m: m(**words), lambda m: m.generate(**words, max_new_tokens=2)):
        refused("llava", call, InputError, r"Pictures come .* none of its 7 tokens .*image = 110")


def test_a_model_without_visual_tokens() -> None:
    refused("llama", nothing, UnsupportedError, r"LlamaForCausalLM has no visual tokens .*tokens=slice")


def test_not_a_transformers_model() -> None:
    for thing in (torch.nn.Linear(2, 2), "llava", None):
        with pytest.raises(InputError, match="Expected a transformers model, got"):
            Host.of(thing)


def test_a_model_that_is_no_decoder() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(UnsupportedError, match="decoder-only"):
        tk.reduced(BertModel(config), "random")


def test_stages_that_are_not_there() -> None:
    class InTheEncoder(RandomTokens):
        stage = Stage.ENCODER

    refused(
        "llava",
        nothing,
        UnsupportedError,
        "acts at stage encoder; supported here: input, layer",
        InTheEncoder(),
    )
    family = FAMILIES["qwen3.5"]
    with pytest.raises(UnsupportedError, match="supports stage input only: its decoder has linear_attention"):
        tk.reduced(built("qwen3.5"), "fastv", tokens=family.tokens)


def test_kinds_of_attention_that_are_unknown() -> None:
    """Chunks of attention have borders that would move; better no answer than a wrong one."""
    model: Any = FAMILIES["llama"].build("sdpa")
    model.model.config.layer_types = ["chunked_attention", "full_attention"] * 2
    with pytest.raises(UnsupportedError, match="supports no stage: its decoder has chunked_attention layers"):
        tk.reduced(model, "random", tokens=slice(8, 28))


@pytest.mark.parametrize("family", ["llava-onevision", "gemma3", "qwen2-vl"])
def test_a_tower_without_cls(family: str) -> None:
    refused(
        family,
        nothing,
        UnsupportedError,
        r"no vision encoder with a \[CLS\] token.*names no `cls_layers`",
        "fastervlm",
    )


def test_a_text_model_has_no_cls_either() -> None:
    refused("llama", nothing, UnsupportedError, "no vision encoder", "fastervlm", tokens=slice(8, 28))


def test_cls_of_folded_patches() -> None:
    inputs = batch("internvl")
    refused("internvl", lambda m: m(**inputs), UnsupportedError, "folds or interpolates", "fastervlm")


def test_the_language_model_on_its_own() -> None:
    embedded = torch.randn(1, 5, 32)
    inputs = batch("llava")

    def past(model: Any) -> None:
        model(**inputs)
        model.model.language_model(inputs_embeds=embedded)

    refused("llava", past, UnsupportedError, "called on its own.*Call the whole model")


def test_static_caches_at_a_layer() -> None:
    from transformers import StaticCache

    inputs = batch("llava")

    def own(model: Any) -> None:
        model(**inputs, **with_cache(model, StaticCache(config=model.config.text_config, max_cache_len=80)))

    for method in (FastV(budget=0.5), PyramidDrop(budget=0.5)):
        refused("llava", own, UnsupportedError, "StaticCache.*Use the default", method)
        refused(
            "llava",
            lambda m: m.generate(**inputs, max_new_tokens=2, cache_implementation="static"),
            UnsupportedError,
            "(?i)static ?cache",
            method,
        )


def test_a_second_session() -> None:
    def second(model: Any) -> None:
        with tk.reduced(model, "pool"):
            pass

    refused("llava", second, TokenryError, r"already runs reduced.*tk.reduced\(model, \[first, second\]\)")


def test_the_same_session_again_after_it_ended() -> None:
    with left_as_it_was("llava") as model:
        session = tk.reduced(model, "random", budget=0.5)
        for _ in range(2):
            with session:
                model(**batch("llava"))
        assert len(session.trace) == 1


def test_masks_of_the_wrong_length() -> None:
    inputs = batch("llava")
    short = inputs | {"attention_mask": torch.ones(1, 12, dtype=torch.long)}
    refused("llava", lambda m: m(**short), InputError, "mask covers 12 tokens; 0 were seen before .* 48")

    def later(model: Any) -> None:
        cache = cache_of(model(**inputs, use_cache=True))
        mask = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long)
        model(input_ids=torch.tensor([[9]]), **with_cache(model, cache), attention_mask=mask)

    refused("llava", later, InputError, "full, unshortened length")
    wide = inputs | {"attention_mask": torch.ones(1, 1, 48, 48, dtype=torch.bool)}
    refused("llava", lambda m: m(**wide), UnsupportedError, "2-D padding masks")


def test_caches_of_other_origin() -> None:
    inputs = batch("llava")
    with torch.no_grad():
        outside = cache_of(built("llava")(**inputs, use_cache=True))
    refused(
        "llava",
        lambda m: m(input_ids=torch.tensor([[9]]), **with_cache(m, outside)),
        InputError,
        "filled outside the session",
    )

    def both(model: Any) -> None:
        inside = cache_of(model(**inputs, use_cache=True))
        keys = torch.zeros(1, 2, 1, 8)
        inside.update(keys, keys, 0)
        model(input_ids=torch.tensor([[9]]), **with_cache(model, inside))

    refused("llava", both, InputError, "cannot go on outside a session")

    def other_batch(model: Any) -> None:
        inside = cache_of(model(**inputs, use_cache=True))
        model(input_ids=torch.tensor([[9], [9]]), **with_cache(model, inside))

    refused("llava", other_batch, InputError, r"holds 1 sequence\(s\), this call has 2")


def test_embeddings_alone() -> None:
    inputs = batch("llava")
    embedded = built("llava").get_input_embeddings()(inputs["input_ids"])
    refused("llava", lambda m: m(inputs_embeds=embedded), InputError, "Pass `input_ids`")


def test_an_attention_implementation_of_unknown_form() -> None:
    model: Any = FAMILIES["llava"].build("sdpa")
    model.model.language_model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(UnsupportedError, match=r"'flex_attention' is not supported; .*sdpa, flash or eager"):
        tk.reduced(model, "random")


def test_orders_and_layers_that_cannot_be() -> None:
    refused(
        "llava",
        nothing,
        TokenryError,
        "random acts before layer 0, but is listed after fastv.*List methods in the order",
        [FastV(budget=0.5), RandomTokens(budget=0.5)],
    )
    refused("llava", nothing, TokenryError, "Layer 9 does not exist in a stack of 4", FastV(layer=9))
    refused("llava", nothing, TokenryError, "No method given", [])
    refused("llava", nothing, TokenryError, "distinct, ascending layers", PyramidDrop(layers=(2, 2)))


def test_answers_that_are_no_reduction() -> None:
    class Other(RandomTokens):
        def apply(self, view: Any) -> Any:
            return tk.Reduction.identity(view.length + 1)

    inputs = batch("llava")
    refused("llava", lambda m: m(**inputs), ReductionError, "reduction of other items", Other())


def test_spans_that_mark_nothing_or_do_not_fit() -> None:
    inputs = batch("llama")
    model: Any = built("llama")
    for tokens, message in (
        (slice(90, 99), "marks no token"),
        (torch.ones(1, 5, dtype=torch.bool), "the prompt is"),
        (lambda ids: None, "the prompt is"),
    ):
        with pytest.raises(InputError, match=message), tk.reduced(model, "random", tokens=tokens):
            model(**inputs)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_nothing_ran_yet() -> None:
    with left_as_it_was("llava") as model, tk.reduced(model, "random") as run:
        for ask in ("trace", "cost", "lengths"):
            with pytest.raises(InputError, match="Nothing has run in this session yet"):
                getattr(run, ask)


def test_pictures_spread_over_calls() -> None:
    inputs = batch("llava", "two")
    refused(
        "llava",
        lambda m: m.generate(**inputs, max_new_tokens=2, prefill_chunk_size=24),
        TokenryError,
        ".",
    )


def test_a_picture_in_a_later_turn_cannot_be_judged_by_attention() -> None:
    inputs = batch("llava")

    def later(model: Any) -> None:
        cache = cache_of(model(**inputs, use_cache=True))
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], **with_cache(model, cache))

    refused("llava", later, UnsupportedError, "later turn", FastV(budget=0.5))
    with left_as_it_was("llava") as model, RandomTokens(budget=0.5)(model):
        later(model)


def test_encoding_nothing() -> None:
    with left_as_it_was("llava") as model:
        with pytest.raises(InputError, match="no picture among the inputs"):
            encode(model, prompts([1, text(5, 1)]), ["pool"])
        with pytest.raises(UnsupportedError, match="CLS"):
            encode(built("gemma3"), batch("gemma3"), ["fastervlm"])


def test_aim_and_its_neighbours_leave_nothing_behind() -> None:
    with left_as_it_was("llava") as model, AIM()(model):
        model(**batch("llava", "ragged"))
