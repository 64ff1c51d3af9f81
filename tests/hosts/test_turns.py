"""The ways of `generate` in a session: drafts beside the prompt, no cache, further turns, prompts in pieces."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.hosts.families import FAMILIES, IMAGE, Inputs, text
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.reduce import Reducer
from tokenry.reduce.aim import AIM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.todre import ToDRE
from tokenry.tokens import InputError, Needs, Positions, Reduction, TokenView, UnsupportedError

STEPS = 6
JUDGES: list[Reducer] = [
    FastV(budget=0.3, layer=2),
    FastV(budget=0.3, layer=1, positions="compact"),
    PyramidDrop(budget=0.3),
    AIM(),
    ToDRE(pivot="random", check=2, tau=0.5),
]


@functools.cache
def built(family: str, attn: str = "sdpa") -> PreTrainedModel:
    return FAMILIES[family].build(attn)


def generated(model: Any, inputs: Inputs, **options: Any) -> Any:
    settings = dict(max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True)
    return model.generate(**inputs, **settings | options, pad_token_id=0)


def kept(run: Any) -> list[list[bool]]:
    return [item.kept_at(layer).tolist() for item in run.trace for layer in range(4)]


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def rules(model: Any, method: Reducer) -> dict[int, Positions]:
    return dict.fromkeys(method.cuts(Host.of(model).depth), Positions(method.positions))


# --- drafts beside the prompt ----------------------------------------------------------------------------------------


def repeating(inputs: Inputs) -> Inputs:
    """The prompt with an end after which prompt lookup drafts 22, 23, 20."""
    inputs["input_ids"][0, -6:] = torch.tensor([20, 21, 22, 23, 20, 21])
    return inputs


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
@pytest.mark.parametrize("method", JUDGES, ids=lambda m: f"{m.slug}-{m.positions}")
def test_drafts_have_no_say_in_what_a_prompt_keeps(name: str, method: Reducer) -> None:
    """Prompt lookup drafts three tokens beside a prompt that repeats itself."""
    model: Any = built(name)
    inputs = repeating(FAMILIES[name].batch(model, "one"))
    seen: list[int] = []
    base = Host.of(model).base
    hook = base.register_forward_pre_hook(
        lambda m, a, k: seen.append(
            (k.get("input_ids") if k.get("input_ids") is not None else a[0]).shape[1]
        ),
        with_kwargs=True,
    )
    with method(model) as run:
        plain = generated(model, inputs)
        expected, lengths = kept(run), run.lengths
    seen.clear()
    with method(model) as run:
        drafted = generated(model, inputs, prompt_lookup_num_tokens=3)
    hook.remove()
    assert seen[0] > inputs["input_ids"].shape[1], "nothing was drafted beside the prompt"
    assert kept(run) == expected
    assert torch.equal(run.lengths, lengths)
    assert torch.equal(drafted.sequences, plain.sequences)
    mask = inputs["attention_mask"].bool()
    with masked(Host.of(model), run.trace, inputs["input_ids"] == IMAGE, rules(model, method), mask):
        truth = generated(model, inputs)
    for a, b in zip(drafted.logits, truth.logits, strict=True):
        assert close(a, b)


def test_what_fastv_keeps_beside_drafts_is_what_the_prompts_last_token_looks_at() -> None:
    model: Any = built("llava", "eager")
    inputs = repeating(FAMILIES["llava"].batch(model, "one"))
    with torch.no_grad():
        row = model(**inputs, output_attentions=True).attentions[1][0, :, -1].mean(0)
    best = row[inputs["input_ids"][0] == IMAGE].topk(7).indices
    with FastV(budget=7, layer=2)(model) as run:
        generated(model, inputs, prompt_lookup_num_tokens=3)
    assert run.trace[0].kept.nonzero()[:, 0].tolist() == sorted(best.tolist())


# --- no cache --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counted(RandomTokens):
    """A method that reads the text and notes when it is asked."""

    slug: ClassVar[str] = "counted"
    asked: list[int]

    def needs(self, layer: int, depth: Any) -> Needs:
        return Needs(text=True)

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        assert view.text_length is not None
        self.asked.append(int(view.text_length[0]))
        return super().reduce(view, keep)


@pytest.mark.parametrize(("name", "beams"), [("llava", 1), ("llava", 2), ("qwen2-vl", 1), ("smolvlm", 1)])
@pytest.mark.parametrize(
    "method",
    [*JUDGES[1:4], RandomTokens(budget=0.4), Pool(budget=0.4)],
    ids=lambda m: f"{m.slug}-{m.positions}",
)
def test_without_a_cache_a_prompt_is_decided_once(name: str, method: Reducer, beams: int) -> None:
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    with method(model) as run:
        expected = generated(model, inputs, num_beams=beams)
        before, lengths, cost = kept(run), run.lengths, run.cost
    with method(model) as run:
        mine = generated(model, inputs, num_beams=beams, use_cache=False)
    assert kept(run) == before
    assert torch.equal(run.lengths, lengths)
    assert run.cost == cost
    assert torch.equal(mine.sequences, expected.sequences)
    assert close(torch.stack(mine.logits), torch.stack(expected.logits))


def test_without_a_cache_a_method_is_asked_once_per_prompt() -> None:
    model: Any = built("llava")
    first, second = FAMILIES["llava"].batch(model, "one"), FAMILIES["llava"].batch(model, "one")
    second["input_ids"][0, -1] += 1
    method = Counted(budget=0.4, asked=[])
    with method(model):
        for inputs in (first, second, first):
            generated(model, inputs, use_cache=False)
        model.generate(**first, max_new_tokens=1, use_cache=False)
    assert method.asked == [7, 7, 7, 7]


# --- further turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
@pytest.mark.parametrize(
    "method",
    [RandomTokens(budget=0.4), RandomTokens(budget=0.4, positions="compact"), FastV(budget=0.3, layer=2)],
    ids=lambda m: f"{m.slug}-{m.positions}",
)
@pytest.mark.parametrize("masked_turn", [True, False])
def test_the_next_turn_is_generated_from_the_cache_and_the_whole_text(
    name: str, method: Reducer, masked_turn: bool
) -> None:
    """The multi-turn idiom of transformers: all ids again, and the cache; what it holds is cut off by its length."""
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    more = torch.tensor([text(5, 50)])

    def turns() -> tuple[Tensor, Tensor]:
        out = generated(model, inputs)
        logits = []
        for _ in range(2):
            ids = torch.cat([out.sequences, more], 1)
            given = {"attention_mask": torch.ones_like(ids)} if masked_turn else {}
            out = generated(model, {"input_ids": ids, **given}, **with_cache(model, cache_of(out)))
            logits += out.logits
        return out.sequences, torch.stack(logits)

    with method(model) as run:
        mine = turns()
        assert len(run.trace) == 1
    visual = inputs["input_ids"] == IMAGE
    with masked(Host.of(model), run.trace, visual, rules(model, method)):
        truth = turns()
    assert torch.equal(mine[0], truth[0])
    assert close(mine[1], truth[1])


def test_the_new_tokens_alone_go_on_beside_a_mask_of_the_whole_text() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    more = torch.tensor([text(5, 50)])
    with RandomTokens(budget=0.4)(model):
        out = generated(model, inputs)
        cache = copy.deepcopy(cache_of(out))
        ids = torch.cat([out.sequences, more], 1)
        mask = {"attention_mask": torch.ones_like(ids)}
        whole = generated(model, {"input_ids": ids, **mask}, **with_cache(model, cache))
        new = {"input_ids": torch.cat([out.sequences[:, -1:], more], 1), **mask}
        short = generated(model, new, **with_cache(model, copy.deepcopy(cache_of(out))))
        assert close(torch.stack(short.logits), torch.stack(whole.logits))
        with pytest.raises(InputError, match=r"stands for 53 tokens, and `generate` was given 6.*whole text"):
            generated(model, {"input_ids": new["input_ids"]}, **with_cache(model, cache_of(out)))


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "qwen3-vl"])
@pytest.mark.parametrize("method", [RandomTokens(budget=0.4), Pool(budget=0.4)], ids=lambda m: m.slug)
def test_a_prompt_is_generated_from_behind_a_prefix_that_many_share(name: str, method: Reducer) -> None:
    """The prefix recipe of transformers: the whole prompt, and a copy of a cache that was filled without a session."""
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "one")
    with torch.no_grad():
        prefix = cache_of(model(input_ids=inputs["input_ids"][:, :4], use_cache=True))
    plain = [generated(model, inputs, **way) for way in ({}, with_cache(model, copy.deepcopy(prefix)))]
    if not close(*(torch.stack(out.logits) for out in plain)):
        pytest.skip(
            "this transformers (5.20) numbers a picture behind a prefix by an earlier prompt, without us too"
        )
    with method(model) as run:
        mine = [generated(model, inputs, **with_cache(model, copy.deepcopy(prefix))) for _ in range(2)]
        assert len(run.trace) == 1
    mask = inputs["attention_mask"].bool()
    with masked(Host.of(model), run.trace, inputs["input_ids"] == IMAGE, rules(model, method), mask):
        truth = generated(model, inputs)
    for out in mine:
        assert torch.equal(out.sequences, truth.sequences)
        assert close(torch.stack(out.logits), torch.stack(truth.logits))


# --- prompts in pieces, and prompts for compiled caches --------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [RandomTokens(budget=0.5), FastV(budget=0.5, layer=2)], ids=lambda m: m.slug
)
@pytest.mark.parametrize("size", [3, 24, 45])
def test_a_prompt_in_pieces_is_refused_with_what_to_do(method: Reducer, size: int) -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    with method(model):
        with pytest.raises(
            UnsupportedError, match=r"prompt of 48 tokens comes in pieces.*prefill_chunk_size"
        ):
            generated(model, inputs, prefill_chunk_size=size)
        assert (
            len(generated(model, inputs, prefill_chunk_size=48).logits) == STEPS
        )  # one piece is a whole prompt


def test_a_models_own_generate_is_called_and_put_back() -> None:
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    calls: list[int] = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return type(model).generate(model, *args, **kwargs)

    model.generate = own
    with RandomTokens(budget=0.5)(model):
        generated(model, inputs)
    assert model.generate is own
    assert calls == [1]
