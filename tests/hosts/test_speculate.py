"""Decoding with draft trees gives what decoding without them gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
)

from tokenry.hosts.speculate import Speculation
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.sizing import Adaptive, Fixed
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError

V = 48


class Noise:
    """Guesses that mean nothing, in trees of any shape."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    hidden = False

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[torch.Tensor] | None) -> None:
        pass

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        n = int(self.generator.integers(0, limit + 1))
        parent = np.array([-1, *(int(self.generator.integers(0, i)) for i in range(1, n + 1))])
        tokens = self.generator.integers(0, V, n + 1)
        tokens[0] = text[-1]
        return Draft(DraftTree(parent, np.zeros(n + 1, np.int64)), tokens)

    def learn(self, row: int, verified: Verified) -> None:
        assert verified.logits.shape == (verified.draft.tree.n, V)


class Oracle:
    """Guesses that are right, two tokens ahead, with wrong ones beside them."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    hidden = False

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[torch.Tensor] | None) -> None:
        pass

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        after = self.texts[row][len(text) : len(text) + 2]
        wrong = [[(t + 1) % V] for t in after[:1]]
        return Draft.of(text[-1], [*wrong, after], limit)

    def learn(self, row: int, verified: Verified) -> None:
        pass


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
    "noise": lambda: Noise(0),
    "lookup": PromptLookup,
    "recycling": lambda: TokenRecycling(V),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("size", [0, 3, 30])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", sorted(PROPOSERS))
def test_greedy_text_is_the_same(model: Any, name: str, rows: int, size: int, attention: str) -> None:
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    asked = dict(prompts(rows), max_new_tokens=40, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    how = Speculation(PROPOSERS[name](), Fixed(size))
    for _ in range(2):  # the second time with what it has learned
        assert torch.equal(model.generate(**asked, custom_generate=how), expected)
    assert how.stats.tokens == 40 * rows
    if size == 0:
        assert how.stats.forwards == 39


def test_right_guesses_save_passes(model: Any) -> None:
    asked = dict(prompts(3), max_new_tokens=31, do_sample=False, pad_token_id=0)
    expected = model.generate(**asked)
    real = torch.nn.functional.pad(asked["attention_mask"], (0, 31), value=1).bool()
    texts = [row[keep].tolist() for row, keep in zip(expected, real, strict=True)]
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


class Both(Noise):
    """Two of the three tokens of the language below, and two after the first."""

    def __init__(self) -> None:
        super().__init__(0)

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
    n = 1500
    how = Speculation(Both(), Fixed(6))
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
    total = 0.0
    for a in range(3):
        for b in range(3):
            for c in range(3):
                p = table[0, a] * table[a, b] * table[b, c]
                seen = int((found == torch.tensor([a, b, c])).all(1).sum())
                total += (seen - n * p) ** 2 / (n * p)
    assert total / 26 < 1.8
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
    how = Speculation(Interrupted(0), Fixed(4))
    out = model.generate(**asked, custom_generate=how)
    assert how.stats.interrupted
    assert torch.equal(out, expected[:, : 9 + 4])
    assert torch.equal(model.generate(**asked), expected)
    assert torch.equal(
        model.generate(**asked, custom_generate=Speculation(PromptLookup(), Fixed(4))), expected
    )


def test_what_does_not_fit_is_refused(model: Any) -> None:
    how = Speculation(PromptLookup(), Fixed(4))
    asked = dict(prompts(1), max_new_tokens=4, pad_token_id=0, custom_generate=how)
    with pytest.raises(UnsupportedError, match="num_beams=2"):
        model.generate(**asked, num_beams=2)
    with pytest.raises(UnsupportedError, match="StaticLayer"):
        model.generate(**asked, cache_implementation="static")
    with pytest.raises(UnsupportedError, match="output_scores"):
        model.generate(**asked, output_scores=True, return_dict_in_generate=True)
    with pytest.raises(InputError, match="one prompt"):
        model.generate(**{**asked, **prompts(3)}, stream_to=Silent())
    sliding = MistralForCausalLM(
        MistralConfig(
            vocab_size=V, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=4,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="Sliding"):
        sliding.generate(**asked)


class Silent:
    def put(self, value: torch.Tensor) -> None:
        pass

    def end(self) -> None:
        pass


def test_tokens_of_another_vocabulary_and_broken_models_are_told(model: Any) -> None:
    class Stranger(Noise):
        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            return Draft.of(text[-1], [[V + 5]])

    asked = dict(prompts(1), max_new_tokens=4, do_sample=False, pad_token_id=0)
    with pytest.raises(TokenryError, match=f"token {V + 5}, outside the vocabulary of {V}"):
        model.generate(**asked, custom_generate=Speculation(Stranger(0), Fixed(4)))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(TokenryError, match="not numbers"):
        broken.generate(**asked, custom_generate=Speculation(PromptLookup(), Fixed(4)))


# ------------------------------------------------------------------------------------------------------- sizing


def drive(sizing: Adaptive, accepted: int, passes: int) -> float:
    """Time per token, over plain decoding, if a tree gives that many accepted nodes."""
    time = tokens = 0.0
    for _ in range(passes):
        size = sizing.nodes()
        time += sizing.latency[size + 1]
        path = tuple(range(1 + min(accepted, size)))
        tokens += len(path)
        sizing.learn(size, path)
    return time / tokens


LATENCY = {1: 1.0, 5: 1.05, 9: 1.1, 17: 1.4, 25: 1.8}


def test_a_text_that_cannot_be_guessed_costs_little() -> None:
    assert drive(Adaptive(LATENCY), 0, 400) < 1.03


def test_a_text_that_can_be_guessed_gets_large_trees() -> None:
    sizing = Adaptive(LATENCY)
    assert drive(sizing, 24, 100) < 0.15
    assert sizing.best() >= 16


def test_sizing_finds_out_that_drafts_have_become_worth_while() -> None:
    sizing = Adaptive(LATENCY)
    drive(sizing, 0, 300)
    assert drive(sizing, 8, 300) < 0.35


def test_latencies_are_ratios() -> None:
    with pytest.raises(InputError, match="which is 1"):
        Adaptive({1: 0.02, 8: 0.03})
    with pytest.raises(InputError, match="no fewer than 0"):
        Fixed(-1)


def test_proposers_are_proposers() -> None:
    made: list[Proposer] = [PROPOSERS[name]() for name in sorted(PROPOSERS)]
    assert len(made) == 3
