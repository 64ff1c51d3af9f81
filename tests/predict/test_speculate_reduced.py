"""Draft trees inside `tk.reduced`: what plain decoding gives inside the same block, token for token."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tokenry as tk
from tests.hosts.families import FAMILIES, VOCAB, Inputs, prompts, text
from tests.predict.drafts import Noise, Oracle, texts_of
from tokenry.data.questions.examples import load_scenes
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.predict.lm.calibrate import calibrate
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.predict.lm.tree import Draft, Probes
from tokenry.reduce import Reducer
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import InputError, UnsupportedError

NEW = 12
METHODS: tuple[Reducer, ...] = (
    RandomTokens(budget=0.4),
    RandomTokens(budget=0.4, positions="compact"),
    Pool(budget=0.4),
    FastV(budget=0.3, layer=2),
    FastV(budget=0.3, layer=2, positions="compact"),
    PyramidDrop(budget=0.3),
    FasterVLM(budget=0.3),
    FasterVLM(budget=0.3, positions="keep"),
)
GREEDY = dict(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
AHEAD = (3, 0, 1, 2, 4)
"""Right guesses per pass, so that the rows of a batch get on differently."""


@functools.cache
def built(family: str, attention: str = "sdpa") -> Any:
    return FAMILIES[family].build(attention)


def same(model: Any, inputs: Inputs, method: Reducer, tokens: Any = None, **settings: Any) -> list[float]:
    """Compare decoding with and without drafts inside one block; acceptance lengths of the proposers."""
    lengths = []
    asked = inputs | GREEDY | settings
    with tk.reduced(model, method, tokens=tokens) as run:
        expected = model.generate(**asked)
        kept = [item.kept for item in run.trace]
        texts = texts_of(expected, inputs["attention_mask"])
        proposers: list[Proposer] = [Noise(0, VOCAB), Oracle(texts, AHEAD)]
        for proposer in proposers:
            how = Speculation(proposer, Fixed(9))
            assert torch.equal(model.generate(**asked, custom_generate=how), expected), proposer
            assert all(torch.equal(item.kept, k) for item, k in zip(run.trace, kept, strict=True))
            lengths.append(how.stats.acceptance_length)
    return lengths


def named(method: Reducer | None) -> str:
    return f"{method.slug}-{method.positions}" if method else "whole"


CASES = [
    pytest.param(name, shape, method, id=f"{name}-{shape}-{named(method)}")
    for name in ("llava", "qwen2-vl", "llama")
    for shape in ("one", "ragged", "mixed")
    for method in {"one": METHODS[1:4], "ragged": METHODS, "mixed": METHODS[1::3]}[shape]
    if shape in FAMILIES[name].shapes and (FAMILIES[name].has_cls or not isinstance(method, FasterVLM))
]


@pytest.mark.parametrize(("name", "shape", "method"), CASES)
def test_greedy_text_is_the_same(name: str, shape: str, method: Reducer) -> None:
    family, model = FAMILIES[name], built(name)
    noise, oracle = same(model, family.batch(model, shape), method, family.tokens)
    assert noise < 1.3
    assert oracle > 1.8


@pytest.mark.parametrize("name", ["llava-next", "qwen3-vl", "smolvlm", "paligemma", "opt", "gpt-neox"])
def test_other_hosts(name: str) -> None:
    """Deepstack, tiles, prefixes that look both ways, learned positions; pictures of different numbers of tokens."""
    family, model = FAMILIES[name], built(name)
    for method in (RandomTokens(budget=0.4, positions="compact"), FastV(budget=0.3, layer=2)):
        assert same(model, family.batch(model, "ragged"), method, family.tokens)[1] > 1.8


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_eager_attention(name: str) -> None:
    family, model = FAMILIES[name], built(name, "eager")
    for method in (RandomTokens(budget=0.4), FastV(budget=0.3, layer=2, positions="compact")):
        same(model, family.batch(model, "ragged"), method)


def test_rows_that_lose_different_numbers_of_tokens() -> None:
    model: Any = built("llama")
    inputs = FAMILIES["llama"].batch(model, "ragged")
    marks = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    marks[0, 3:31] = marks[1, 12:20] = True
    for method in METHODS[1:4]:
        same(model, inputs, method, marks)


@pytest.mark.parametrize("name", ["mistral3", "gemma3"])
def test_windows_longer_than_the_text(name: str) -> None:
    family = FAMILIES[name]
    model: Any = family.build()
    inputs = family.batch(model, "ragged")
    method = FastV(budget=0.3, layer=2)
    with tk.reduced(model, method), pytest.raises(UnsupportedError, match="sliding window"):
        model.generate(**inputs, **GREEDY, custom_generate=Speculation(TokenRecycling(VOCAB), Fixed(4)))
    config = family.config()
    config.text_config.sliding_window = inputs["input_ids"].shape[1] + NEW
    wide: Any = family.model._from_config(config, attn_implementation="sdpa").eval()
    wide.load_state_dict(model.state_dict())
    wide.generation_config = model.generation_config
    for method_ in (method, RandomTokens(budget=0.4)):
        assert same(wide, inputs, method_)[1] > 1.8


@pytest.mark.parametrize("method", METHODS[1:4], ids=named)
def test_sampled_text_is_the_same(method: Reducer) -> None:
    """One row, one draw a token: the same seed gives the same text."""
    model = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    asked = inputs | dict(max_new_tokens=NEW, do_sample=True, temperature=0.7, top_k=20, pad_token_id=0)
    with tk.reduced(model, method):
        for seed in range(3):
            torch.manual_seed(seed)
            expected = model.generate(**asked)
            texts = texts_of(expected, inputs["attention_mask"])
            for proposer in (Noise(0, VOCAB), Oracle(texts, AHEAD)):
                torch.manual_seed(seed)
                how = Speculation(proposer, Fixed(9))
                assert torch.equal(model.generate(**asked, custom_generate=how), expected)
            assert how.stats.acceptance_length > 1.5


def test_stops_processors_and_passes_of_the_session() -> None:
    model = built("qwen2-vl")
    inputs = FAMILIES["qwen2-vl"].batch(model, "ragged")
    method = RandomTokens(budget=0.4, positions="compact")
    with tk.reduced(model, method):
        free = model.generate(**inputs, **GREEDY)
    end = int(free[0, inputs["input_ids"].shape[1] + 5])
    for settings in ({"eos_token_id": end}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}):
        same(model, inputs, method, **settings)


def test_the_embedded_model() -> None:
    model, processor = tk.load("embedded")
    scenes = load_scenes("test", 2)
    asked = ["<image>\nwhat is in the picture?", "<image>\nwhat color is the thing at the top left?"]
    inputs = dict(
        processor(images=[scene.image for scene in scenes], text=asked, padding=True, return_tensors="pt")
    )
    vocabulary = model.config.get_text_config().vocab_size
    settings = inputs | dict(max_new_tokens=16, min_new_tokens=16, do_sample=False)
    for method in (FasterVLM(budget=64), PyramidDrop(budget=0.3)):
        how = Speculation(TokenRecycling(vocabulary), Fixed(12))
        with tk.reduced(model, method) as run:
            expected = model.generate(**settings)
            kept = run.trace[0].kept
            assert calibrate(model, rows=(2,), context=8, rounds=1).context == 8
            assert torch.equal(run.trace[0].kept, kept)
            for _ in range(2):
                assert torch.equal(model.generate(**settings, custom_generate=how), expected)
        assert how.stats.acceptance_length > 1.5


class Probing(Noise):
    """Rows that are no tokens, beside guesses that mean nothing."""

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        draft = super().propose(row, text, limit)
        after = np.array([0, 0, draft.tree.n - 1])
        sees = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
        probes = Probes(after, np.array([1, 2, 1]), sees, torch.full((3, 32), 0.5))
        return Draft(draft.tree, draft.tokens, probes)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_probes_leave_no_trace(name: str) -> None:
    model = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    for method in (METHODS[1], METHODS[3]):
        with tk.reduced(model, method):
            expected = model.generate(**inputs, **GREEDY)
            how = Speculation(Probing(0, VOCAB), Fixed(6))
            assert torch.equal(model.generate(**inputs, **GREEDY, custom_generate=how), expected)


# ------------------------------------------------------------------------------------------------ hidden states


class Reader:
    """Wants to see hidden states."""

    hidden = True

    def __init__(self) -> None:
        self.read: list[Tensor] = []
        self.verified: list[Verified] = []

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None) -> None:
        assert hidden is not None
        assert [len(h) for h in hidden] == [len(prompt) for prompt in prompts]
        self.read = list(hidden)

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        return Draft.of(text[-1], [[5, 6], [7]])

    def learn(self, row: int, verified: Verified) -> None:
        self.verified.append(verified)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[3]], ids=lambda m: m.slug)
def test_hidden_states_are_laid_out_as_the_prompt(method: Reducer) -> None:
    """One a token; those of tokens that were dropped are zero."""
    model = built("llava")
    inputs = FAMILIES["llava"].batch(model, "ragged")
    reader = Reader()
    with tk.reduced(model, method) as run:
        expected = model.generate(**inputs, **GREEDY)
        how = Speculation(reader, Fixed(4))
        assert torch.equal(model.generate(**inputs, **GREEDY, custom_generate=how), expected)
        kept = [item.kept_at(3) for item in run.trace]
    width = inputs["input_ids"].shape[1]
    for row, hidden in enumerate(reader.read):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        there = hidden.abs().sum(-1) > 0
        assert torch.equal(there[ids == 110], kept[row])
        assert bool(there[ids != 110].all())
        assert int(model.lm_head(hidden[-1]).argmax()) == int(expected[row, width])
    for verified in reader.verified:
        assert verified.hidden is not None
        assert torch.allclose(model.lm_head(verified.hidden), verified.logits, atol=1e-5)


# ------------------------------------------------------------------------------------------------- later turns


def turns(
    model: Any, inputs: Inputs, proposer: Any, whole: bool = False, **settings: Any
) -> tuple[list[list[int]], Any]:
    """What is written in a second turn, and the cache after it. `whole`: the second call gets all of the text."""
    asked = GREEDY | dict(return_dict_in_generate=True) | settings
    way = [{}, {}]
    if proposer is not None:
        way = [{"custom_generate": Speculation(proposer, Fixed(9))} for _ in range(2)]
    first = model.generate(**inputs, **asked, **way[0])
    rows, length = first.sequences.shape
    new = torch.tensor([text(5, 50 + row) for row in range(rows)])
    ids = torch.cat([first.sequences, new], 1)
    ended = torch.zeros(rows, length - inputs["attention_mask"].shape[1], dtype=torch.long)
    if "eos_token_id" in settings:  # what stands behind the end of a row is padding
        written = first.sequences[:, inputs["attention_mask"].shape[1] :] == settings["eos_token_id"]
        ended = (written.long().cumsum(1) - written.long()).clamp(max=1)
    mask = torch.cat([inputs["attention_mask"], 1 - ended, torch.ones_like(new)], 1)
    shown = ids if whole else ids[:, length - 1 :]
    cache = cache_of(first)
    second = model.generate(
        input_ids=shown,
        attention_mask=mask,
        **with_cache(model, cache),
        **asked | {"max_new_tokens": 6},
        **way[1],
    )
    return second.sequences[:, shown.shape[1] :].tolist(), cache_of(second)


TURNS = [
    pytest.param(name, method, shape, ends, id=f"{name}-{named(method)}-{shape}-{ends}")
    for name in ("llava", "qwen2-vl", "llama")
    for method in (None, METHODS[1], METHODS[3])
    for shape, ends in (("one", False), ("ragged", False), ("ragged", True))
    if shape == "ragged" or name == "qwen2-vl"
]


@pytest.mark.parametrize(("name", "method", "shape", "ends"), TURNS)
def test_a_second_turn_goes_on_from_the_cache(
    name: str, method: Reducer | None, shape: str, ends: bool
) -> None:
    """Also where rows ended at different lengths."""
    family, model = FAMILIES[name], built(name)
    inputs = family.batch(model, shape)
    width = inputs["input_ids"].shape[1]

    def block() -> Any:
        return nullcontext() if method is None else tk.reduced(model, method, tokens=family.tokens)

    with block():
        sequences = model.generate(**inputs, **GREEDY)
        settings = {"eos_token_id": int(sequences[0, width + 6])} if ends else {}
        expected, cache = turns(model, inputs, None, **settings)
        if ends:
            sequences = model.generate(**inputs, **GREEDY, **settings)
    with block():
        oracle = Oracle(texts_of(sequences, inputs["attention_mask"]), AHEAD)
        found, own = turns(model, inputs, oracle, **settings)
    assert found == expected
    for layer, other in zip(own.layers, cache.layers, strict=True):
        assert layer.keys.shape == other.keys.shape
        if not ends:  # else what plain decoding holds behind a row's end means nothing
            assert torch.allclose(layer.keys, other.keys, atol=1e-4)


@pytest.mark.parametrize("proposer", [None, TokenRecycling(VOCAB)], ids=["plain", "trees"])
@pytest.mark.parametrize("shape", ["one", "ragged"])
@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "llama"])
def test_a_whole_conversation_is_cut_in_the_right_place(name: str, shape: str, proposer: Any) -> None:
    """transformers cuts what was seen off by the cache's length, which is that of the whole text where it asks."""
    family, model = FAMILIES[name], built(name)
    inputs = family.batch(model, shape)
    for method in (METHODS[3], METHODS[0]):  # from layer 2 on, and at the way in
        with tk.reduced(model, method, tokens=family.tokens):
            assert turns(model, inputs, proposer, whole=True)[0] == turns(model, inputs, None)[0]


