"""Duo-LLM: a choice between two feed-forward layers, on models of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM, PreTrainedModel

from tokenry.data.packages import PackageUnavailableError
from tokenry.hosts.upstream import cache_argument, cache_of, parameters
from tokenry.models.adaptive.conditional import compute_map
from tokenry.models.adaptive.duo_llm.model import Choice, DuoConfig, DuoForCausalLM, Mix, convert
from tokenry.models.adaptive.duo_llm.oracle import oracle
from tokenry.models.adaptive.duo_llm.routing import every_routing, pattern, random_patterns, sample_routings
from tokenry.models.load import load
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.language import small_llama

LAYERS = 4


def host(kind: str = "llama", layers: int = LAYERS, **changes: Any) -> PreTrainedModel:
    """A random model with weights large enough that choices matter."""
    sizes: dict[str, Any] = dict(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | changes)).eval()


def texts(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(1))


def padded(rows: int = 3, length: int = 9) -> dict[str, Tensor]:
    """Texts of different length, padded on the left."""
    ids, mask = texts(rows, length), torch.ones(rows, length, dtype=torch.long)
    for row in range(1, rows):
        mask[row, : 2 * row] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def anything(*shape: int, choices: int = 2, seed: int = 2) -> Tensor:
    return torch.randint(choices, (*shape, LAYERS), generator=torch.Generator().manual_seed(seed))


KINDS = ["llama", "qwen2", "qwen3", "mistral", "phi", "stablelm"]


# ------------------------------------------------------------------------------------------- conversion


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_all_big_is_the_plain_model(kind: str, attention: str) -> None:
    model = host(kind)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        expected = model(**padded()).logits
        duo = convert(model)
        assert torch.equal(duo(**padded()).logits, expected)
        assert model.config._attn_implementation == attention
        with duo.routed(torch.ones(3, 9, LAYERS, dtype=torch.long)):  # the same, token by token
            torch.testing.assert_close(duo(**padded()).logits, expected)
        with duo.routed("small"):
            assert (duo(**padded()).logits - expected).abs().max() > 1e-3


def test_a_new_model_has_the_attention_that_transformers_would_choose() -> None:
    settings = host().config.to_dict()
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    made = DuoForCausalLM(DuoConfig(host=AutoConfig.for_model(**settings)))
    assert made.model.config._attn_implementation == plain.config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings("ignore:.*past_key_values.* is deprecated")
@pytest.mark.parametrize(
    "given", [*sorted({"past_key_values", cache_argument(LlamaForCausalLM.forward)}), None]
)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_columns_keep_their_choices_behind_a_cache(kind: str, given: str | None) -> None:
    duo, inputs = convert(host(kind)), padded()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    duo.route(torch.randint(0, 2, (3, 9, LAYERS), generator=torch.Generator().manual_seed(2)))
    whole = duo(**inputs, position_ids=positions).logits
    head = duo(ids[:, :4], attention_mask=mask[:, :4], position_ids=positions[:, :4], use_cache=True)
    rest = {"input_ids": ids[:, 4:], "attention_mask": mask, "position_ids": positions[:, 4:]}
    if given is None:  # by its place among the arguments
        names = [*parameters(duo.model)]
        before = names[: names.index(cache_argument(duo.model))]
        tail = duo(*[rest[name] for name in before], cache_of(head))
    else:
        tail = duo(**rest, **{given: cache_of(head)})
    real = mask.bool()[:, 4:]
    torch.testing.assert_close(tail.logits[real], whole[:, 4:][real])


@pytest.mark.parametrize("kind", KINDS)
def test_undo_gives_the_model_back(kind: str) -> None:
    model = host(kind)
    model.model.embed_tokens.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt = {name: p.requires_grad for name, p in model.named_parameters()}
    settings, expected = model.config.to_dict(), model(texts()).logits
    duo = convert(model, skip=True)
    duo.requires_grad_(False)
    duo.route("small")
    assert duo.undo() is model
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == learnt
    assert model.config.to_dict() == settings
    assert not model.get_decoder()._forward_pre_hooks
    assert torch.equal(model(texts()).logits, expected)
    with pytest.raises(UnsupportedError, match="undone"):
        duo.route("big")
    convert(model)  # and again


def test_conversion_draws_from_its_seed_and_from_nothing_else() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        duo = convert(host(), start="random", seed=seed)
        return {k: v for k, v in duo.state_dict().items() if ".small." in k or ".router." in k}

    first, second, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    model = host()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convert(model)
    assert torch.equal(torch.rand(3), expected)


def test_pruning_keeps_the_strongest_neurons() -> None:
    model = host()
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        mlp.down_proj.weight[:, 7:15] *= 100
    part = convert(model, small=8 / 128).feed_forwards[0]
    keep = slice(7, 15)
    x = torch.randn(5, 32)
    expected = F.silu(x @ mlp.gate_proj.weight[keep].T) * (x @ mlp.up_proj.weight[keep].T)
    torch.testing.assert_close(part.small(x), expected @ mlp.down_proj.weight[:, keep].T)


def test_pruning_where_shapes_do_not_tell() -> None:
    duo = convert(host(intermediate_size=32), small=1.0)  # all neurons kept: the same function
    with torch.no_grad():
        expected = duo(texts()).logits
        with duo.routed("small"):
            torch.testing.assert_close(duo(texts()).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tied: bool, tmp_path: Path) -> None:
    model = host(tie_word_embeddings=tied)
    model.generation_config = GenerationConfig(eos_token_id=[5, 7], pad_token_id=0)
    duo = convert(model, skip=True, small=1 / 8)
    duo.config.routing = [1, 0, 2, 1]
    duo.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = DuoForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.model.generation_config.eos_token_id == [5, 7]
    with torch.no_grad(), duo.routed([1, 0, 2, 1]):
        assert torch.equal(loaded(**padded()).logits, duo(**padded()).logits)
    for name in ("router", "small"):
        duo.route(name)
        loaded.route(name)
        assert torch.equal(
            duo.generate(**padded(), max_new_tokens=5), loaded.generate(**padded(), max_new_tokens=5)
        )
    half = DuoForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert half.model.config._attn_implementation == "eager"
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_copy_is_routed_by_itself() -> None:
    duo = convert(host())
    other = copy.deepcopy(duo)
    other.route("small")
    with torch.no_grad():
        assert (duo(texts()).logits - other(texts()).logits).abs().max() > 1e-3
        routing = anything(2, 14)
        duo.route(routing)
        other.route(routing)
        assert torch.equal(duo.generate(texts(), max_new_tokens=5), other.generate(texts(), max_new_tokens=5))


# ------------------------------------------------------------------------------------------- routing


def by_hand(duo: DuoForCausalLM, ids: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The definition: every layer runs all feed-forward layers on everything, and choices pick among them."""
    model = duo.model.model
    hidden = model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotary = model.rotary_emb(hidden, positions)
    mask = torch.full((ids.shape[1],) * 2, torch.finfo(hidden.dtype).min).triu(1)[None, None]
    for number, layer in enumerate(model.layers):
        hidden = hidden + layer.self_attn(layer.input_layernorm(hidden), rotary, mask)[0]
        normed = layer.post_attention_layernorm(hidden)
        part = duo.feed_forwards[number]
        outputs = torch.stack([part.small(normed), part.big(normed), torch.zeros_like(normed)], -2)
        chosen = choose(number, normed)[..., None, None].expand(*normed.shape[:2], 1, normed.shape[2])
        hidden = hidden + outputs.gather(2, chosen).squeeze(2)
    return duo.model.lm_head(model.norm(hidden))


