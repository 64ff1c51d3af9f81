"""Running reduced equals the full sequence with the dropped tokens masked out, for every family.

The product {families} x {eager, sdpa} x {batch shapes} x {methods} is run in full, over prefill and six decoding steps
through the unmodified `generate`. Ways of decoding depend on the family only through the cache and the shape of
position ids, so `test_decoding` runs them on one family of each kind: plain, multi-axis RoPE, deepstack, sliding
windows with bidirectional pictures, tiles.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import FAMILIES, VIDEO, Family, Inputs
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Positions, UnsupportedError

TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest logit; float32 rounding alone gives about 1e-6."""

INPUT: dict[str, list[Reducer]] = {
    "random": [RandomTokens(budget=0.3)],
    "random-compact": [RandomTokens(budget=0.3, positions="compact")],
    "pool": [Pool(budget=0.3)],
    "divprune": [DivPrune(budget=5)],
}
LAYER: dict[str, list[Reducer]] = {
    "fastv": [FastV(budget=0.3, layer=2)],
    "fastv-compact": [FastV(budget=0.3, layer=1, positions="compact")],
    "pyramiddrop": [PyramidDrop(budget=0.2)],
    "pyramiddrop-keep": [PyramidDrop(budget=0.2, positions="keep")],
    "random+pyramiddrop": [RandomTokens(budget=0.5), PyramidDrop(budget=0.3)],
    "pool+fastv": [Pool(budget=0.5), FastV(budget=0.5, layer=1, positions="compact")],
}
CLS: dict[str, list[Reducer]] = {"fastervlm": [FasterVLM(budget=0.3)]}


@functools.cache
def built(family: str, attn: str) -> PreTrainedModel:
    return FAMILIES[family].build(attn)


def attentions(family: Family) -> tuple[str, ...]:
    return (
        ("eager",) if family.name == "gemma2" else ("sdpa", "eager")
    )  # Gemma2 refuses sdpa: soft-capped logits


def relative_gap(
    model: Any, inputs: Inputs, methods: list[Reducer], family: Family, **generation: Any
) -> float:
    with torch.no_grad():
        scale = float(model(**inputs).logits.abs().max())
    return oracle_gap(Host.of(model), inputs, methods, 6, family.tokens, **generation) / scale


CASES = [
    pytest.param(name, attn, shape, id=f"{name}-{attn}-{shape}")
    for name, family in FAMILIES.items()
    for attn in attentions(family)
    for shape in family.shapes
    if family.layer
]


@pytest.mark.parametrize(("name", "attn", "shape"), CASES)
def test_reduced_equals_the_masked_full_sequence(name: str, attn: str, shape: str) -> None:
    family, model = FAMILIES[name], built(name, attn)
    inputs = family.batch(model, shape)
    methods = INPUT | LAYER | (CLS if family.has_cls else {})
    gaps = {
        label: relative_gap(model, inputs, chosen, family)
        for label, chosen in methods.items()
        if family.peeks or "pyramiddrop" not in label
    }
    assert max(gaps.values()) <= TOLERANCE, gaps


@pytest.mark.parametrize("name", FAMILIES)
def test_dropping_changes_the_logits_far_more_than_the_tolerance(name: str) -> None:
    """Otherwise the test above would prove nothing."""
    family, model = FAMILIES[name], built(name, "eager")
    inputs = family.batch(model, "one")
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with tk.reduced(model, RandomTokens(budget=0.3), tokens=family.tokens):
            short = model(**inputs).logits[:, -1]
    assert float((full - short).abs().max() / full.abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.has_cls and f.tokens is None])
def test_cls_methods_are_refused_where_cls_says_nothing_about_tokens(name: str) -> None:
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "one")
    before = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    with pytest.raises(UnsupportedError, match="CLS"), FasterVLM(budget=0.3)(model):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=2, do_sample=False), before)


