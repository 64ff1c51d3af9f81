"""Classes of transformers' image-text-to-text mapping in which something is unlike the rest: exact, or refused truly.

The whole mapping is swept by ``python -m benchmarks.families``; here stands one class for each thing that has to be
coped with.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import FAMILIES, prompts
from tests.hosts.zoo import known, specimen
from tokenry.hosts.host import Host
from tokenry.reduce import Reducer
from tokenry.reduce.check import CheckReport, Law, oracle_gap
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Depth, InputError, Stage, UnsupportedError


@functools.cache
def built(model_type: str) -> PreTrainedModel:
    return specimen(model_type).build("sdpa")


def inputs_of(model_type: str) -> dict[str, Any]:
    return specimen(model_type).batch(built(model_type), "ragged")


INPUT: list[list[Reducer]] = [[RandomTokens(budget=0.4, positions="compact")], [Pool(budget=0.4)]]
LAYER: list[list[Reducer]] = [
    [FastV(budget=0.4, layer=1, positions="compact")],
    [FastV(budget=0.4, layer=3)],
    [Pool(budget=0.6), PyramidDrop(budget=0.4)],
]

EXACT = {
    "chameleon": "a base model that is its own decoder",
    "cohere_compass": "rotary axes by layer type, features between layers",
    "ernie4_5_vl_moe": "a type for every token",
    "fuyu": "no pooled output",
    "gemma4": "inputs of every layer, keys of earlier layers",
    "gemma4_unified": "shared keys among the arguments of attention",
    "granite4_vision": "features before every layer, the first included",
    "hunyuan_vl": "four rotary axes",
    "molmo2": "one placeholder for pictures and videos",
    "muse_glimmer": "layers without rotation",
    "qwen3_omni_moe_thinker": "position ids in floating point",
    "qwen3_vl": "rotary axes that the configuration leaves out",
}
EXACT_AT_THE_INPUT = {
    "gemma3n": "several states per token",
    "minicpmv4_7": "position ids left free after a picture; recurrent layers",
    "nemotron_h_omni": "the decoder in a whole language model; layers without attention",
    "lfm3_vl": "convolutions",
}


def relative_gap(model_type: str, methods: list[Reducer]) -> float:
    model, inputs = built(model_type), inputs_of(model_type)
    with torch.no_grad():
        scale = float(model(**inputs).logits.abs().max())
    return oracle_gap(Host.of(model), inputs, methods, 4) / scale


@pytest.mark.parametrize("model_type", known(*EXACT))
def test_reduced_equals_the_masked_full_sequence(model_type: str) -> None:
    for methods in INPUT + LAYER:
        assert relative_gap(model_type, methods) <= 1e-5, methods


@pytest.mark.parametrize("model_type", known(*EXACT_AT_THE_INPUT))
def test_reduced_at_the_input_is_exact(model_type: str) -> None:
    for methods in INPUT:
        assert relative_gap(model_type, methods) <= 1e-5, methods


@pytest.mark.parametrize("model_type", known(*EXACT, *EXACT_AT_THE_INPUT))
def test_all_tokens_are_the_models_own_answer(model_type: str) -> None:
    """Also renumbered: where nothing is dropped, nothing moves."""
    model, inputs = built(model_type), inputs_of(model_type)
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with tk.reduced(model, RandomTokens(budget=1.0, positions="compact")):
            same = model(**inputs).logits[:, -1]
    assert float((full - same).abs().max() / full.abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("model_type", "method", "reason"),
    [
        ("gemma3n", "fastv", r"several states per token \(4-D\).*stage input"),
        ("nemotron_h_omni", "fastv", r"linear_attention layers, whose state mixes all tokens"),
        ("llama4", "random", r"chunked_attention layers"),
        ("blip-2", "random", r"called on its own \(as some models' `generate` does\)"),
        ("perception_lm", "fastervlm", r"no vision encoder with a \[CLS\] token whose attention can be read"),
        ("mllama", "random", r"no get_image_features"),
        ("florence2", "random", r"is an encoder-decoder"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(model_type: str, method: str, reason: str) -> None:
    model, inputs = built(model_type), inputs_of(model_type)
    with pytest.raises(UnsupportedError, match=reason), tk.reduced(model, method, budget=0.5):
        model.generate(**inputs, max_new_tokens=1, pad_token_id=0)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if "ragged" in f.shapes])
def test_padded_rows_without_position_ids_are_numbered_as_the_model_does(name: str) -> None:
    """`generate` makes position ids; a plain forward leaves them to the model, and OPT counts by its mask."""
    family = FAMILIES[name]
    model: Any = family.build("eager")
    inputs = family.batch(model, "ragged")
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with tk.reduced(model, RandomTokens(budget=1.0), tokens=family.tokens):
            same = model(**inputs).logits[:, -1]
    assert float((full - same).abs().max() / full.abs().max()) <= 1e-5


def test_a_forward_of_a_model_whose_generate_goes_past_it_is_exact() -> None:
    """BLIP-2 generates with its language model alone; its own forward is a host like any other."""
    model, inputs = built("blip-2"), inputs_of("blip-2")
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with tk.reduced(model, RandomTokens(budget=1.0, positions="compact")):
            same = model(**inputs).logits[:, -1]
        with tk.reduced(model, RandomTokens(budget=0.5)) as run:
            model(**inputs)
    assert float((full - same).abs().max() / full.abs().max()) <= 1e-5
    assert [item.counts for item in run.trace] == [[2] * 4] * 2


class Late(RandomTokens):
    """Tokens drawn by the picture's own seed leave before the last layer, whatever the last token of the call is."""

    stage = Stage.LAYER

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        return (3,)


