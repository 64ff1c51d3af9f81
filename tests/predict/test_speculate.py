"""Decoding with draft trees gives what decoding without them gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache, QuantizedLayer
from transformers.generation import stopping_criteria

from tests.hosts.families import FAMILIES
from tests.predict.drafts import Noise, Oracle, texts_of
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError

V = 48


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def prompts(rows: int) -> dict[str, torch.Tensor]:
    """Rows of 9, 5 and 7 tokens, padded on the left."""
    ids = torch.randint(3, V, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :2] = 0
    return {"input_ids": ids[:rows] * mask[:rows], "attention_mask": mask[:rows]}


PROPOSERS: dict[str, Any] = {
    "noise": lambda: Noise(0, V),
    "lookup": PromptLookup,
    "recycling": lambda: TokenRecycling(V),
}


CASES = [
    ("recycling", 1, 0, "sdpa"),
    ("recycling", 3, 0, "eager"),
    *((name, rows, size, "sdpa") for name in sorted(PROPOSERS) for rows in (1, 3) for size in (3, 30)),
    *((name, 3, 30, "eager") for name in sorted(PROPOSERS)),
]


@pytest.mark.parametrize(("name", "rows", "size", "attention"), CASES)
def test_greedy_text_is_the_same(model: Any, name: str, rows: int, size: int, attention: str) -> None:
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    asked = dict(prompts(rows), max_new_tokens=30, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    how = Speculation(PROPOSERS[name](), Fixed(size))
    for _ in range(2):  # the second time with what it has learned
        assert torch.equal(model.generate(**asked, custom_generate=how), expected)
    assert how.stats.tokens == 30 * rows
    if size == 0:
        assert how.stats.forwards == 29


def test_right_guesses_save_passes(model: Any) -> None:
    asked = dict(prompts(3), max_new_tokens=31, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    texts = texts_of(expected, asked["attention_mask"])
    how = Speculation(Oracle(texts), Fixed(8))
    assert torch.equal(model.generate(**asked, custom_generate=how), expected)
    assert how.stats.forwards == 10
    assert how.stats.acceptance_length == 3


@pytest.mark.parametrize("rows", [1, 3])
def test_processors_stops_and_ends_are_those_of_transformers(model: Any, rows: int) -> None:
    free = model.generate(**prompts(rows), max_new_tokens=30, do_sample=False, pad_token_id=0)
    end = int(free[0, 9 + 6])
    for settings in (
        {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
        {"eos_token_id": end},
        {"min_new_tokens": 12, "eos_token_id": end},
        {"bad_words_ids": [[end]]},
    ):
        asked = dict(prompts(rows), max_new_tokens=25, do_sample=False, pad_token_id=0, **settings)
        how = Speculation(TokenRecycling(V), Fixed(12))
        assert torch.equal(model.generate(**asked, custom_generate=how), model.generate(**asked)), settings


def test_criteria_may_answer_for_each_row(model: Any) -> None:
    class Longest(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return input_ids.shape[1] >= torch.tensor([12, 15, 18])

    asked = dict(prompts(3), do_sample=False, pad_token_id=0)
    expected = model.generate(**asked, max_new_tokens=9)
    stop = StoppingCriteriaList([Longest()])
    how = Speculation(Oracle(texts_of(expected, asked["attention_mask"]), (4,)), Fixed(8))
    found = model.generate(**asked, max_new_tokens=20, stopping_criteria=stop, custom_generate=how)
    after = torch.arange(18) >= torch.tensor([[12], [15], [18]])
    assert torch.equal(found, expected.masked_fill(after, 0))


class Both(Noise):
    """Two of the three tokens of the language below, and two after the first."""

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        return Draft.of(text[-1], [[0, 2], [1], [0, 0]], limit)


class Plain(LogitsProcessor):
    """A language over few tokens, whatever the model says."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        table = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]], device=scores.device)
        out = torch.full_like(scores, -torch.inf)
        out[:, :3] = table[input_ids[:, -1] % 3].log()
        return out


