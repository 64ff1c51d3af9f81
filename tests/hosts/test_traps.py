"""The silent traps: each cure is switched off to show that without it the numbers are wrong, without a warning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_flash_attention_utils import _is_packed_sequence

import tokenry as tk
from tests.hosts.families import FAMILIES, Inputs
from tokenry.hosts.host import Host
from tokenry.hosts.reducing import items
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.reducing.decoder_entry import DecoderEntry
from tokenry.hosts.reducing.entry import ModelEntry
from tokenry.hosts.reducing.layers import LayerEntry
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.upstream import attention, cache_given
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.reduce.fastv import FastV
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Positions, UnsupportedError

TOLERANCE, WRONG = 1e-5, 1e-3


def gap(
    name: str, shape: str, method: Reducer, attn: str = "sdpa", inputs: Inputs | None = None, **how: Any
) -> float:
    """Largest difference to the oracle, relative to the largest logit."""
    family = FAMILIES[name]
    model = family.build(attn)
    inputs = family.batch(model, shape) if inputs is None else inputs
    with torch.no_grad():
        scale = float(model(**inputs).logits.abs().max())
    return oracle_gap(Host.of(model), inputs, method, 4, family.tokens, **how) / scale


def use_the_decoders_own_masks(patch: pytest.MonkeyPatch) -> None:
    """Let layers have the masks that the decoder made, instead of those of their segment."""
    original = LayerEntry.before_layer

    def leaky(self: LayerEntry, i: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("attention_mask")
        args, kwargs = original(self, i, module, args, kwargs)
        return args, kwargs | {"attention_mask": given}

    patch.setattr(LayerEntry, "before_layer", leaky)


def test_gapped_positions_without_a_mask_are_read_as_packed_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    del inputs["attention_mask"]

    def gap() -> float:
        with torch.no_grad():
            with RandomTokens(budget=0.3)(model) as run:
                mine = model(**inputs, use_cache=False).logits[:, -1]
            with masked(Host.of(model), run.trace, inputs["input_ids"] == 110, {0: Positions.KEEP}):
                truth = model(**inputs, use_cache=False).logits[:, -1]
        return float((mine - truth).abs().max() / truth.abs().max())

    assert gap() <= TOLERANCE
    use_the_decoders_own_masks(monkeypatch)
    assert gap() <= TOLERANCE  # a mask of ones keeps the decoder from guessing
    monkeypatch.setattr(DecoderEntry, "_mask", lambda self, call, given: None)
    assert gap() > WRONG


def test_flash_kernels_are_given_positions_without_gaps() -> None:
    """No such kernel runs here; what it would be handed is recorded, and put to the question it would put."""
    family = FAMILIES["llama"]
    model: Any = family.build()
    host, inputs = Host.of(model), family.batch(model, "one")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    gapped: list[torch.Tensor] = []
    with tk.reduced(model, FastV(budget=0.3, layer=2), tokens=family.tokens) as run:
        module: Any = host.layers[3].self_attn
        hook = module.register_forward_pre_hook(
            lambda m, a, k: seen.append((k["position_ids"], cache_given(k).get_seq_length(3))),
            with_kwargs=True,
        )
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert run._prompts.latest is not None
        gapped.append(run._prompts.latest.segments[-1].ids[0])
        hook.remove()
    length = int(run.lengths[0, 3])
    assert torch.equal(seen[0][0], torch.arange(length)[None])
    assert torch.equal(seen[1][0], torch.tensor([[length]]))
    assert not bool(_is_packed_sequence(seen[0][0], 1))
    assert bool(_is_packed_sequence(gapped[0], 1))


def test_a_flash_model_would_get_padding_masks_of_its_own_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["llama"]
    model: Any = family.build()
    inputs = family.batch(model, "ragged")
    with tk.reduced(model, FastV(budget=0.3, layer=2), tokens=family.tokens) as run, torch.no_grad():
        model(**inputs)
    call = run._prompts.latest
    assert call is not None
    monkeypatch.setattr("tokenry.hosts.reducing.call.is_flash", lambda config: True)
    for layer in (0, 3):
        segment = call.segment_at(layer)
        mask = call._build_mask(segment, layer)
        assert mask is not None
        assert torch.equal(mask, segment.real.long())
    assert "flash" not in attention._PREFIX + "flash_attention_2".replace("flash", "f1ash")


def test_an_attention_function_without_its_mask_function_drops_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """PaliGemma draws up its masks itself, and asks the registry how."""
    method = FastV(budget=0.4, layer=2)
    assert gap("paligemma", "ragged", method) <= TOLERANCE
    name = attention._watched("sdpa")
    assert "flash" not in name
    assert name in ALL_MASK_ATTENTION_FUNCTIONS
    monkeypatch.delitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, name)
    assert gap("paligemma", "ragged", method) > WRONG


def test_the_full_mask_of_a_decoding_step_meets_the_wrong_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that lose different numbers of tokens have their padding elsewhere than the full mask says."""
    method = RandomTokens(budget=0.3)
    assert gap("qwen2-vl", "ragged", method) <= TOLERANCE
    use_the_decoders_own_masks(monkeypatch)
    assert gap("qwen2-vl", "ragged", method) <= TOLERANCE
    before_base, decoder_mask = ModelEntry.before_base, DecoderEntry._mask

    def full_base(self: ModelEntry, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("attention_mask")
        args, kwargs = before_base(self, module, args, kwargs)
        return args, kwargs | {"attention_mask": given}

    def full(self: DecoderEntry, call: DecoderCall, given: Any) -> Any:
        return decoder_mask(self, call, given) if call.begins else given

    monkeypatch.setattr(ModelEntry, "before_base", full_base)
    monkeypatch.setattr(DecoderEntry, "_mask", full)
    assert gap("qwen2-vl", "ragged", method) > WRONG


def test_eager_attention_adds_a_boolean_mask_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method = FastV(budget=0.3, layer=2)
    assert gap("llava", "ragged", method, "eager") <= TOLERANCE
    monkeypatch.setattr("tokenry.hosts.reducing.call.additive", lambda mask, dtype: mask)
    assert gap("llava", "ragged", method, "eager") > WRONG


def test_generate_expands_rows_for_beams_after_encoding() -> None:
    """One picture is encoded, three rows ask for it: each is cut, all alike."""
    method = RandomTokens(budget=0.3)
    assert gap("llava", "one", method, num_beams=3) <= TOLERANCE
    model: Any = FAMILIES["llava"].build()
    with method(model) as run:
        model.generate(**FAMILIES["llava"].batch(model, "one"), max_new_tokens=2, num_beams=3)
    assert [item.row for item in run.trace] == [0, 1, 2]
    assert all(torch.equal(item.kept, run.trace[0].kept) for item in run.trace)
    visual = torch.ones(3, 36, dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="spread over"):  # a record that fits no number of copies
        items._by_record(visual[:, :30], run._prompts.latest.items.pictures[0][0])  # type: ignore[index,union-attr]


def test_generate_drops_a_mask_of_ones() -> None:
    """What reaches the model is no mask at all, at prefill and after it."""
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    seen: list[Any] = []
    hook = model.model.register_forward_pre_hook(
        lambda m, a, k: seen.append(k.get("attention_mask")), with_kwargs=True
    )
    with RandomTokens(budget=0.3)(model):
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        masks = list(seen)
        del inputs["attention_mask"]
        again = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    hook.remove()
    assert torch.equal(first, again)
    assert all(m is None or bool((m == 1).all()) for m in masks)


def test_deepstack_features_are_added_where_their_tokens_went(monkeypatch: pytest.MonkeyPatch) -> None:
    method = RandomTokens(budget=0.3)
    assert gap("qwen3-vl", "ragged", method) <= TOLERANCE
    original = LayerEntry.before_layer

    def without(self: LayerEntry, i: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._state.call is not None:
            self._state.call.deepstack = []
        return original(self, i, module, args, kwargs)

    monkeypatch.setattr(LayerEntry, "before_layer", without)
    assert gap("qwen3-vl", "ragged", method) > WRONG


@pytest.mark.parametrize("name", ["paligemma", "gemma3"])
def test_masks_that_a_model_draws_itself_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes and pictures that look both ways would fall back to causality."""
    method = RandomTokens(budget=0.4)
    assert gap(name, "ragged", method) <= TOLERANCE
    original = DecoderCall._build_mask

    def causal(self: DecoderCall, segment: Any, layer: int) -> Any:
        self.outer = {}
        return original(self, segment, layer)

    monkeypatch.setattr(DecoderCall, "_build_mask", causal)
    assert gap(name, "ragged", method) > WRONG


def test_windows_are_counted_in_columns_of_the_full_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    method = FastV(budget=0.3, layer=2)
    assert gap("mistral", "one", method) <= TOLERANCE
    monkeypatch.setattr(Host, "window", lambda self, layer: None)
    assert gap("mistral", "one", method) > WRONG