@torch.no_grad()
def test_passes_over_different_texts_are_kept_apart() -> None:
    duo = convert(host())
    with duo.traced() as trace:
        duo(texts(2, 5))
        duo(texts(1, 4))
    assert [tuple(one.shape) for one in trace.passes] == [(2, 5, LAYERS), (1, 4, LAYERS)]
    with pytest.raises(InputError, match="do not follow each other"):
        _ = trace.choices


@torch.no_grad()
def test_each_token_gets_what_it_chose() -> None:
    duo, routing = convert(host(), skip=True), anything(2, 9, choices=3)
    with duo.routed(routing), duo.traced() as trace:
        got = duo(texts()).logits
    torch.testing.assert_close(got, by_hand(duo, texts(), lambda layer, x: routing[:, :, layer]))
    assert torch.equal(trace.choices, routing)
    with duo.routed("router"), duo.traced() as trace:
        got = duo(texts()).logits
    torch.testing.assert_close(
        got, by_hand(duo, texts(), lambda layer, x: duo.feed_forwards[layer].router(x).argmax(-1))
    )
    assert trace.choices.unique().numel() == 3
    with duo.routed([2, 0, 1, 1]):
        got = duo(texts()).logits
    one = torch.tensor([2, 0, 1, 1])
    torch.testing.assert_close(got, by_hand(duo, texts(), lambda layer, x: one[layer].expand(2, 9)))