def test_sampled_text_is_distributed_the_same(model: Any) -> None:
    n = 700
    how = Speculation(Both(0, V), Fixed(6))
    ids = torch.tensor([[5, 3, 3]]).expand(50, -1)
    torch.manual_seed(0)
    found = torch.cat(
        [
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=True, pad_token_id=0, top_k=0,
                logits_processor=LogitsProcessorList([Plain()]), custom_generate=how,
            )[:, 3:]
            for _ in range(n // 50)
        ]
    )  # fmt: skip
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]])
    total, cells, rare = 0.0, 0, np.zeros(2)
    for a in range(3):
        for b in range(3):
            for c in range(3):
                p = table[0, a] * table[a, b] * table[b, c]
                seen = int((found == torch.tensor([a, b, c])).all(1).sum())
                if n * p < 5:
                    rare += seen, n * p
                else:
                    total += (seen - n * p) ** 2 / (n * p)
                    cells += 1
    total += (rare[0] - rare[1]) ** 2 / rare[1]
    assert cells > 15
    assert total / cells < 1.9
    assert how.stats.acceptance_length > 1.2


def test_a_stream_gets_every_token(model: Any) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.tokens.extend(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    streamer = Streamer()
    how = Speculation(PromptLookup(), Fixed(8))
    out = model.generate(
        **prompts(1),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
        custom_generate=how,
        stream_to=streamer,
    )
    assert streamer.tokens == out[0].tolist()
    assert streamer.ended


def test_an_interruption_gives_what_was_written(model: Any) -> None:
    class Interrupted(Noise):
        calls = 0

        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return Draft.of(text[-1], [])

    asked = dict(prompts(1), max_new_tokens=20, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    how = Speculation(Interrupted(0, V), Fixed(4))
    out = model.generate(**asked, custom_generate=how)
    assert how.stats.interrupted
    assert torch.equal(out, expected[:, : 9 + 4])
    assert torch.equal(model.generate(**asked), expected)
    assert torch.equal(
        model.generate(**asked, custom_generate=Speculation(PromptLookup(), Fixed(4))), expected
    )


def test_an_interruption_within_a_pass_leaves_a_cache_that_can_be_used(model: Any) -> None:
    """Some layers have seen the pass, others have not."""
    model = copy.deepcopy(model)
    asked = dict(prompts(3), max_new_tokens=20, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
    expected = model.generate(**asked).sequences
    how = Speculation(Oracle(texts_of(expected, asked["attention_mask"]), (3, 0, 1, 2)), Fixed(8))
    calls = iter(range(100))

    def stop(module: Any, args: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    out = model.generate(**asked, custom_generate=how)
    hook.remove()
    assert how.stats.interrupted
    new = out.sequences.shape[1] - 9
    lengths = {layer.keys.shape[2] for layer in cache_of(out).layers}
    assert lengths == {9 + new - 1}
    # The rows have got on differently, so what is behind the end of a row is padding.
    for row, full in zip(out.sequences, expected, strict=True):
        assert torch.equal(row[row != 0], full[: len(row)][row != 0])
    assert torch.equal(model.generate(**asked).sequences, expected)


@pytest.mark.parametrize("at", [2, 6])
def test_an_interruption_between_two_tokens_leaves_a_cache_that_can_be_used(model: Any, at: int) -> None:
    """Of what a pass wrote, some has been shown; none of it is in the cache yet."""

    class Shown(Silent):
        calls = 0

        def put(self, value: torch.Tensor) -> None:
            self.calls += 1
            if self.calls == at + 1:
                raise KeyboardInterrupt

    asked = dict(prompts(1), max_new_tokens=7, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
    expected = model.generate(**asked)
    how = Speculation(Oracle(texts_of(expected.sequences, asked["attention_mask"]), (4,)), Fixed(8))
    out = model.generate(**asked, custom_generate=how, stream_to=Shown())
    assert how.stats.interrupted
    assert torch.equal(out.sequences, expected.sequences[:, : 9 + at])
    for layer, other in zip(cache_of(out).layers, cache_of(expected).layers, strict=True):
        assert layer.keys.shape[2] == 9 + at - 1
        assert torch.allclose(layer.keys, other.keys[:, :, : 9 + at - 1], atol=1e-5)


def test_an_interruption_while_the_prompt_is_read_gives_the_prompt(model: Any) -> None:
    model = copy.deepcopy(model)

    def stop(module: Any, args: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    how = Speculation(PromptLookup(), Fixed(4))
    out = model.generate(
        **prompts(1), max_new_tokens=4, pad_token_id=0, custom_generate=how, return_dict_in_generate=True
    )
    hook.remove()
    assert how.stats.interrupted
    assert torch.equal(out.sequences, prompts(1)["input_ids"])
    assert cache_of(out) is None


# --------------------------------------------------------------------------------------------------- bad input

HOW = Speculation(PromptLookup(), Fixed(4))


def test_settings_that_do_not_fit_are_refused(model: Any) -> None:
    asked = dict(prompts(1), max_new_tokens=4, pad_token_id=0, custom_generate=HOW)
    with pytest.raises(UnsupportedError, match="num_beams=2"):
        model.generate(**asked, num_beams=2)
    with pytest.raises(UnsupportedError, match="output_scores"):
        model.generate(**asked, output_scores=True, return_dict_in_generate=True)
    with pytest.raises(UnsupportedError, match="leave use_cache on"):
        model.generate(**asked, use_cache=False)
    with pytest.raises(UnsupportedError, match="leave guidance_scale"):
        model.generate(**asked, guidance_scale=1.5)
    with pytest.raises(InputError, match="one prompt"):
        model.generate(**{**asked, **prompts(3)}, stream_to=Silent())
    with pytest.raises(InputError, match="The prompt is empty"):
        model.generate(torch.zeros(1, 0, dtype=torch.long), max_new_tokens=4, custom_generate=HOW)


class Silent:
    def put(self, value: torch.Tensor) -> None:
        pass

    def end(self) -> None:
        pass


class Halved(QuantizedLayer):
    """A quantised cache that needs no further package."""

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor.half()

    def _dequantize(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float()


def test_caches_that_give_no_tokens_back_are_refused_before_the_prompt_is_read(model: Any) -> None:
    model = copy.deepcopy(model)
    passes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1))
    asked = dict(prompts(1), max_new_tokens=4, pad_token_id=0, custom_generate=HOW)
    with pytest.raises(UnsupportedError, match="StaticCache with StaticLayer"):
        model.generate(**asked, cache_implementation="static")
    quantized = Cache(layers=[Halved() for _ in range(3)])
    with pytest.raises(UnsupportedError, match="Cache with Halved"):
        model.generate(**asked, **with_cache(model, quantized))
    offloaded = DynamicCache(config=model.config)
    offloaded.offloading = True  # what offloading=True does on a machine with an accelerator
    with pytest.raises(UnsupportedError, match="offloaded DynamicCache"):
        model.generate(**asked, **with_cache(model, offloaded))
    assert not passes


def test_models_without_a_cache_of_keys_are_refused(model: Any) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, state_size=4))
    asked = dict(prompts(1), max_new_tokens=4, pad_token_id=0, custom_generate=HOW)
    with pytest.raises(UnsupportedError, match="MambaForCausalLM keeps no cache of keys"):
        mamba.generate(**asked)
    with pytest.raises(UnsupportedError, match="Qwen3_5ForCausalLM keeps no cache of keys"):
        FAMILIES["qwen3.5"].build().generate(**asked)


def windowed(window: int) -> Any:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=V, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=window, initializer_range=0.3, eos_token_id=None,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("rows", [1, 3])
def test_sliding_windows_longer_than_the_text_do_not_matter(rows: int) -> None:
    model = windowed(29)
    asked = dict(prompts(rows), do_sample=False, pad_token_id=0)
    expected = model.generate(**asked, max_new_tokens=20)
    how = Speculation(Oracle(texts_of(expected, asked["attention_mask"]), (2, 3, 0)), Fixed(8))
    assert torch.equal(model.generate(**asked, max_new_tokens=20, custom_generate=how), expected)
    for own in (
        {},
        with_cache(model, DynamicCache()),
    ):  # a cache without windows still meets masks with them
        with pytest.raises(
            UnsupportedError, match=r"MistralForCausalLM .* sliding window of 29 .* grow to 30"
        ):
            model.generate(**asked, **own, max_new_tokens=21, custom_generate=how)


def test_prompts_longer_than_the_context_are_warned_of_as_without_drafts(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(stopping_criteria.logger, "warning_once", warned.append)
    model = copy.deepcopy(model)
    model.config.max_position_embeddings = 6
    asked = dict(prompts(1), max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    plain = set(warned)
    warned.clear()
    how = Speculation(Oracle(texts_of(expected, asked["attention_mask"])), Fixed(8))
    assert torch.equal(model.generate(**asked, custom_generate=how), expected)
    assert len(plain) == 1
    assert set(warned) == plain


def test_trees_end_where_a_table_of_positions_ends() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V, n_positions=16, n_embd=32, n_layer=2, n_head=2, eos_token_id=None, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config).eval()
    asked = dict(prompts(3), do_sample=False, pad_token_id=0)
    expected = model.generate(**asked, max_new_tokens=8)
    for proposer in (Noise(1, V), Oracle(texts_of(expected, asked["attention_mask"]), (5,))):
        how = Speculation(proposer, Fixed(12))
        assert torch.equal(model.generate(**asked, max_new_tokens=8, custom_generate=how), expected)
    for way in ({}, {"custom_generate": HOW}):
        with pytest.raises(IndexError):
            model.generate(**asked, max_new_tokens=12, **way)


@pytest.mark.parametrize("token", [V, V + 5, -1])
def test_tokens_of_another_vocabulary_are_told(model: Any, token: int) -> None:
    class Stranger(Noise):
        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            return Draft.of(text[-1], [[token]])

    asked = dict(prompts(1), max_new_tokens=4, do_sample=False, pad_token_id=0)
    with pytest.raises(TokenryError, match=f"Stranger proposed token {token}, outside the vocabulary of {V}"):
        model.generate(**asked, custom_generate=Speculation(Stranger(0, V), Fixed(4)))


def test_a_draft_of_another_text_is_told(model: Any) -> None:
    class Elsewhere(Noise):
        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            return Draft.of((text[-1] + 1) % V, [])

    with pytest.raises(TokenryError, match="Elsewhere proposed a draft with token"):
        model.generate(
            **prompts(1),
            max_new_tokens=4,
            pad_token_id=0,
            custom_generate=Speculation(Elsewhere(0, V), Fixed(4)),
        )


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_models_are_told(model: Any, value: float, at: int) -> None:
    """In the pass over the prompt, or later."""
    broken = copy.deepcopy(model)
    calls = iter(range(100))

    def spoil(module: Any, args: Any, output: Any) -> Any:
        if next(calls) == at:
            output.logits[0, -1, 1] = value
        return output

    broken.register_forward_hook(spoil)
    asked = dict(prompts(1), max_new_tokens=8, do_sample=False, pad_token_id=0)
    with pytest.raises(
        TokenryError, match=f"LlamaForCausalLM gave logits that are not numbers after {at} tokens"
    ):
        broken.generate(**asked, custom_generate=Speculation(Noise(0, V), Fixed(0)))


def test_tokens_that_a_model_rules_out_are_no_mistake(model: Any) -> None:
    masked = copy.deepcopy(model)

    def forbid(module: Any, args: Any, output: Any) -> Any:
        output.logits[..., 7] = -torch.inf
        return output

    masked.register_forward_hook(forbid)
    asked = dict(prompts(3), max_new_tokens=12, do_sample=False, pad_token_id=0)
    expected = masked.generate(**asked)
    assert torch.equal(masked.generate(**asked, custom_generate=HOW), expected)


def test_proposers_are_proposers() -> None:
    assert all(isinstance(made(), Proposer) for made in PROPOSERS.values())