def test_guesses_leave_a_cache_whose_layers_share_their_keys() -> None:
    """Layers that keep no keys of their own have nothing in the cache to count by."""
    model, inputs = built("gemma4"), inputs_of("gemma4")
    one = {k: v[:1] for k, v in inputs.items()}
    one["input_ids"][0, -4:] = one["input_ids"][0, -8:-4]  # something to look up
    with Late(budget=0.4)(model) as run:
        plain = model.generate(**one, max_new_tokens=8, do_sample=False, pad_token_id=0)
        fast = model.generate(
            **one, max_new_tokens=8, do_sample=False, pad_token_id=0, prompt_lookup_num_tokens=3
        )
    assert torch.equal(plain, fast)
    assert min(run.trace[0].counts) < run.trace[0].n


def test_features_added_before_the_first_layer_are_part_of_what_methods_see() -> None:
    """Granite4-Vision hands zeros to its language model, and adds the picture before layer 0."""
    seen = []

    class Looks(RandomTokens):
        def score(self, view: Any) -> Any:
            seen.append(view.features[view.valid])
            return super().score(view)

    model, inputs = built("granite4_vision"), inputs_of("granite4_vision")
    with torch.no_grad(), Looks(budget=0.5)(model):
        model(**inputs)
    assert float(seen[0].abs().sum(-1).min()) > 0


def test_token_types_tell_pictures_from_videos_that_share_a_placeholder() -> None:
    model, inputs = built("molmo2"), inputs_of("molmo2")
    assert len(set(Host.of(model).token_ids.values())) == 1
    with torch.no_grad(), tk.reduced(model, "random", budget=5) as run:
        model(**inputs)
    assert [int(item.kept.sum()) for item in run.trace] == [5, 5]


# --- the check -----------------------------------------------------------------------------------------------------


class Breaks(RandomTokens):
    """Fails below 100 % with an exception of Python's own."""

    slug = "breaks"

    def score(self, view: Any) -> Any:
        if self.limit.share != 1:
            raise ZeroDivisionError("in the method")
        return super().score(view)


def test_one_exception_costs_one_law() -> None:
    model, inputs = FAMILIES["llava"].build(), FAMILIES["llava"].batch(None, "ragged")
    report = tk.check(model, inputs, steps=2, methods=[Breaks(budget=0.5), "random"])
    holds = {law.name: law.holds for law in report.laws}
    assert holds == {
        "breaks (keep): at 100% the model's own answer": True,
        "breaks (keep): equals the masked full sequence": False,
        "random (keep): at 100% the model's own answer": True,
        "random (keep): equals the masked full sequence": True,
        "afterwards the model is what it was, bit for bit": True,
    }
    assert report.laws[1].detail == "ZeroDivisionError: in the method"
    assert not report.ok


def test_a_report_keeps_its_columns_under_long_names_of_chains_and_no_steps_are_refused() -> None:
    laws = (
        Law("layer", "pool (keep)+pyramiddrop (compact): a name of many words " * 2, True, "0"),
        Law("any", "short", True, "0"),
    )
    lines = str(CheckReport("Model", laws)).splitlines()[1:]
    assert len({line.index("holds") for line in lines}) == 1
    with pytest.raises(InputError, match="steps=0"):
        tk.check(FAMILIES["llava"].build(), prompts([1]), steps=0)


def test_a_model_that_does_not_run_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = FAMILIES["llava"].build(), FAMILIES["llava"].batch(None, "ragged")

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("in the model")

    monkeypatch.setattr(model, "generate", fails)
    report = tk.check(model, inputs, methods=["random"])
    assert {law.detail for law in report.laws} == {"RuntimeError: in the model"}


@pytest.mark.parametrize(
    "chain", ["pool+fastv", ["pool", "fastv"], [Pool(budget=0.6), FastV(budget=0.5, layer=1)]]
)
def test_chains_are_checked_as_one(chain: Any) -> None:
    model, inputs = FAMILIES["llava"].build(), FAMILIES["llava"].batch(None, "ragged")
    report = tk.check(model, inputs, steps=2, methods=[chain])
    assert [law.name.split(":")[0] for law in report.laws[:2]] == ["pool (keep)+fastv (keep)"] * 2
    assert report.stages == {"layer": True, "any": True}


def test_recurrent_layers_are_compared_with_a_sequence_cut_by_hand() -> None:
    family = FAMILIES["qwen3.5"]
    model: Any = family.build()
    report = tk.check(
        model, family.batch(model, "ragged"), steps=3, tokens=family.tokens, methods=["random", "pool"]
    )
    assert [law.holds for law in report.laws] == [True] * 5
    assert sum("cut by hand" in law.name for law in report.laws) == 2


def test_a_sequence_cut_by_hand_catches_a_wrong_position(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenry.hosts.reducing import layout

    family = FAMILIES["qwen3.5"]
    model: Any = family.build()
    inputs = family.batch(model, "ragged")
    right = layout.compact
    monkeypatch.setattr(layout, "compact", lambda full, *rest: 2 * right(full, *rest))
    methods = [RandomTokens(budget=0.4, positions="compact")]
    laws = tk.check(model, inputs, steps=3, tokens=family.tokens, methods=methods).laws
    assert [law.holds for law in laws[1:2]] == [False]


def test_inputs_without_a_picture_prove_nothing() -> None:
    model = FAMILIES["qwen2-vl"].build()
    with pytest.raises(tk.TokenryError, match="no picture in these inputs"):
        tk.check(model, prompts([1, 5, 6, 7]))
