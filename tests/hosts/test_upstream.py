"""Names of transformers are resolved in one file, from either spelling, and refused where they are unknown."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, T5Config

import tokenry as tk
from tokenry.hosts import upstream
from tokenry.hosts.upstream import (
    Cache,
    DynamicCache,
    cache_field,
    cache_given,
    cache_of,
    releases,
    takes_cache,
    with_cache,
)
from tokenry.hosts.upstream.parts import _PARTS
from tokenry.hosts.upstream.pictures import _BETWEEN, _PLACEHOLDERS
from tokenry.tokens import UnsupportedError

SOURCES = Path(tk.__file__).parent
UPSTREAM = SOURCES / "hosts" / "upstream"
ELSEWHERE = [p for p in sorted(SOURCES.rglob("*.py")) if not p.is_relative_to(UPSTREAM)]
PRIVATE = re.compile(
    r"past_key_values|cache_params|\b_attn_implementation|\._prefill\b|_mask_length|_update_model_kwargs"
)


def tiny(**config: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(
        LlamaConfig(**sizes | config, bos_token_id=0, eos_token_id=None, pad_token_id=0)
    ).eval()


def _imported(path: Path) -> set[str]:
    """Every module that a file imports, with the names it takes from it, also by `import_module`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def _foreign(name: str) -> bool:
    """Whether an import reaches into transformers, or for a network of another package."""
    first, *rest = name.split(".")
    inner = len(rest) > 1 or rest[:1] in (["models"], ["cache_utils"], ["masking_utils"], ["modeling_utils"])
    return first in ("diffusers", "timm") or (first == "transformers" and inner)


def test_no_other_file_imports_submodules_of_transformers_or_spells_its_private_names() -> None:
    assert _foreign("transformers.cache_utils")
    assert _foreign("transformers.models.llama.modeling_llama.LlamaMLP")
    assert not _foreign("transformers.PreTrainedModel")
    upstream_files = (SOURCES / "hosts" / "upstream").glob("*.py")
    assert any(
        _foreign(name) for path in upstream_files for name in _imported(path)
    )  # or nothing is looked for
    found = []
    for path in ELSEWHERE:
        text = path.read_text(encoding="utf-8")
        names = [name for name in _imported(path) if _foreign(name)] + PRIVATE.findall(text)
        found += [(str(path.relative_to(SOURCES)), name) for name in names]
    assert not found


def test_hosts_ask_for_parts_of_models_and_for_inputs_by_role_and_spell_none_of_their_names() -> None:
    parts = [*_PARTS.values(), *_PLACEHOLDERS.values(), *_BETWEEN, upstream.PIXELS]
    inputs = {upstream.ENCODED, upstream.TOKEN_TYPES, upstream.PACKING, upstream.NEWLINE, "image_sizes"}
    # Names of one word are words of the language too.
    names = (
        {name for names in parts for name in names if "_" in name} | inputs | {"pooler_output", "layer_types"}
    )
    spelled = re.compile(rf"\b({'|'.join(names)})\b|get_\{{|grid_thw")
    files = [p for p in ELSEWHERE if p.is_relative_to(SOURCES / "hosts")]
    assert len(files) > 20
    assert not [
        (p.name, spelled.findall(t)) for p in files if spelled.search(t := p.read_text(encoding="utf-8"))
    ]


def test_how_long_a_text_may_be_is_asked_in_one_place() -> None:
    by_hand = re.compile(r"getattr\([^()]*(\(\))?,\s*\"max_position_embeddings\"")
    assert by_hand.search('getattr(model.config.get_text_config(), "max_position_embeddings", None)')
    assert not [p.name for p in ELSEWHERE if by_hand.search(p.read_text(encoding="utf-8"))]
    config = LlamaConfig(max_position_embeddings=77)
    assert upstream.longest_text(config) == 77
    assert upstream.longest_text(LlavaConfig(text_config=config)) == 77
    assert upstream.longest_text(T5Config()) is None


class Renamed(nn.Module):
    """A module as a release to come might have it."""

    def forward(self, hidden_states: Tensor, memory: Cache | None = None) -> Tensor:
        return hidden_states


