"""Comparing decoders: the same prompts, the same text, counted right."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.text.transplant import tiny
from tokenry.bench.decoders import compare as decoding
from tokenry.bench.decoders.compare import DECODERS, compare_decoders, held_bytes
from tokenry.bench.decoders.log import TimedDecoding, read_decoding
from tokenry.bench.decoders.report import Decoded, DecodingReport, decoding_table
from tokenry.data.text.prompts import Prompt
from tokenry.predict.lm.calibrate import Calibration
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError, TokenryError

PROMPTS = {
    "short": (Prompt.of("a", "the cat sat on the mat"), Prompt.of("b", "the dog")),
    "long": (Prompt.of("c", "a b c a b c a b c"),),
}
CALIBRATION = Calibration({1: 0.1, 8: 0.12, 16: 0.15}, 64, "float32", "cpu", 1)


@pytest.fixture(scope="module")
def host() -> tuple[Any, Any]:
    tokenizer = tiny.byte_level()
    torch.manual_seed(0)
    model = tiny.llama(tokenizer).eval()
    model.generation_config.eos_token_id = None
    return model, tokenizer


class Memory:
    """Drafts nothing, and counts the texts it has begun."""

    hidden = False

    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Any = None) -> None:
        self.begun.append(len(prompts[0]))

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        SEEN.append(len(self.begun))
        return Draft.of(text[-1], [])

    def learn(self, row: int, verified: Any) -> None:
        pass


SEEN: list[int] = []


def test_every_decoder_writes_the_same_and_is_counted(host: tuple[Any, Any]) -> None:
    model, tokenizer = host
    decoders = {
        "lookup": Speculation(PromptLookup(), Fixed(6)),
        "recycling": Speculation(TokenRecycling(model.config.vocab_size), Fixed(12)),
        "prompt-lookup-transformers": "prompt-lookup-transformers",
        "assisted": "assisted",
    }
    report = compare_decoders(
        model, tokenizer, PROMPTS, decoders, new_tokens=12, rounds=2, assistant=1, calibration=CALIBRATION
    )
    assert report.decoders == ("greedy", *decoders)
    assert report.left_out == {}
    assert [(run.kind, run.prompt) for run in report.of("greedy")] == [
        ("short", "a"),
        ("short", "b"),
        ("long", "c"),
    ]
    for run in report.runs:
        assert run.differs_at is None  # float32
        assert (run.tokens, len(run.seconds)) == (12, 2)
        assert run.passes <= 13
    greedy = report.summary("greedy")
    assert (greedy.acceptance_length, greedy.forwards_per_token, greedy.rows_per_pass) == (1, 1, 1)
    assert greedy.speedup == {"short": 1.0, "long": 1.0}
    assert (greedy.expected, greedy.calibrated) == (None, 1)
    assert greedy.held_bytes == 0
    recycling = report.summary("recycling")
    assert recycling.acceptance_length > 1
    assert recycling.rows_per_pass > 1
    assert recycling.held_bytes >= model.config.vocab_size * 8 * 4
    assert recycling.same == 1
    assert json.loads(json.dumps(report.to_json()))["decoders"][0]["decoder"] == "greedy"


def test_what_was_learnt_stays_for_a_round_unless_cold(host: tuple[Any, Any]) -> None:
    model, tokenizer = host
    mine = Memory()
    for name, expected in (("mine", [1, 2, 3]), ("mine-cold", [1, 1, 1])):
        SEEN.clear()
        report = compare_decoders(
            model, tokenizer, PROMPTS, {name: Speculation(mine, Fixed(4))}, new_tokens=3, rounds=2
        )
        warm_up, rest = SEEN[:2], SEEN[2:]
        assert warm_up == [1, 1]
        assert rest[::2] == expected * 2
        assert report.summary(name).forwards_per_token == 1
        assert report.summary(name).calibrated is None
    assert mine.begun == []  # the user's own one has learnt nothing


def test_decoders_by_name(host: tuple[Any, Any]) -> None:
    model, tokenizer = host
    report = compare_decoders(model, tokenizer, PROMPTS, new_tokens=6, rounds=1, calibration=CALIBRATION)
    assert set(report.decoders) == set(DECODERS) - {"assisted"}
    assert "no smaller model" in report.left_out["assisted"]
    assert all(run.differs_at is None for run in report.runs)
    recycling = report.summary("token-recycling")
    assert recycling.expected is not None
    assert recycling.expected >= 1
    assert recycling.calibrated is not None
    with pytest.raises(
        TokenryError, match=r"token-recyclin'; there are greedy, .*assisted, .*recycling.lookup"
    ):
        compare_decoders(model, tokenizer, PROMPTS, ["token-recyclin"], calibration=CALIBRATION)


def test_what_does_not_run_is_left_out_with_the_reason(host: tuple[Any, Any]) -> None:
    model, tokenizer = host

    class Wrong(Memory):
        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            return Draft.of(text[-1], [[10**6]])

    wrong = {name: Speculation(Wrong(), Fixed(2)) for name in ("wrong", "alike")}
    report = compare_decoders(model, tokenizer, PROMPTS, wrong, new_tokens=2, rounds=1)
    assert report.decoders == ("greedy",)
    assert "outside the vocabulary" in report.left_out["wrong"]
    assert shown(report).startswith("Nothing was compared: none of the 2 decoders")
    assert "wrong, alike: left out: " in shown(report)
    assert shown(report).count("outside the vocabulary") == 1
    more = {**wrong, "recycling": "token-recycling"}
    report = compare_decoders(model, tokenizer, PROMPTS, more, new_tokens=2, rounds=1)
    assert report.failure is None


def test_interruption_ends_the_comparison(host: tuple[Any, Any]) -> None:
    model, tokenizer = host

    class Interrupted(Memory):
        def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_decoders(
            model, tokenizer, PROMPTS, {"it": Speculation(Interrupted(), Fixed(2))}, new_tokens=3
        )


def stopped_after(calls: int, monkeypatch: pytest.MonkeyPatch, *given: Any, **options: Any) -> None:
    """A comparison that is interrupted before one of its calls, the warm-up's included."""
    call, made = decoding.DecodingTask._call, []

    def interrupt(*arguments: Any) -> Any:
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(arguments)
        return call(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding.DecodingTask, "_call", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare_decoders(*given, **options)


def calls_in(path: Path) -> list[tuple[str, int, str]]:
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [
        (one["session"], one["round"], one["decoder"]) for one in lines if one["kind"] == TimedDecoding.kind
    ]


def test_a_comparison_goes_on_where_it_was_stopped(
    host: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a decoder had learned in the round it learns again; what is known is not measured again."""
    given = (*host, PROMPTS, {"mine": Speculation(Memory(), Fixed(4))})
    options: Any = {
        "new_tokens": 3,
        "rounds": 2,
        "out": tmp_path / "log.jsonl",
        "calibration": lambda: CALIBRATION,
    }
    # a warm-up of two ways, a round of three prompts, then one prompt and half of another
    stopped_after(2 + 6 + 3, monkeypatch, *given, **options)
    first = calls_in(tmp_path / "log.jsonl")
    assert len(first) == 9
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"kind": "decoding-call", "form')  # what a kill in the middle of writing leaves
    so_far = read_decoding(tmp_path / "log.jsonl")
    assert so_far is not None
    assert (so_far.done, so_far.planned) == (4, 6)
    assert {len(run.seconds) for run in so_far.of("mine")} == {1, 2}
    assert shown(so_far).startswith("Not finished: all decoders are through with 4 of 6 prompts")
    SEEN.clear()
    report = compare_decoders(*given, **{**options, "calibration": lambda: pytest.fail("measured again")})
    assert SEEN[2::2] == [1, 2, 3]
    second = calls_in(tmp_path / "log.jsonl")[9:]
    assert [(number, name) for _, number, name in second if name == "mine"] == [(1, "mine")] * 2
    assert (report.done, report.planned, report.partial, len(report.sessions)) == (6, 6, None, 2)
    assert all(len(run.seconds) == 2 for run in report.runs)
    assert report.calibration == so_far.calibration


def test_a_prompt_counts_once_one_session_has_decoded_it_in_every_way(
    host: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves from two sessions are no comparison: the machine may have been busy in one of them."""
    given = (*host, {"a": PROMPTS["short"][:1]}, ["prompt-lookup-transformers"])
    options: Any = {"new_tokens": 3, "rounds": 1, "out": tmp_path / "log.jsonl"}
    for _ in range(2):
        stopped_after(3, monkeypatch, *given, **options)
    so_far = read_decoding(tmp_path / "log.jsonl")
    assert so_far is not None
    assert (len(calls_in(tmp_path / "log.jsonl")), so_far.done, so_far.runs) == (2, 0, ())
    assert compare_decoders(*given, **options).done == 1
    assert len({session for session, _, _ in calls_in(tmp_path / "log.jsonl")[2:]}) == 1


def test_what_was_measured_otherwise_is_not_taken_for_the_same(host: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = host
    given: Any = {"prompts": {"a": PROMPTS["short"]}, "decoders": [], "new_tokens": 2, "rounds": 1}
    log = tmp_path / "log.jsonl"
    compare_decoders(model, tokenizer, **given, out=log)
    for changes, more in (
        ({}, 0),
        ({"rounds": 2}, 2),  # the first round is known
        ({"new_tokens": 3}, 2),
        ({"prompts": {"a": PROMPTS["short"][::-1]}}, 2),  # a decoder would have learned something else before
        ({"decoders": ["prompt-lookup-transformers"]}, 4),
    ):
        before = len(calls_in(log))
        assert compare_decoders(model, tokenizer, **(given | changes), out=log).partial is None
        assert len(calls_in(log)) - before == more, changes


def test_bad_requests_are_refused_before_any_work(host: tuple[Any, Any]) -> None:
    model, tokenizer = host
    for changes, words in (
        ({"prompts": {}}, "no prompts"),
        ({"prompts": {"a": ()}}, "no prompts"),
        ({"rounds": 0}, "one round"),
        ({"new_tokens": 0}, "one new token"),
        ({"new_tokens": 10**6}, "Prompt 'a' has"),
        ({"decoders": ["assisted"], "assistant": 2}, "exits after 1 to 1 of them, not 2"),
    ):
        with pytest.raises(InputError, match=words):
            compare_decoders(model, tokenizer, **{"prompts": PROMPTS, "decoders": [], **changes})


def run(kind: str, decoder: str, seconds: tuple[float, ...], **changes: Any) -> Decoded:
    values = {
        "prompt": "p", "tokens": 10, "passes": 10, "rows": 9, "expected": None, "calibrated": None, "differs_at": None,
        "held_bytes": 0, "peak_bytes": None,
    }  # fmt: skip
    return Decoded(kind=kind, decoder=decoder, seconds=seconds, **(values | changes))


def shown(report: DecodingReport) -> str:
    console = Console(width=250)
    with console.capture() as captured:
        console.print(decoding_table(report))
    return captured.get()


def test_a_chat_template_is_used_and_may_refuse(host: tuple[Any, Any]) -> None:
    model, tokenizer = host
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0]['content'] }} and the other cat"
    )
    report = compare_decoders(model, tokenizer, PROMPTS, [], new_tokens=1, rounds=1)
    assert report.summary("greedy").acceptance_length == 1
    chat = {"a": (Prompt("p", (("system", "Be brief."), ("user", "the cat"))),)}
    with pytest.raises(InputError, match="refuses prompt 'p': no system role"):
        compare_decoders(model, tokenizer, chat, [], new_tokens=1)