@torch.no_grad()
def test_feed_forward_layers_run_on_those_who_chose_them_only() -> None:
    duo, routing = convert(host(), skip=True), anything(2, 9, choices=3)
    routing[:, :, 3] = Choice.SKIP
    rows: dict[tuple[str, int], int] = {}

    def count(name: str, layer: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            rows[name, layer] = rows.get((name, layer), 0) + args[0].flatten(0, -2).shape[0]

        return hook

    for part in duo.feed_forwards:
        part.big.register_forward_pre_hook(count("big", part.layer))
        part.small.register_forward_pre_hook(count("small", part.layer))
    with duo.routed(routing):
        duo(texts())
    expected = {
        (name, layer): int((routing[:, :, layer] == choice).sum())
        for name, choice in (("big", Choice.BIG), ("small", Choice.SMALL))
        for layer in range(3)
    }
    assert rows == expected


@torch.no_grad()
def full(duo: DuoForCausalLM, new: int, ids: Tensor, mask: Tensor) -> Tensor:
    """Greedy decoding that computes everything anew for every token."""
    for _ in range(new):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = duo(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[
            :, -1
        ]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        mask = F.pad(mask, (0, 1), value=1)
    return ids


@pytest.mark.parametrize("routing", ["router", "small", [0, 1, 2, 1], "tensor", "one row"])
def test_generate_is_recomputation_step_by_step(routing: Any) -> None:
    duo, inputs = convert(host(), skip=True), padded()
    routing = {"tensor": anything(3, 20, choices=3), "one row": anything(1, 20, choices=3)}.get(
        str(routing), routing
    )
    duo.route(routing)
    with duo.traced() as trace:
        got = duo.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(got, full(duo, 8, inputs["input_ids"], inputs["attention_mask"]))
    assert trace.choices.shape == (3, 9 + 7, LAYERS)  # the last token is never run
    if isinstance(routing, Tensor):
        assert torch.equal(trace.choices, routing[:, :16].expand(3, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("routing", ["router", "tensor"])
def test_a_text_does_not_notice_the_others_nor_its_padding(routing: Any) -> None:
    duo, inputs = convert(host()), padded()
    choices = anything(3, 9)
    duo.route(choices if routing == "tensor" else routing)
    together = duo(**inputs).logits
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        if routing == "tensor":
            duo.route(choices[row : row + 1, kept])
        alone = duo(inputs["input_ids"][row : row + 1, kept]).logits[0]
        torch.testing.assert_close(together[row, kept], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mixtures() -> None:
    duo = convert(host(), skip=True)
    ids = texts()
    with duo.routed(Mix(1e-4)):  # cold: a choice
        cold = duo(ids).logits
    with duo.routed("router"):
        torch.testing.assert_close(cold, duo(ids).logits, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    with duo.routed(Mix(1.0, gumbel=True)), duo.traced() as trace:
        drawn = duo(ids).logits
    assert set(trace.probabilities.unique().tolist()) == {0.0, 1.0}
    with duo.routed(trace.choices):
        torch.testing.assert_close(duo(ids).logits, drawn)


def test_the_routing_before_comes_back() -> None:
    duo = convert(host())
    duo.route("small")
    with torch.no_grad():
        small = duo(texts()).logits
        with pytest.raises(KeyboardInterrupt), duo.routed("big"):
            raise KeyboardInterrupt
        assert torch.equal(duo(texts()).logits, small)


# ------------------------------------------------------------------------------------------- costs and patterns


def test_costs() -> None:
    duo = convert(host(), skip=True)
    table = duo.costs()
    small, big = (
        table.executed({str(layer): torch.tensor(int(c)) for layer in range(LAYERS)}) - table.overhead
        for c in (Choice.SMALL, Choice.BIG)
    )
    assert small / big == 1 / 16
    assert big == LAYERS * 3 * 32 * 128
    routing = anything(2, 9, choices=3)
    share = compute_map({str(layer): routing[:, :, layer] for layer in range(LAYERS)}, table)
    expected = ((routing == 1).float() + (routing == 0).float() / 16).mean(-1)
    torch.testing.assert_close(share, expected)
    assert duo.other_cost() == LAYERS * (2 * 32 * 32 + 2 * 32 * 16) + 61 * 32


def test_patterns() -> None:
    assert pattern("first", 6, 2) == (1, 1, 0, 0, 0, 0)
    assert pattern("last", 6, 2) == (0, 0, 0, 0, 1, 1)
    assert pattern("alternating", 6, 3) == (1, 0, 1, 0, 1, 0)
    assert pattern("alternating", 6, 2) == (1, 0, 0, 1, 0, 0)
    for name in ("first", "last", "alternating"):
        assert [sum(pattern(name, 6, b)) for b in range(7)] == list(range(7))
    drawn = random_patterns(6, 3, 100, seed=1)
    assert drawn.shape == (100, 6)
    assert drawn.sum(1).unique().tolist() == [3]
    assert len(drawn.unique(dim=0)) == 20  # all that there are
    assert torch.equal(drawn, random_patterns(6, 3, 100, seed=1))


# ------------------------------------------------------------------------------------------- the oracle


@torch.no_grad()
def brute_force(duo: DuoForCausalLM, ids: Tensor, routings: Tensor, prefix: Tensor) -> Tensor:
    """The loss of every token under every routing, each in full; prefix [s, l] routes the tokens before it."""
    found, n = [], len(routings)
    for column in range(len(ids) - 1):
        choices = prefix[None, : column + 1].repeat(n, 1, 1)
        choices[:, column] = routings
        with duo.routed(choices):
            logits = duo(ids[None, : column + 1].expand(n, -1), use_cache=False).logits[:, -1]
        found.append(F.cross_entropy(logits, ids[column + 1].expand(n), reduction="none"))
    return torch.stack(found)


@pytest.mark.parametrize("rows", [512, 5])
@pytest.mark.parametrize("prefix", ["big", "router", "tensor", [0, 1, 1, 0]])
def test_the_tree_is_brute_force(prefix: Any, rows: int) -> None:
    duo, ids = convert(host()), texts()
    policy = anything(2, 9) if prefix == "tensor" else prefix
    result = oracle(duo, ids, prefix=policy, rows=rows)
    assert result.routings.tolist() == [list(c) for c in product(range(2), repeat=LAYERS)]
    assert result.losses.shape == (16, 16)
    with torch.no_grad(), duo.routed(policy), duo.traced() as trace:
        duo(ids)
    for row in range(2):
        expected = brute_force(duo, ids[row], result.routings, trace.choices[row])
        torch.testing.assert_close(result.losses[result.tokens[:, 0] == row], expected, rtol=0, atol=1e-5)
    assert result.tokens[:, 1].tolist() == list(range(8)) * 2


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "stablelm", "skip", "eager", "sampled"])
def test_the_tree_on_other_models(kind: str) -> None:
    model = host(kind if kind in KINDS else "llama")
    if kind == "eager":
        model.set_attn_implementation("eager")
    duo, ids = convert(model, skip=kind == "skip"), texts(1, 5)
    routings = sample_routings(LAYERS, 9, seed=3) if kind == "sampled" else None
    result = oracle(duo, ids, routings=routings, rows=64)
    assert len(result.routings) == {"skip": 81, "sampled": len(routings) if routings is not None else 0}.get(
        kind, 16
    )
    expected = brute_force(duo, ids[0], result.routings, torch.ones(5, LAYERS, dtype=torch.long))
    torch.testing.assert_close(result.losses, expected, rtol=0, atol=2e-5)


def test_padding_is_neither_seen_nor_tried() -> None:
    duo, inputs = convert(host()), padded()
    routing = anything(3, 9)
    together = oracle(
        duo, **{"ids": inputs["input_ids"]}, attention_mask=inputs["attention_mask"], prefix=routing
    )
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        alone = oracle(duo, inputs["input_ids"][row : row + 1, kept], prefix=routing[row : row + 1, kept])
        mine = together.tokens[:, 0] == row
        torch.testing.assert_close(together.losses[mine], alone.losses, rtol=0, atol=1e-5)
        assert together.tokens[mine, 1].tolist() == kept.nonzero().squeeze(1)[:-1].tolist()


def test_the_oracle_is_no_worse_than_any_fixed_policy() -> None:
    duo, ids = convert(host()), texts()
    result = oracle(duo, ids)
    for routing in result.routings.tolist():
        bigs = sum(routing)
        assert (result.exactly(bigs) <= result.of(routing)).all()
        assert result.routings[result.best(bigs)].sum(1).unique().tolist() == [bigs]
    at_most = torch.stack([result.at_most(b) for b in range(LAYERS + 1)])
    assert (at_most.diff(dim=0) <= 0).all()
    assert torch.equal(at_most[-1], result.losses.amin(1))
    assert torch.equal(result.difficulty, result.of([0] * LAYERS) - at_most[-1])
    assert (result.difficulty >= 0).all()
    for b in range(LAYERS + 1):
        assert result.layer_use(b).sum().item() == pytest.approx(b)
    torch.testing.assert_close(  # all big after a prefix that is all big: the model itself
        result.of([1] * LAYERS),
        F.cross_entropy(duo(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"),
    )


def test_the_tree_runs_what_routings_share_once() -> None:
    duo, runs = convert(host()), [0]
    for part in duo.feed_forwards:
        for module in (part.big, part.small):
            module.register_forward_pre_hook(
                lambda module, args: runs.__setitem__(0, runs[0] + args[0].flatten(0, -2).shape[0])
            )
    oracle(duo, texts(1, 9), rows=7)
    prefix_and_check = LAYERS * (9 + 1)
    assert runs[0] - prefix_and_check == 8 * 2 * (2**LAYERS - 1)


def test_grouped_layers_choose_together() -> None:
    routings = every_routing(30, groups=6)
    assert routings.shape == (64, 30)
    assert all(len(set(r[i : i + 5])) == 1 for r in routings.tolist() for i in range(0, 30, 5))
    assert len(routings.unique(dim=0)) == 64
    sampled = sample_routings(30, 200, groups=10, choices=3, seed=1)
    assert [0] * 30 in sampled.tolist()
    assert [1] * 30 in sampled.tolist()
    assert sampled.unique().tolist() == [0, 1, 2]
    duo = convert(host())
    result = oracle(duo, texts(), groups=2)
    assert result.routings.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    everything = oracle(duo, texts())
    torch.testing.assert_close(result.of([0, 0, 1, 1]), everything.of([0, 0, 1, 1]))
    with pytest.raises(InputError, match="exactly 1 big"):
        result.exactly(1)
    with pytest.raises(InputError, match="not among the 4"):
        result.of([0, 1, 0, 1])


def test_the_oracle_leaves_the_model_as_it_was() -> None:
    duo = convert(host())
    duo.route("small")
    with torch.no_grad():
        expected = duo(texts()).logits
        oracle(duo, texts())
        assert torch.equal(duo(texts()).logits, expected)
    part = duo.feed_forwards[2]
    handle = part.big.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        oracle(duo, texts(), prefix="small")
    handle.remove()
    assert torch.equal(duo(texts()).logits, expected)


# ------------------------------------------------------------------------------------------- what cannot be


def refused(kind: str) -> PreTrainedModel:
    from transformers import BertConfig, BertModel, GPT2Config, MixtralConfig

    small: dict[str, Any] = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=61)
    if kind == "BertModel":
        return BertModel(BertConfig(**small, intermediate_size=64))
    if kind == "GPT2LMHeadModel":
        return AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=61))
    if kind == "MixtralForCausalLM":
        config = MixtralConfig(**small, intermediate_size=64, num_key_value_heads=2, num_local_experts=2)
        return AutoModelForCausalLM.from_config(config)
    return convert(host()).model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("BertModel", "BertModel is not a causal"),
        ("GPT2LMHeadModel", "GPT2LMHeadModel has no `layers`"),
        ("MixtralForCausalLM", "Layer 0 of MixtralForCausalLM has an `mlp` of class Mixtral"),
        ("LlamaForCausalLM", "already"),
    ],
)
def test_models_that_cannot_be_converted_are_named(kind: str, message: str) -> None:
    model = refused(kind)
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(UnsupportedError, match=message):
        convert(model)
    assert [name for name, _ in model.named_modules()] == before


def test_the_oracle_refuses_a_model_that_does_more_than_it_knows() -> None:
    duo = convert(
        host("gemma2", sliding_window=64, head_dim=8)
    )  # scaled embeddings, norms behind, capped logits
    with torch.no_grad(), duo.routed(anything(2, 9)):
        assert duo(texts()).logits.isfinite().all()  # routing it is fine
    with pytest.raises(UnsupportedError, match="Gemma2ForCausalLM, run one by one"):
        oracle(duo, texts())
    with pytest.raises(UnsupportedError, match="decoder of PhiForCausalLM has no norm"):
        oracle(convert(host("phi")), texts())
    with pytest.raises(UnsupportedError, match="attends to 4 tokens and the text has 9"):
        oracle(convert(host("mistral", sliding_window=4)), texts())
    mixed = host("qwen2", sliding_window=4, use_sliding_window=True, max_window_layers=2)
    assert set(mixed.config.layer_types) == {"full_attention", "sliding_attention"}
    with pytest.raises(UnsupportedError, match="attends to 4 tokens"):
        oracle(convert(mixed), texts())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: convert(host(), small=0.0), "got 0.0"),
        (lambda d: convert(host(), start="nothing"), "pruned"),
        (lambda d: DuoConfig(small=1.5), "got 1.5"),
        (lambda d: d.route("middle"), "'middle'"),
        (lambda d: d.route("skip"), "skip=True"),
        (lambda d: d.route([1, 1, 1]), r"of shape \(3,\)"),
        (lambda d: d.route([1, 1, 1, 2]), "skip=True"),
        (lambda d: d.route(torch.ones(2, 9, LAYERS)), "float32"),
        (lambda d: d.route(torch.ones(9, LAYERS, dtype=torch.long)), "of shape"),
        (lambda d: d.route(-anything(2, 9)), "got -1"),
        (lambda d: d.route(Mix(0.0)), "above 0"),
        (lambda d: (d.route(anything(3, 9)), d(texts())), "3 rows and the batch 2"),
        (lambda d: (d.route(anything(2, 11)), d.generate(texts(), max_new_tokens=5)), "covers 11 columns"),
        (lambda d: d.traced().__enter__().choices, "Nothing was traced"),
        (lambda d: pattern("middle", 6, 2), "'middle'"),
        (lambda d: pattern("first", 6, 7), "got 7"),
        (lambda d: random_patterns(6, 7, 3), "got 7"),
        (lambda d: every_routing(30), "1073741824 routings"),
        (lambda d: every_routing(12, 3), "531441 routings"),
        (lambda d: every_routing(4, groups=5), "got 5"),
        (lambda d: sample_routings(4, 1), "n=1"),
        (lambda d: oracle(d, texts(), limit=15), "more than 15"),
        (lambda d: oracle(d, texts(), routings=every_routing(3)), r"\(8, 3\)"),
        (lambda d: oracle(d, texts(), routings=every_routing(4, 3)), "choices 0 to 1, got 0 to 2"),
        (lambda d: oracle(d, texts(2, 1)), "No token"),
        (lambda d: oracle(d, texts(), prefix=anything(2, 5)), r"\(2, 5, 4\)"),
        (lambda d: oracle(d, texts(), prefix="soft"), "anything but a mix"),
        (lambda d: oracle(d, texts(), prefix=Mix(0.5)), "anything but a mix"),
        (lambda d: oracle(d.train(), texts()), "eval"),
    ],
)
def test_what_cannot_be(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(convert(host()))


def test_checkpointing_would_run_layers_under_another_routing() -> None:
    duo = convert(small_llama(61, layers=2, width=32, heads=2)).train()
    duo.model.gradient_checkpointing_enable()
    with pytest.raises(UnsupportedError, match="Gradient checkpointing"), duo.routed("small"):
        pass
    duo.route("small")
    duo(texts(), labels=texts(), use_cache=False).loss.backward()
    assert all(part.small.down_proj.weight.grad is not None for part in duo.feed_forwards)


# ------------------------------------------------------------------------------------------- the real model


@pytest.mark.packages
@pytest.mark.slow
def test_smollm2() -> None:
    try:
        model, tokenizer = load("smollm2")
    except (PackageUnavailableError, UnsupportedError) as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    duo = convert(model)
    assert torch.equal(duo.model.generate(**inputs, max_new_tokens=6, do_sample=False), expected)
    result = oracle(duo, expected[:, :8], groups=6)
    assert result.losses.shape == (7, 64)
    with torch.no_grad():
        logits = model(expected[:, :8]).logits[0, :-1]
    torch.testing.assert_close(
        result.of([1] * 30), F.cross_entropy(logits, expected[0, 1:8], reduction="none"), rtol=1e-3, atol=1e-3
    )
    assert result.at_most(30).mean() < result.of([1] * 30).mean()
    duo.route("router")
    routed = duo.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(routed, full(duo, 4, inputs.input_ids, inputs.attention_mask))
    assert torch.equal(duo.undo().generate(**inputs, max_new_tokens=6, do_sample=False), expected)