class Wrapper(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> None: ...


def test_a_cache_is_handed_over_under_the_name_that_the_signature_has() -> None:
    class Old(nn.Module):
        def forward(self, past_key_values: Any = None) -> Any: ...

    class New(nn.Module):
        def forward(self, cache: Any = None) -> Any: ...

    cache = DynamicCache()
    assert with_cache(Old(), cache) == {"past_key_values": cache}
    assert with_cache(New(), cache) == {"cache": cache}
    assert with_cache(Wrapper(), cache) == with_cache(tiny(), cache)  # a wrapper: the name of the release


def test_a_call_is_understood_in_either_spelling_and_by_type_in_any_other() -> None:
    cache = DynamicCache()
    for name in ("cache", "past_key_values", "memory"):
        assert cache_given({"attention_mask": torch.ones(1, 2), name: cache}) is cache
    assert cache_given({"attention_mask": torch.ones(1, 2), "cache": None}) is None

    class Own(nn.Module):
        @takes_cache
        def forward(self, cache: Any = None) -> Any:
            return cache

    assert Own()(past_key_values=cache) is Own()(cache=cache) is cache


def test_the_cache_of_an_output_is_found_without_its_name() -> None:
    model = tiny()
    out = model(torch.tensor([[1, 2, 3]]), use_cache=True)
    assert isinstance(cache_of(out), DynamicCache)
    assert cache_of(out.to_tuple()) is cache_of(out)
    assert cache_of(model(torch.tensor([[1, 2, 3]]), use_cache=False)) is None
    assert cache_of(type(out)(logits=out.logits, **cache_field(type(out), cache_of(out)))) is cache_of(out)


def test_what_is_not_recognised_is_refused_by_name_with_the_release() -> None:
    with pytest.raises(
        UnsupportedError, match=r"transformers \S+ gives Renamed no argument for a cache .*memory.*proven"
    ):
        with_cache(Renamed(), DynamicCache())
    with pytest.raises(
        UnsupportedError, match=r"Renamed no argument `attention_mask` \(it has hidden_states, memory\)"
    ):
        upstream.require_arguments(Renamed(), ("hidden_states", "attention_mask"))
    with pytest.raises(UnsupportedError, match=r"no `LlamaAttention` in transformers"):
        _ask_for_a_name_that_moved()


def _ask_for_a_name_that_moved() -> None:
    before = upstream._LAZY["LlamaAttention"]
    upstream._LAZY["LlamaAttention"] = "models.llama.attention_of_tomorrow"
    try:
        _ = upstream.LlamaAttention
    finally:
        upstream._LAZY["LlamaAttention"] = before


def test_a_forward_that_was_replaced_by_one_that_takes_anything_is_read_as_the_class_wrote_it() -> None:
    model = tiny()
    ids = torch.arange(12)[None]
    with tk.reduced(model, "random", budget=4, tokens=slice(2, 10)):
        expected = model(ids).logits
    inner = model.model.layers[1].forward
    model.model.layers[1].forward = lambda *args, **kwargs: inner(*args, **kwargs)  # type: ignore[method-assign]
    with tk.reduced(model, "random", budget=4, tokens=slice(2, 10)):
        assert torch.equal(model(ids).logits, expected)


def test_a_session_refuses_a_decoder_whose_layers_were_renamed() -> None:
    model = tiny()

    def forward(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return hidden

    model.model.layers[1].forward = forward  # type: ignore[method-assign]
    model.model.layers[1].__class__ = type("LayerOfTomorrow", (type(model.model.layers[0]),), {})
    with pytest.raises(
        UnsupportedError, match=r"LayerOfTomorrow no argument `hidden_states` \(it has hidden, mask\)"
    ):
        tk.reduced(model, "random", budget=4, tokens=slice(2, 10))


def test_a_cache_that_comes_in_an_unknown_way_is_noticed_and_not_taken_for_a_new_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    monkeypatch.setattr("tokenry.hosts.reducing.entry.cache_given", lambda arguments: None)
    ids, reason = torch.arange(12)[None], r"cache .*in a way that is not recognised; .* proven with"
    with (
        tk.reduced(model, "random", budget=4, tokens=slice(2, 10)),
        pytest.raises(UnsupportedError, match=reason),
    ):
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    with tk.reduced(model, "random", budget=4, tokens=lambda ids: torch.zeros_like(ids, dtype=torch.bool)):
        cache = cache_of(model(ids, use_cache=True))  # a prompt of text alone
        with pytest.raises(UnsupportedError, match=reason):
            model(ids, **with_cache(model, cache), use_cache=True)


def test_a_decoder_refuses_a_model_whose_generation_lost_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(type(model), "_prefill", lambda self, prompt: None)
    with pytest.raises(UnsupportedError, match="no argument `input_ids`"):
        tk.generate(model, torch.tensor([[1, 2, 3]]), calibration={1: 1.0, 8: 1.1}, max_new_tokens=2)


def test_newer_releases_warn_once_and_older_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor = upstream.PROVEN[1].split(".")[:2]
    newer = f"{major}.{int(minor) + 1}.0"
    releases._require.cache_clear()
    with pytest.warns(UserWarning, match=r"newer than .* `tokenry reduce check MODEL`"):
        releases._require(newer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        releases._require(newer)
        releases._require(f"{major}.{minor}.9")  # a patch release renames nothing
    monkeypatch.setattr(releases, "release", lambda: "5.19.0")
    with pytest.raises(UnsupportedError, match="is too old; tokenry is proven with"):
        upstream.require_release()