def test_figures() -> None:
    runs = (
        run("x", "greedy", (1.0, 2.0, 8.0)),
        run("y", "greedy", (1.0, 1.0, 1.0)),
        run("x", "fast", (0.5, 0.5, 1.0), passes=4, rows=30, held_bytes=5_000_000, expected=2.5),
        run(
            "y",
            "fast",
            (2.0, 1.0, 1.0),
            tokens=20,
            passes=6,
            rows=30,
            differs_at=3,
            peak_bytes=1e9,
            expected=1.5,
        ),
    )
    facts = {"model": "m", "dtype": "float32", "device": "cpu", "threads": 1, "machine": "none"}
    sessions = ({"started": "2026-11-29T19:00:00+00:00", "load": 0.5},)
    report = DecodingReport(facts, 10, "process", None, runs, {}, sessions, 6, 6)
    assert report.speedup("fast", "x") == 4  # 2, 4, 8
    assert report.speedup("fast", "y") == 2  # per token: 1, 2, 2
    assert report.mean_speedup("fast") == pytest.approx(8**0.5)
    assert report.speedup("greedy", "x", over="fast") == 0.25
    fast = report.summary("fast")
    assert fast.tokens_per_second == 30 / 1.5
    assert fast.acceptance_length == (9 + 19) / (3 + 5)
    assert fast.acceptance == {"x": 3, "y": 19 / 5}
    assert fast.forwards_per_token == 10 / 30
    assert fast.rows_per_pass == 60 / 8
    assert (fast.same, fast.differs_at) == (0.5, 3)
    assert fast.expected == pytest.approx(3.75**0.5)
    assert (fast.calibrated, report.summary("greedy").expected) == (None, None)
    assert (fast.held_bytes, fast.peak_bytes) == (5_000_000, 1e9)
    table = shown(report)
    for figure in (
        "4.00",
        "2.83",
        "20.0",
        "50%, to 3",
        "1000",
        "process time",
        "2026-11-29 19:00 UTC (load 0.50",
    ):
        assert figure in table


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_figure_is_legible_at_every_width(width: int) -> None:
    """Columns that do not fit go on in a table below; none is squeezed."""
    kinds = ("list-making", "summarization", "editing-of-code", "conversation", "prose")
    decoders = ("greedy", "prompt-lookup-transformers")
    runs = tuple(run(kind, decoder, (1.0,), peak_bytes=1e9) for kind in kinds for decoder in decoders)
    facts = {"model": "m", "dtype": "float32", "device": "cpu", "threads": 1, "machine": "none"}
    report = DecodingReport(facts, 10, "process", None, runs, {}, (), 5, 5)
    console = Console(width=width)
    with console.capture() as captured:
        console.print(decoding_table(report, width=width))
    text = captured.get()
    assert "…" not in text
    for head in (*kinds, "mean", "tokens/s", "tok/pass", "calibrated", "as greedy"):
        assert text.count(f" {head}") >= 1
    lines = [line.split() for line in text.splitlines() if line.startswith(decoders[1])]
    assert sum(len(line) - 1 for line in lines) == len(kinds) + 2 + 6, "each figure once"