@pytest.mark.parametrize("shape", ["one", "ragged"])
def test_linear_attention_at_the_input_equals_a_natively_short_prompt(shape: str) -> None:
    """No mask can undo what a linear-attention state has read; the truth is a prompt without those tokens."""
    family, model = FAMILIES["qwen3.5"], built("qwen3.5", "sdpa")
    inputs = family.batch(model, shape)
    settings = dict(
        max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )
    method = RandomTokens(budget=0.3, positions="compact")
    with tk.reduced(model, method, tokens=family.tokens) as run:
        mine = model.generate(**inputs, **settings)
    for row, item in enumerate(run.trace):
        keep = inputs["attention_mask"][row].bool().clone()
        keep[family.tokens] &= item.kept
        short = model.generate(inputs["input_ids"][row : row + 1, keep], **settings)
        gap = max(float((a[row] - b[0]).abs().max()) for a, b in zip(mine.logits, short.logits, strict=True))
        assert gap <= TOLERANCE * float(short.logits[0].abs().max())


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.peeks])
def test_layers_of_another_build_cannot_be_looked_into_beforehand(name: str) -> None:
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "one")
    with (
        pytest.raises(
            UnsupportedError, match=r"no `input_layernorm` and `self_attn`.*attention of the layer before"
        ),
        tk.reduced(model, PyramidDrop(budget=0.3), tokens=family.tokens),
    ):
        model(**inputs)


def test_linear_attention_has_no_layer_stage() -> None:
    family, model = FAMILIES["qwen3.5"], built("qwen3.5", "sdpa")
    with pytest.raises(UnsupportedError, match=r"supports stage input only.*linear_attention"):
        tk.reduced(model, "fastv", tokens=family.tokens)


# --- ways of decoding --------------------------------------------------------------------------------------------

KINDS = ("llava", "qwen2-vl", "qwen3-vl", "gemma3", "llava-next")
DECODING: dict[str, dict[str, Any]] = {
    "sampling": dict(do_sample=True, temperature=0.7),
    "beams": dict(num_beams=3),
    "sampled-beams": dict(num_beams=2, do_sample=True),
    "several": dict(do_sample=True, num_return_sequences=3),
    "beams-several": dict(num_beams=3, num_return_sequences=2),
}


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("name", KINDS)
def test_decoding(name: str, decoding: str) -> None:
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "ragged")
    for methods in ([Pool(budget=0.4)], [RandomTokens(budget=0.5), PyramidDrop(budget=0.3)]):
        gap = relative_gap(model, inputs, methods, family, **DECODING[decoding])
        assert gap <= TOLERANCE


@pytest.mark.parametrize("name", [*KINDS, "mistral3"])
def test_assisted_decoding_gives_the_same_tokens(name: str) -> None:
    """Prompt lookup guesses several tokens per step and takes wrong ones back out of the cache."""
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "one")
    for method in (RandomTokens(budget=0.4), PyramidDrop(budget=0.3)):
        with method(model):
            plain = model.generate(**inputs, max_new_tokens=12, do_sample=False)
            fast = model.generate(**inputs, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3)
        assert torch.equal(plain, fast)


# --- the laws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if n not in ("gemma2", "qwen3.5")])
def test_whole_budget_is_the_identity_and_removal_is_clean(name: str, attn: str) -> None:
    family, model = FAMILIES[name], built(name, attn)
    inputs = family.batch(model, family.shapes[-1])
    before, marks = logits_of(model, inputs), state_of(model)
    compact = RandomTokens(budget=1.0, positions="compact")
    for method in (RandomTokens(budget=1.0), compact, Pool(budget=1.0), FastV(budget=1.0, layer=2)):
        with tk.reduced(model, method, tokens=family.tokens):
            assert state_of(model) != marks
            inside = logits_of(model, inputs)
        assert float((inside - before).abs().max() / before.abs().max()) <= TOLERANCE
    assert state_of(model) == marks
    assert torch.equal(logits_of(model, inputs), before)