def test_an_interrupted_text_goes_on_from_its_cache() -> None:
    """The pass was stopped between two layers, one of which has seen it."""
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    width = inputs["input_ids"].shape[1]
    for method in (METHODS[1], METHODS[3]):
        calls = iter(range(100))

        def stop(module: Any, args: Any, calls: Any = calls) -> None:
            if next(calls) == 4:
                raise KeyboardInterrupt

        with tk.reduced(model, method):
            expected = model.generate(**inputs, **GREEDY)
            how = Speculation(Oracle(texts_of(expected, inputs["attention_mask"]), AHEAD), Fixed(9))
            hook = model.get_decoder().layers[2].register_forward_pre_hook(stop)
            part = model.generate(**inputs, **GREEDY, custom_generate=how, return_dict_in_generate=True)
            hook.remove()
            assert how.stats.interrupted
            length = part.sequences.shape[1]
            assert width < length < width + NEW
            assert torch.equal(part.sequences, expected[:, :length])
            rest = model.generate(
                input_ids=part.sequences[:, -1:], attention_mask=torch.ones_like(part.sequences),
                **with_cache(model, cache_of(part)), **GREEDY | {"max_new_tokens": width + NEW - length},
            )  # fmt: skip
            assert torch.equal(rest[:, 1:], expected[:, length:])


