"""Octopus v4: calls as text and as ids, new rows, routing under a mask, walks through a graph, and what goes wrong."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.text.transplant import tiny
from tokenry.bench.reproduce import octopus_workers
from tokenry.bench.reproduce.octopus_queries import TEMPLATES, make_queries
from tokenry.models.load import load
from tokenry.predict.octopus_v4 import Edge, FunctionalRouter, Graph, Node, Octopus, WorkerError, Written
from tokenry.predict.octopus_v4.adapter import LoraSettings, load_adapter, save_adapter, with_lora
from tokenry.predict.octopus_v4.tokens import CallPrompt, FunctionalTokens, add_functional_tokens
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError, UnsupportedError

WORKERS = {"cats": "the cat sat there", "weather": "the weather is neither", "general": "nothing matters"}
TOKENS = FunctionalTokens(tuple(WORKERS), tuple(WORKERS.values()), (310, 311, 312), 313)
QUERIES = ("the cat", "is the weather here?", "what's <tok_1> there", "feathers\ntogether", "x" * 40)


def tokenizer_of(kind: str = "byte-level") -> Any:
    return copy.deepcopy(tiny.kinds()[kind])  # tokens are added to it


def with_tokens(
    kind: str = "byte-level", tied: bool = True, seed: int = 0
) -> tuple[Any, Any, FunctionalTokens]:
    tokenizer = tokenizer_of(kind)
    model = tiny.llama(tokenizer, tied=tied, seed=seed)
    return model, tokenizer, add_functional_tokens(model, tokenizer, WORKERS)


# ------------------------------------------------------------------------------------------ tokens and rows


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_each_functional_token_is_one_id_and_survives_the_round_trip(kind: str) -> None:
    _, tokenizer, tokens = with_tokens(kind)
    assert tokens.texts == ("<tok_0>", "<tok_1>", "<tok_2>", "<tok_end>")
    for text, token in zip(tokens.texts, tokens.all_ids, strict=True):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == [token]
        inside = tokenizer(f"the{text}cat {text}{text}", add_special_tokens=False)["input_ids"]
        assert inside.count(token) == 3
        assert tokenizer.decode([token]) == text
        assert tokenizer.decode([token], skip_special_tokens=True) == ""


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_and_old_logits_stay(tied: bool) -> None:
    tokenizer = tokenizer_of()
    model = tiny.llama(tokenizer, tied=tied)
    ids, size = tiny.ids_of(model), len(tokenizer)
    before = model(ids).logits
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in WORKERS.values()]
    tokens = add_functional_tokens(model, tokenizer, WORKERS)
    after = model(ids).logits
    assert after.shape[-1] == size + 4
    torch.testing.assert_close(after[..., :size], before, rtol=0, atol=1e-6)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        for token, piece in zip(tokens.ids, pieces, strict=True):
            torch.testing.assert_close(table[token], table[piece].mean(0))
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == tied


def test_a_model_with_spare_rows_is_not_resized() -> None:
    tokenizer = tokenizer_of()
    model = tiny.llama(tokenizer)
    model.resize_token_embeddings(400, mean_resizing=False)
    tokens = add_functional_tokens(model, tokenizer, WORKERS)
    assert model.get_input_embeddings().num_embeddings == 400
    assert tokens.ids == tuple(range(len(tokenizer) - 4, len(tokenizer) - 1))


def test_rows_may_start_near_the_mean_of_all() -> None:
    tokenizer = tokenizer_of()
    model = tiny.llama(tokenizer)
    old = model.get_input_embeddings().weight.detach().clone()
    tokens = add_functional_tokens(model, tokenizer, WORKERS, start="mean")
    new = model.get_input_embeddings().weight[list(tokens.all_ids)]
    assert not torch.equal(new[0], new[1])
    for seed in (0, 1):
        other = tiny.llama(tokenizer_of())
        add_functional_tokens(other, tokenizer_of(), WORKERS, start="mean", seed=seed)
        rows = other.get_input_embeddings().weight[list(tokens.all_ids)]
        assert torch.equal(rows, new) == (seed == 0)
    torch.testing.assert_close(new, old.mean(0).expand(4, -1), rtol=0, atol=float(0.05 * old.std()))


def test_tokens_that_make_no_sense_are_refused() -> None:
    model, tokenizer, _ = with_tokens()
    with pytest.raises(InputError, match=r"has the token <tok_0> already"):
        add_functional_tokens(model, tokenizer, WORKERS)
    with pytest.raises(InputError, match="no workers"):
        add_functional_tokens(model, tokenizer, {}, prefix="new")
    with pytest.raises(InputError, match="'cats': ' '"):
        add_functional_tokens(model, tokenizer, {"cats": " "}, prefix="new")
    with pytest.raises(InputError, match="prefix"):
        add_functional_tokens(model, tokenizer, WORKERS, prefix="a b")
    with pytest.raises(InputError, match="wrapped by peft"):
        add_functional_tokens(with_lora(model, None), tokenizer, WORKERS, prefix="new")
    assert len(tokenizer) == 314  # nothing was added by those that were refused


# ---------------------------------------------------------------------------------------------- the parser


@pytest.mark.parametrize(
    ("text", "worker", "argument"),
    [
        ("<tok_1>('what is it')<tok_end>", "weather", "what is it"),
        ("<tok_1> ( 'a' ) <tok_end> and more", "weather", "a"),
        (r"<tok_0>('what\'s new')<tok_end>", "cats", "what's new"),
        ("<tok_0>('what's new')<tok_end>", "cats", "what's new"),  # the reference finds no call here
        ("<tok_0>(\"say 'hi'\")<tok_end>", "cats", "say 'hi'"),
        (r"<tok_0>('two\nlines')<tok_end>", "cats", "two\nlines"),
        ("<tok_0>('two\nlines')<tok_end>", "cats", "two\nlines"),
        (r"<tok_0>('C:\dir \\n')<tok_end>", "cats", r"C:\dir \n"),
        ("<tok_2>('no end')", "general", "no end"),
        ("<tok_2>('')<tok_end>", "general", ""),
        ("Sure: <tok_2>('x')<tok_end><tok_0>('y')<tok_end>", "general", "x"),
        ("<tok_0>('about <tok_end>')<tok_end>", "cats", "about <tok_end>"),
        ("<tok_3>('of nobody')<tok_end><tok_0>('y')<tok_end>", "cats", "y"),  # these are letters here
    ],
)
def test_calls_are_read(text: str, worker: str, argument: str) -> None:
    assert TOKENS.parse(text) == (worker, argument)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the cat",
        "<tok_3>('x')<tok_end>",
        f"<tok_{'9' * 5000}>('x')<tok_end>",
        "<tok_0>",
        "<tok_0>('cut of",
        "<tok_0>(x)<tok_end>",
        "<tok_0>('x'<tok_end>",
    ],
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert TOKENS.parse(text) is None


@given(st.text(), st.sampled_from(list(WORKERS)))
def test_whatever_is_formatted_is_read_again(argument: str, worker: str) -> None:
    assert TOKENS.parse(TOKENS.format(worker, argument)) == (worker, argument)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("argument", ["the cat", "what's <tok_1> and <tok_end>?", "a\nb\\'c .", "", "🐵 ')"])
def test_calls_as_ids_are_read_again(argument: str, kind: str) -> None:
    _, tokenizer, tokens = with_tokens(kind)
    ids = tokens.encode(tokenizer, "weather", argument)
    assert ids[0] == tokens.ids[1]
    assert ids[-1] == tokens.end
    assert set(ids[1:-1]).isdisjoint(tokens.all_ids)
    assert tokens.decode(tokenizer, [5, *ids, *ids]) == ("weather", argument)
    assert tokens.decode(tokenizer, ids[:-1]) == ("weather", argument)
    assert tokens.decode(tokenizer, ids[:-2]) is None
    assert tokens.decode(tokenizer, [5, 6]) is None


def test_a_call_of_nobody_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'dogs'; there are: cats, weather, general"):
        TOKENS.format("dogs", "x")


def test_prompts_hold_the_query_as_letters() -> None:
    _, tokenizer, tokens = with_tokens()
    plain = CallPrompt(tokenizer)("say <tok_1> <|end|>")
    assert set(plain).isdisjoint({*tokens.all_ids, tokenizer.eos_token_id})
    assert "Query: say <tok_1> <|end|>\nCall: " in tokenizer.decode(plain)
    described = tokenizer.decode(CallPrompt(tokenizer, tokens)("the cat"))
    assert "<tok_1>('query'): weather: the weather is neither" in described
    with pytest.raises(InputError, match="empty"):
        CallPrompt(tokenizer)(" ")


def test_prompts_use_the_chat_template_also_one_without_system_role() -> None:
    tokenizer = tokenizer_of()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    )
    assert tokenizer.decode(CallPrompt(tokenizer, system="Route.")("cat")) == (
        "[system] Route.\n[user] cat\n[assistant] "
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    )
    assert (
        tokenizer.decode(CallPrompt(tokenizer, system="Route.")("cat"))
        == "[user] Route.\n\ncat\n[assistant] "
    )


# ------------------------------------------------------------------------------------------------- routing


@pytest.mark.parametrize("seed", range(3))
def test_under_the_mask_nobody_but_a_neighbour_is_called(seed: int) -> None:
    model, tokenizer, tokens = with_tokens(tied=False, seed=seed)
    with torch.no_grad():
        model.get_output_embeddings().weight[tokens.id_of("weather")] *= 50  # what it would like to call
    router = FunctionalRouter(model, tokenizer, tokens, max_new_tokens=6, batch=2)
    ids: list[int] = []
    model.register_forward_hook(lambda *call: ids.extend(call[2].logits[:, -1].argmax(-1).tolist()))
    for allowed in (["cats"], ["general", "cats"]):
        for written in router.write(QUERIES, allowed):
            first = tokenizer(written.text, add_special_tokens=False)["input_ids"]
            assert tokens.workers[tokens.ids.index(first[0])] in allowed
            assert set(first[1:]).isdisjoint(tokens.ids)
            assert written.worker is None or written.worker in allowed
    assert tokens.id_of("weather") in ids
    free = FunctionalRouter(model, tokenizer, tokens, max_new_tokens=6, constrained=False)
    assert all(written.worker is None for written in free.write(QUERIES, ["cats"]))


def test_confidence_is_the_softmax_over_allowed_tokens_and_a_batch_changes_nothing() -> None:
    model, tokenizer, tokens = with_tokens()
    allowed = ["general", "cats"]
    router = FunctionalRouter(model, tokenizer, tokens, max_new_tokens=3)
    chances = router.confidences(QUERIES, allowed)
    for row, query in enumerate(QUERIES):
        logits = model(torch.tensor([router.prompt(query)])).logits[0, -1]
        torch.testing.assert_close(
            chances[row], logits[[tokens.ids[2], tokens.ids[0]]].softmax(-1), rtol=0, atol=1e-5
        )
        (alone,) = router.write([query], allowed)
        assert alone.confidence == pytest.approx(float(chances[row].max()), abs=1e-5)
    assert [one.text for one in router.write(QUERIES, allowed)] == [
        router.write([query], allowed)[0].text for query in QUERIES
    ]


def test_each_token_of_a_call_is_a_step_over_one_position() -> None:
    model, tokenizer, tokens = with_tokens()
    lengths: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    FunctionalRouter(model, tokenizer, tokens, max_new_tokens=5).write(["the cat"], ["cats"])
    assert lengths[0] > 1
    assert set(lengths[1:]) == {1}


def test_the_base_model_s_settings_do_not_bend_calls() -> None:
    model, tokenizer, tokens = with_tokens()
    router = FunctionalRouter(model, tokenizer, tokens, max_new_tokens=12)
    plain = router.write(QUERIES, ["cats"])
    model.generation_config.repetition_penalty, model.generation_config.do_sample = 50.0, True
    assert router.write(QUERIES, ["cats"]) == plain
    assert model.generation_config.repetition_penalty == 50.0  # put aside, not away


def test_routers_refuse_what_they_cannot_do() -> None:
    model, tokenizer, tokens = with_tokens()
    router = FunctionalRouter(model, tokenizer, tokens)
    with pytest.raises(UnknownNameError, match="'dogs'"):
        router.write(["the cat"], ["dogs"])
    with pytest.raises(InputError, match="Nobody may be called"):
        router.write(["the cat"], [])
    with pytest.raises(InputError, match="does not fit into the router's 2048"):
        router.write(["x" * 3000], ["cats"])
    with pytest.raises(InputError, match="empty"):
        router.write([""], ["cats"])
    with pytest.raises(InputError, match="max_new_tokens"):
        FunctionalRouter(model, tokenizer, tokens, max_new_tokens=0)
    model.generation_config.min_new_tokens = 2  # forbids the end: minus infinity, and no fault of the weights
    assert router.write(["the cat"], ["cats"])[0].confidence == 1.0
    model.generation_config.min_new_tokens = None
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = torch.nan
    with pytest.raises(TokenryError, match="not finite"):
        router.write(["the cat"], ["cats"])


# ------------------------------------------------------------------------------------------ saving and loading


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_router_writes_what_it_wrote(tied: bool, tmp_path: Path) -> None:
    model, tokenizer, tokens = with_tokens(tied=tied)
    adapted = with_lora(model, tokens, LoraSettings(rank=2)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    graph = Graph.star([Node(name, description=text) for name, text in WORKERS.items()])
    router = FunctionalRouter(adapted, tokenizer, tokens, max_new_tokens=8)
    wrote = router.write(QUERIES, list(WORKERS))
    router.save(tmp_path / "router", graph)
    assert sorted(path.name for path in (tmp_path / "router").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "functional_tokens.json",
    ]  # fmt: skip
    for merge in (False, True):
        fresh = tokenizer_of()
        again, read = FunctionalRouter.load(
            tmp_path / "router", tiny.llama(fresh, tied=tied), fresh, merge=merge, max_new_tokens=8
        )
        assert read == graph
        found = again.write(QUERIES, list(WORKERS))
        assert [one.text for one in found] == [one.text for one in wrote]
        assert [one.confidence for one in found] == pytest.approx([one.confidence for one in wrote], abs=1e-5)


def test_a_router_that_does_not_fit_is_refused_and_nothing_half_written_stays(tmp_path: Path) -> None:
    model, tokenizer, tokens = with_tokens()
    with pytest.raises(InputError, match="no adapter"):
        save_adapter(tmp_path / "no", model, tokens)
    adapted = with_lora(model, tokens)
    with pytest.raises(InputError, match="could not be written"):
        save_adapter(tmp_path / "no", adapted, tokens, {"graph": {1, 2}})
    assert list(tmp_path.iterdir()) == []
    save_adapter(tmp_path / "router", adapted, tokens)
    other = tokenizer_of("sentencepiece")
    with pytest.raises(InputError, match="as token 310"):
        load_adapter(tmp_path / "router", tiny.llama(other), other)
    fresh = tokenizer_of()
    with pytest.raises(InputError, match="no graph"):
        FunctionalRouter.load(str(tmp_path / "router"), tiny.llama(fresh), fresh)
    with pytest.raises(InputError, match="holds no adapter"):
        load_adapter(tmp_path, model, tokenizer)
    (tmp_path / "router" / "adapter_model.safetensors").write_bytes(b"cut off")
    fresh = tokenizer_of()
    with pytest.raises(InputError, match="is cut off or damaged"):
        load_adapter(tmp_path / "router", tiny.llama(fresh), fresh)
    (tmp_path / "router" / "functional_tokens.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="no description of functional tokens"):
        load_adapter(tmp_path / "router", tiny.llama(fresh), tokenizer_of())


def test_the_start_of_lora_hangs_on_its_seed_alone() -> None:
    def start(seed: int, others: int) -> torch.Tensor:
        model, _, tokens = with_tokens()
        torch.manual_seed(others)
        state = torch.get_rng_state()
        adapted = with_lora(model, tokens, LoraSettings(seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.detach().flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    assert torch.equal(start(1, others=0), start(1, others=5))
    assert not torch.equal(start(1, others=0), start(2, others=0))


def test_lora_that_the_model_cannot_have_is_refused() -> None:
    model, _, tokens = with_tokens()
    for settings in (LoraSettings(rank=0), LoraSettings(targets=("nowhere",))):
        with pytest.raises(InputError, match=r"LoraSettings\(.*does not fit LlamaForCausalLM"):
            with_lora(model, tokens, settings)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, tokens = with_tokens()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnsupportedError, match=r"tokenry\[adapt\]"):
        with_lora(model, tokens)


# ----------------------------------------------------------------------------------------------- the graph

CATS, WEATHER, GENERAL = Node("cats"), Node("weather", prompt="Forecast: {query}!"), Node("general")
ROUTER, SUB = Node("router", kind="router"), Node("sub", kind="router")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([CATS, CATS], [("router", "cats")], "2 nodes have the id 'cats'"),
        ([CATS], [("router", "cats"), ("cats", "dogs")], "'dogs' is no node"),
        ([CATS, WEATHER], [("router", "cats")], "'weather' cannot be reached from 'router'"),
        ([CATS, SUB], [("router", "cats"), ("router", "sub")], "the router 'sub' has no neighbour"),
        ([CATS], [("router", "cats"), ("router", "cats")], "2 edges go from 'router' to 'cats'"),
        ([CATS], [("router", "cats", -1.0)], "costs -1.0"),
        ([CATS], [("router", "cats", float("nan"))], "costs nan"),
        ([Node("cats", prompt="hello")], [("router", "cats")], r"the prompt of 'cats' has no \{query\}"),
        ([Node("")], [("router", "")], "a node has no id"),
    ],
)
def test_graphs_that_cannot_be_used_are_refused(nodes: list[Node], edges: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Graph((ROUTER, GENERAL, *nodes), tuple(Edge(*edge) for edge in edges))


def test_every_fault_of_a_graph_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Graph((ROUTER, CATS), (Edge("router", "dogs"),), start="cats")
    for fault in (
        "'dogs' is no node",
        "general is 'general', which is no node",
        "start is 'cats', which is no router",
    ):
        assert fault in str(caught.value)


def test_a_graph_is_read_as_it_was_written() -> None:
    graph = Graph((ROUTER, GENERAL, CATS), (Edge("router", "cats", 2.0), Edge("cats", "general")))
    assert Graph.from_json(graph.to_json()) == graph
    assert graph.callees() == {"general": "", "cats": ""}
    with pytest.raises(InputError, match="no description of a graph"):
        Graph.from_json({"nodes": [{"name": "cats"}]})
    written = graph.to_json()
    with pytest.raises(InputError, match="no description of a graph"):
        Graph.from_json({**written, "edges": [{"source": "router", "target": "cats", "cost": "2"}]})
    with pytest.raises(InputError, match="cannot be used: start is 'cats'"):
        Graph.from_json({**written, "start": "cats"})
    with pytest.raises(UnknownNameError, match="no node 'dogs'"):
        graph.node("dogs")


# -------------------------------------------------------------------------------------------------- walks


@dataclass
class Script:
    """A router that calls what it is told to, and remembers what it was asked and allowed."""

    calls: list[Written]
    seen: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
        self.seen += [(query, tuple(allowed)) for query in queries]
        return [self.calls.pop(0) for _ in queries]


def called(worker: str | None, argument: str = "asked", confidence: float = 0.9) -> Written:
    return Written(worker, argument, confidence, "")


def says(name: str) -> Callable[[], Callable[[str], str]]:
    return lambda: lambda prompt: f"{name}({prompt})"


def octopus_of(
    edges: Sequence[tuple[Any, ...]], calls: list[Written], **options: Any
) -> tuple[Octopus, Script]:
    names = {name for edge in edges for name in edge[:2]} | {"general"}
    nodes = tuple(node for node in (ROUTER, SUB, CATS, WEATHER, GENERAL) if node.id in names)
    script = Script(calls)
    routers = {"router": lambda: script, "sub": lambda: script}
    workers = {name: says(name) for name in ("cats", "weather", "general")}
    loaders = {name: load for name, load in {**routers, **workers}.items() if name in names}
    return Octopus(Graph(nodes, tuple(Edge(*edge) for edge in edges)), loaders, **options), script


STAR = [("router", "cats", 2.0), ("router", "weather", 1.0), ("router", "general", 0.5)]
CYCLE = [*STAR, ("cats", "weather", 4.0), ("weather", "cats", 8.0)]


def test_one_step_fills_the_prompt_and_stops_at_a_sink() -> None:
    octopus, script = octopus_of(STAR, [called("weather", "rain?")])
    answer = octopus.answer("will it rain?")
    assert answer.text == "weather(Forecast: rain?!)"
    assert (answer.stopped, answer.cost, len(answer.hops)) == ("sink", 1.0, 1)
    assert script.seen == [("will it rain?", ("cats", "weather", "general"))]


@pytest.mark.parametrize(
    ("written", "worker", "argument", "fallback"),
    [
        (called("cats"), "cats", "asked", ""),
        (called("cats", " "), "cats", "query", "empty"),
        (called(None), "general", "query", "unparsed"),
        (called("cats", confidence=0.3), "general", "query", "unsure"),
    ],
)
def test_fallbacks(written: Written, worker: str, argument: str, fallback: str) -> None:
    octopus, _ = octopus_of(STAR, [written], threshold=0.5)
    call = octopus.route("query")
    assert (call.worker, call.argument, call.fallback) == (worker, argument, fallback)
    assert call.confidence == written.confidence


def test_output_goes_on_to_neighbours_until_a_node_comes_twice() -> None:
    octopus, script = octopus_of(CYCLE, [called(name) for name in ("cats", "weather", "cats")])
    answer = octopus.answer("query", max_hops=9)
    assert [hop.call.worker for hop in answer.hops] == ["cats", "weather"]
    assert (answer.stopped, answer.cost) == ("revisit", 6.0)
    assert script.seen[1:] == [("cats(asked)", ("weather",)), ("weather(Forecast: asked!)", ("cats",))]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_cycles_stop_at_max_hops(limit: int) -> None:
    octopus, _ = octopus_of(CYCLE, [called("cats"), called("weather")] * 5)
    answer = octopus.answer("query", max_hops=limit, revisit=True)
    assert (len(answer.hops), answer.stopped) == (limit, "max_hops")


def test_an_unsure_router_keeps_the_answer_that_is_there() -> None:
    octopus, _ = octopus_of(CYCLE, [called("cats"), called("weather", confidence=0.1)], threshold=0.5)
    answer = octopus.answer("query")
    assert (answer.text, answer.stopped) == ("cats(asked)", "unsure")


def test_sub_routers_see_their_neighbours_only_and_get_the_reworded_query() -> None:
    edges = [("router", "sub"), ("router", "general"), ("sub", "cats"), ("sub", "weather")]
    octopus, script = octopus_of(edges, [called("sub", "reworded"), called("cats")])
    answer = octopus.answer("query")
    assert [(hop.call.worker, hop.output) for hop in answer.hops] == [("sub", None), ("cats", "cats(asked)")]
    assert script.seen == [("query", ("sub", "general")), ("reworded", ("cats", "weather"))]


@pytest.mark.parametrize("lost", [called(None), called("cats", confidence=0.1)])
def test_what_a_sub_router_cannot_place_goes_to_general_as_the_user_asked_it(lost: Written) -> None:
    edges = [("router", "sub"), ("router", "general"), ("sub", "cats")]
    octopus, _ = octopus_of(edges, [called("sub", "reworded"), lost], threshold=0.5)
    assert octopus.answer("query").text == "general(query)"


def test_a_query_that_meets_only_routers_is_answered_by_general() -> None:
    octopus, _ = octopus_of([("router", "sub"), ("sub", "router")], [called("sub"), called("router")])
    answer = octopus.answer("query")
    assert (answer.text, answer.stopped) == ("general(query)", "revisit")
    assert answer.hops[-1].call.fallback == "unanswered"
    octopus, _ = octopus_of([("router", "sub"), ("sub", "router")], [called("sub"), called("router")] * 5)
    answer = octopus.answer("query", max_hops=4, revisit=True)
    assert (answer.text, answer.stopped) == ("general(query)", "max_hops")
    with pytest.raises(InputError, match="max_hops 0"):
        octopus.answer("query", max_hops=0)


def test_nodes_are_loaded_when_needed_and_the_least_recent_goes() -> None:
    loads: list[str] = []

    def counted(name: str, load: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: loads.append(name) or load()

    script = Script([called(name) for name in ("cats", "weather", "weather", "cats")])
    graph = Graph((ROUTER, CATS, WEATHER, GENERAL), tuple(Edge(*edge) for edge in STAR))
    loaders = {name: counted(name, says(name)) for name in ("cats", "weather", "general")}
    octopus = Octopus(graph, {**loaders, "router": counted("router", lambda: script)}, keep=2)
    assert loads == []
    for query in "abcd":
        octopus.answer(query)
    assert loads == ["router", "cats", "weather", "cats"]


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_missing_worker_is_named_when_the_graph_is_loaded() -> None:
    graph = Graph.star([replace(CATS, callable="felines"), WEATHER, GENERAL])
    loaders = {name: says(name) for name in ("router", "weather", "general")}
    with pytest.raises(InputError, match=r"Nothing loads 'cats' \(as 'felines'\)"):
        Octopus(graph, loaders)
    with pytest.raises(InputError, match="no node that 'cats' would load"):
        Octopus(graph, {**loaders, "felines": says("cats"), "cats": says("cats")})
    with pytest.raises(InputError, match="threshold 2"):
        Octopus(graph, {**loaders, "felines": says("cats")}, threshold=2.0)


def _raises(_: str) -> str:
    raise ValueError("fur")


def _no_module() -> Any:
    raise ImportError("no module cats")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: _raises, r"The node 'cats' failed with ValueError\('fur'\)"),
        (_no_module, r"The node 'cats' could not be loaded: ImportError\('no module cats'\)"),
        (lambda: lambda _: None, "The node 'cats' returned NoneType instead of text"),
    ],
)
def test_a_worker_that_fails_is_named_and_the_query_kept(load: Callable[[], Any], message: str) -> None:
    script = Script([called("weather", "first"), called("cats", "second")])
    graph = Graph((ROUTER, CATS, WEATHER, GENERAL), tuple(Edge(*edge) for edge in CYCLE))
    loaders = {"router": lambda: script, "weather": says("weather"), "general": says("general"), "cats": load}
    with pytest.raises(WorkerError, match=message) as caught:
        Octopus(graph, loaders).answer("the query")
    error = caught.value
    assert (error.node, error.query, error.argument) == ("cats", "the query", "second")
    assert [hop.output for hop in error.hops] == ["weather(Forecast: first!)"]


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([called("weather"), called("general")], "calls 'general', but 'weather' may hand on to cats only"),
        ([called("nobody")], "calls 'nobody', but 'router' may hand on to cats, weather, general only"),
    ],
)
def test_a_router_cannot_call_whom_the_graph_does_not_allow(calls: list[Written], message: str) -> None:
    octopus, _ = octopus_of(CYCLE, list(calls))
    with pytest.raises(WorkerError, match=message) as caught:
        octopus.answer("query")
    assert len(caught.value.hops) == len(calls) - 1


def test_what_a_router_cannot_read_is_the_users_fault_only_at_first() -> None:
    class Choosy(Script):
        def write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
            if "too long" in queries[0]:
                raise InputError("it does not fit")
            return super().write(queries, allowed)

    graph = Graph((ROUTER, CATS, WEATHER, GENERAL), tuple(Edge(*edge) for edge in CYCLE))
    loaders = {"router": lambda: Choosy([called("cats")]), "weather": says("weather")}
    octopus = Octopus(graph, {**loaders, "general": says("general"), "cats": says("too long")})
    with pytest.raises(InputError, match="does not fit"):
        octopus.answer("too long")
    with pytest.raises(WorkerError, match="does not fit") as caught:  # here it is what the worker said
        octopus.answer("query")
    error = caught.value
    assert (error.node, error.query, error.argument) == ("router", "query", "too long(asked)")
    assert [hop.output for hop in error.hops] == ["too long(asked)"]  # which is not lost


def test_a_router_answers_every_query() -> None:
    class Silent(Script):
        def write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
            return []

    octopus = Octopus(Graph.star([GENERAL]), {"router": lambda: Silent([]), "general": says("general")})
    with pytest.raises(WorkerError, match="wrote 0 calls for 2 queries"):
        octopus.route_many(["a", "b"])


def test_a_router_that_is_none_or_fails_is_named() -> None:
    octopus, _ = octopus_of(STAR, [])
    with pytest.raises(WorkerError, match="'router' failed with IndexError"):
        octopus.answer("query")
    graph = Graph.star([GENERAL])
    with pytest.raises(WorkerError, match="'router' is no router"):
        Octopus(graph, {"router": lambda: "text", "general": says("general")}).answer("query")


# ------------------------------------------------------------------------------------------------ SmolLM2


@pytest.mark.packages
def test_smollm2_routes_under_the_mask_and_keeps_its_old_logits() -> None:
    model, tokenizer = load("smollm2")
    size = len(tokenizer)
    ids = tokenizer("The old logits of a real model", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(ids).logits
        graph = octopus_workers.octopus_graph()
        tokens = add_functional_tokens(model, tokenizer, graph.callees())
        torch.testing.assert_close(model(ids).logits[..., :size], before, rtol=0, atol=1e-4)
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in tokens.texts] == [
        [token] for token in tokens.all_ids
    ]
    assert tokenizer.decode(CallPrompt(tokenizer, system="Route.")("man ls")) == (
        "<|im_start|>system\nRoute.<|im_end|>\n<|im_start|>user\nman ls<|im_end|>\n<|im_start|>assistant\n"
    )
    router = FunctionalRouter(model, tokenizer, tokens, max_new_tokens=2)
    (written,) = router.write(["man ls"], ["name_emoji", "convert_units"])
    assert written.text.startswith((tokens.texts[4], tokens.texts[5]))


# ----------------------------------------------------------------------------------- the example's workers


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("12 miles to kilometres", "12 miles = 19.312128 kilometres"),
        ("-40 degrees Celsius to degrees Fahrenheit", "-40 degrees Celsius = -40 degrees Fahrenheit"),
        ("0 kelvins to degrees Celsius", "0 kelvins = -273.15 degrees Celsius"),
        ("3 weeks to seconds", "3 weeks = 1814400 seconds"),
        ("1 metres to feet", "1 metres = 3.280839895 feet"),
        ("2.5 litres into millilitres", "2.5 litres = 2500 millilitres"),
    ],
)
def test_conversions_are_exact(request_: str, answer: str) -> None:
    assert octopus_workers.convert(request_) == answer


def test_conversions_refuse_nonsense() -> None:
    for request_, message in (
        ("miles", "asked for as"),
        ("3 mils to metres", "Is 'miles' meant"),
        ("3 miles to grams", "measure length and grams mass"),
    ):
        with pytest.raises(InputError, match=message):
            octopus_workers.convert(request_)


def test_lookups_answer_or_say_that_they_know_nothing() -> None:
    verses = octopus_workers.bible_worker(["The cat sat there.", "It’s the other cat, and the weather."])
    assert verses("THE CAT, SAT") == "The cat sat there."
    assert verses("other cat weather") == "It’s the other cat, and the weather."
    assert verses("a dog barks loudly") == "No verse has most of the words of 'a dog barks loudly'."
    docs = octopus_workers.python_worker({"os.path.join": "Join two or more\npathnames.\n\nMore."})
    assert docs("os.path.join()") == "Join two or more pathnames."
    assert (
        docs("os.path.joint") == "There is no Python function 'os.path.joint' here. Is 'os.path.join' meant?"
    )
    emoji = octopus_workers.octopus_loaders()["name_emoji"]()
    assert emoji("🐶").startswith("🐶 dog, ")
    assert emoji("Dog") == emoji("🐶")
    assert octopus_workers.python_docs()["os.path.join"].startswith("Join two or more pathname components")


def test_the_example_has_a_loader_for_every_node() -> None:
    graph = octopus_workers.octopus_graph()
    Octopus(graph, {**octopus_workers.octopus_loaders(), graph.start: lambda: Script([])})


@pytest.mark.packages
def test_tests_ask_for_what_no_training_asked_for() -> None:
    queries = make_queries(20, 6, pages=60)
    assert (len(queries.train), len(queries.new_things), len(queries.paraphrases)) == (140, 42, 42)
    assert queries == make_queries(20, 6, pages=60)
    learnt = {(example.worker, example.argument) for example in queries.train}
    for example in (*queries.new_things, *queries.paraphrases):
        assert (example.worker, example.argument) not in learnt
        assert example.argument.split(" to ")[0] in example.query
    assert {example.worker for example in queries.train} == set(TEMPLATES)
    assert all(set(known).isdisjoint(held_out) for known, held_out in TEMPLATES.values())