class _Failing(RandomTokens):
    def score(self, view: Any) -> Any:
        raise RuntimeError("in the method")


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen3-vl", "gemma3"])
@pytest.mark.parametrize("where", ["block", "method", "encoder"])
def test_removal_is_clean_after_an_exception(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "ragged")
    before, marks = logits_of(model, inputs), state_of(model)
    method = _Failing(budget=0.5) if where == "method" else RandomTokens(budget=0.5)
    tower = Host.of(model).tower
    assert tower is not None

    def block() -> None:
        with method(model):
            logits_of(model, inputs)
            if where == "encoder":
                monkeypatch.setattr(tower, "forward", _raise)
                logits_of(model, inputs)
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match=f"in the {where}"):
        block()
    monkeypatch.undo()
    assert state_of(model) == marks
    assert torch.equal(logits_of(model, inputs), before)


def _raise(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("in the encoder")


def logits_of(model: Any, inputs: Inputs) -> torch.Tensor:
    out = model.generate(
        **inputs,
        max_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
    )
    return torch.stack(out.logits)


_OF_GENERATE = {"rope_deltas", "_cache", "_previous_max_cache_length"}
"""What `generate` itself leaves on a model."""


def state_of(model: PreTrainedModel) -> list[Any]:
    """Everything a session might leave behind on the modules and the configurations."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    marks: list[Any] = []
    for name, module in model.named_modules():
        marks.append((name, sorted(vars(module).keys() - _OF_GENERATE)))
        marks.append([len(getattr(module, hook)) for hook in hooks])
        config = getattr(module, "config", None)
        if config is not None:
            marks.append((config._attn_implementation, sorted(vars(config))))
    return marks


def test_a_placeholder_that_the_model_says_itself_is_text() -> None:
    """Random models utter any token; in a decoding step the placeholder's number stands for no picture."""
    family, model = FAMILIES["qwen2-vl"], built("qwen2-vl", "sdpa")
    inputs = family.batch(model, "one")
    with RandomTokens(budget=0.4)(model) as run:
        out = model(**inputs, use_cache=True)
        length = run.lengths[0, 0]
        model(input_ids=torch.tensor([[VIDEO]]), **with_cache(model, cache_of(out)))
        assert cache_of(out).get_seq_length() == length + 1


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_renumbering_a_picture_on_three_axes_is_what_the_model_would_count(name: str) -> None:
    """Text goes on after the largest id of what is left of the picture, whose own ids keep their distances."""
    family, model = FAMILIES[name], built(name, "sdpa")
    inputs = family.batch(model, "two")
    seen: list[torch.Tensor] = []
    hook = Host.of(model).rotary.register_forward_pre_hook(lambda m, a: seen.append(a[1]))
    with torch.no_grad():
        model(**inputs)
        full = seen[-1]
        with RandomTokens(budget=0.3, positions=Positions.COMPACT)(model) as run:
            model(**inputs)
    hook.remove()
    visual = inputs["mm_token_type_ids"][0].bool()
    keep = ~visual
    keep[visual] = torch.cat([item.kept for item in run.trace])
    ids, shift, top, previous = [], 0, -1, True
    for c in keep.nonzero()[:, 0].tolist():
        is_text = not bool(visual[c])
        if is_text and not previous:
            shift = max(shift, int(full[0, 0, c]) - (top + 1))
        ids.append(full[:, 0, c] - shift)
        top = max(top, int(ids[-1].max()))
        previous = is_text
    assert torch.equal(seen[-1][:, 0], torch.stack(ids, 1))
    assert int(seen[-1].max()) < int(full.max())


def test_the_oracle_is_the_full_model_when_nothing_was_dropped() -> None:
    family, model = FAMILIES["llava"], built("llava", "sdpa")
    inputs = family.batch(model, "ragged")
    with RandomTokens(budget=1.0)(model) as run:
        logits_of(model, inputs)
    visual = inputs["input_ids"] == 110
    with masked(Host.of(model), run.trace, visual, {0: Positions.KEEP}, inputs["attention_mask"].bool()):
        inside = logits_of(model, inputs)
    outside = logits_of(model, inputs)
    assert float((inside - outside).abs().max()) <= 1e-6