def test_a_cache_that_leaves_the_block_is_refused() -> None:
    model = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    with tk.reduced(model, METHODS[0]):
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    mask = torch.ones(1, first.sequences.shape[1] + 3, dtype=torch.long)
    new = torch.cat([first.sequences[:, -1:], torch.tensor([text(3, 1)])], 1)
    how = Speculation(TokenRecycling(VOCAB), Fixed(4))
    with pytest.raises(InputError, match=r"cannot go on outside a session"):
        model.generate(
            input_ids=new,
            attention_mask=mask,
            **with_cache(model, cache_of(first)),
            custom_generate=how,
            **GREEDY,
        )


def test_proposers_that_read_the_prompt_need_all_of_it() -> None:
    model = built("llama")
    inputs = prompts([1, text(12, 1)])
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    how = Speculation(Reader(), Fixed(4))
    mask = torch.ones_like(first.sequences)
    with pytest.raises(UnsupportedError, match="Reader reads the whole prompt, but the cache holds"):
        model.generate(
            input_ids=first.sequences, attention_mask=mask, **with_cache(model, cache_of(first)),
            custom_generate=how, **GREEDY,
        )  # fmt: skip
    with pytest.raises(UnsupportedError, match="leave prefill_chunk_size off"):
        model.generate(**inputs, **GREEDY, custom_generate=how, prefill_chunk_size=5)