def test_bytes_held_beside_the_model(host: tuple[Any, Any]) -> None:
    model, _ = host
    array, tensor = np.zeros(100, np.int32), torch.zeros(50)
    assert held_bytes(None, beside=model) == 0
    assert held_bytes(model, beside=model) == 0
    assert held_bytes(array, beside=model) == 400
    keeper = Memory()
    keeper.things = {"a": array, "b": (tensor, tensor, model.get_input_embeddings())}  # type: ignore[attr-defined]
    held = held_bytes(keeper, beside=model)
    assert 600 < held < 1600  # each once, the containers, nothing of the model
    other = torch.nn.Linear(4, 4)
    assert held_bytes(other, beside=model) == 80


@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_that_quotes_an_end_marker_is_not_ended_by_it(host: tuple[Any, Any], chat: bool) -> None:
    model, tokenizer = host
    tokenizer = copy.deepcopy(tokenizer)
    if chat:
        tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    end = tokenizer.eos_token
    prompt = Prompt("a", (("system", f"answer {end}"), ("user", f"what does {end} mean?")))
    ids = decoding._encode(model, tokenizer, prompt, 4)["input_ids"][0].tolist()
    assert tokenizer.eos_token_id not in ids
    assert f"what does {end} mean?" in tokenizer.decode(ids)