# ------------------------------------------------------------------------------------------------- masks of one's own


def test_a_mask_of_ones_own_covers_the_full_text() -> None:
    """As 2-D masks do; each layer gets the columns that it holds."""
    model = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    width = inputs["input_ids"].shape[1]
    more = torch.tensor([text(3, 4)])
    for method in (METHODS[0], METHODS[1], METHODS[3]):
        with tk.reduced(model, method), torch.no_grad():
            cache = cache_of(model(**inputs, use_cache=True))
            expected = model(input_ids=more, **with_cache(model, cache)).logits
            cache = cache_of(model(**inputs, use_cache=True))
            mask = torch.ones(3, width + 3, dtype=torch.bool).tril(width)[None, None]
            drawn = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            ids = torch.arange(width, width + 3)[None]
            found = model(
                input_ids=more, **with_cache(model, cache), attention_mask=drawn, position_ids=ids
            ).logits
            assert torch.allclose(found, expected, atol=1e-4)
            cache = cache_of(model(**inputs, use_cache=True))
            with pytest.raises(InputError, match="Pass a mask of the full, unshortened length"):
                model(
                    input_ids=more,
                    **with_cache(model, cache),
                    attention_mask=drawn[..., 10:],
                    position_ids=ids,
                )


def test_a_layer_that_gets_other_columns_than_it_holds_gives_other_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trap that this avoids: the last columns of the mask, as many as a layer holds."""
    model = built("qwen2-vl")
    inputs = FAMILIES["qwen2-vl"].batch(model, "ragged")
    original = DecoderCall._build_mask

    def last_columns(self: DecoderCall, segment: Any, layer: int) -> Any:
        mask = original(self, segment, layer)
        return self.outer[""][..., -mask.shape[-1] :] if self.drawn and mask is not None else mask

    monkeypatch.setattr(DecoderCall, "_build_mask", last_columns)
    with tk.reduced(model, RandomTokens(budget=0.4)):
        expected = model.generate(**inputs, **GREEDY)
        how = Speculation(Oracle(texts_of(expected, inputs["attention_mask"]), AHEAD), Fixed(4))
        found = model.generate(**inputs, **GREEDY, custom_generate=how)
    assert not torch.equal(found, expected)
