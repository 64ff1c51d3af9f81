"""Comparing ways of decoding on the same prompts: speed, what is accepted, memory, and whether the text is the same.

Every prompt is decoded in every way in turn, in an order drawn anew each time, so that a machine that slows down slows
all of them alike; what counts is the ratio to plain greedy decoding on the same prompt in the same round. Times are of
the whole call of `generate`, the pass over the prompt included: what a user waits for. On one CPU thread they are
process time, so that other programs do not count; otherwise they are wall-clock time.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int
from jinja2 import TemplateError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.decoding_report import GREEDY, Decoded, DecodingReport
from tokenry.data.prompts import Prompt, Prompts
from tokenry.hosts.calibrate import Calibration
from tokenry.hosts.generate import DECODERS as NAMED
from tokenry.hosts.generate import decoder
from tokenry.hosts.speculate import Speculation
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.sizing import Expected, Fixed
from tokenry.text.plain import PlainText
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError
from tokenry.wrappers import device_of, unwrap

TRANSFORMERS_LOOKUP: Final = "prompt-lookup-transformers"
ASSISTED: Final = "assisted"
COLD: Final = "-cold"
"""Ending of a decoder's name: it forgets all it has learned before every prompt."""

DECODERS: Final = (
    GREEDY,
    TRANSFORMERS_LOOKUP,
    ASSISTED,
    "prompt-lookup",
    "token-recycling",
    "token-recycling-cold",
    "recycling+lookup",
    "recycling+lookup-cold",
)
"""What is compared unless something else is asked for."""

_LOOKUP_TOKENS: Final = 10
_UNCALIBRATED: Final = Fixed(16)


def compare_decoders(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Prompts,
    decoders: Sequence[str] | Mapping[str, str | Proposer | Speculation] = DECODERS,
    *,
    new_tokens: int = 128,
    rounds: int = 3,
    seed: int = 0,
    calibration: Calibration | None = None,
    assistant: PreTrainedModel | int | None = None,
    name: str | None = None,
    progress: bool = False,
) -> DecodingReport:
    """Decode the same prompts greedily in several ways.

    Decoders that learn from what they see keep it from prompt to prompt within a round, as they do for a user; those
    whose name ends in "-cold" start anew before every prompt. Every round starts anew.

    Args:
        model: a causal language model, on the device it is to be measured on.
        tokenizer: its tokenizer; prompts go through its chat template if it has one.
        prompts: by class (see `tokenry.data.prompts`).
        decoders: names: "greedy" (always included), "prompt-lookup-transformers" and "assisted" (transformers' own),
            and those of `tokenry.decoder`, also with "-cold" behind them; or a mapping from names of your own to such
            names, proposers and `Speculation`s.
        new_tokens: most tokens to write for a prompt; an end token stops earlier.
        rounds: how often each prompt is decoded in each way.
        seed: of the order in which the ways take turns.
        calibration: forward times on this machine (`hosts.calibrate.calibrate`), which size the draft trees; without
            it every pass judges 16 guesses.
        assistant: for "assisted": a smaller model of the same vocabulary, or the number of the model's own layers
            after which it exits early to draft. Without it "assisted" is left out.
        name: how the model is called in the report.
        progress: whether to show a progress bar on stderr.

    Raises:
        InputError: no prompts, one that leaves no room for new tokens or that the chat template refuses, a model that
            is no causal language model, fewer than one round or token, an early exit at a layer that there is not.
        UnknownNameError: no decoder has that name.
        KeyboardInterrupt: interrupted by the user.
    """
    _check(model, prompts, new_tokens, rounds)
    left_out: dict[str, str] = {}
    ways = list(_ways(model, decoders, calibration, assistant, left_out))
    items = [
        _Item(kind, prompt.name, _encode(model, tokenizer, prompt, new_tokens))
        for kind, several in prompts.items()
        for prompt in several
    ]
    latency = None if calibration is None else calibration.latency
    task = _Task(model, items, ways, left_out, new_tokens, latency)
    was_training = model.training
    model.eval()
    try:
        runs = task.run(rounds, random.Random(seed), progress)
    finally:
        model.train(was_training)
    return DecodingReport(
        facts=environment.facts(model, name or Path(model.name_or_path).name or None),
        new_tokens=new_tokens,
        clock="process" if task.process_time else "wall",
        calibration=None if calibration is None else calibration.to_json(),
        runs=runs,
        left_out=left_out,
    )


# --------------------------------------------------------------------------------------------------------- what runs


@dataclass(frozen=True)
class _Way:
    """A way of decoding: `fresh` gives options of `generate` that remember nothing."""

    name: str
    fresh: Callable[[], dict[str, Any]]

    @property
    def cold(self) -> bool:
        return self.name.endswith(COLD)


@dataclass(frozen=True)
class _Item:
    kind: str
    name: str
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class _Call:
    """One call of `generate`: new tokens, rows of every pass, time, expected speed-up, memory."""

    ids: list[int]
    rows: list[int]
    seconds: float
    expected: float | None
    held: int
    peak: float | None


def _check(model: PreTrainedModel, prompts: Prompts, new_tokens: int, rounds: int) -> None:
    if not any(prompts.values()):
        raise InputError("There are no prompts to compare on.")
    if new_tokens < 1 or rounds < 1:
        raise InputError(f"At least one new token and one round are needed, got {new_tokens} and {rounds}.")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise InputError(
            f"{type(model).__name__} is no causal language model, so there is nothing to compare."
        )


def _ways(
    model: PreTrainedModel,
    decoders: Sequence[str] | Mapping[str, str | Proposer | Speculation],
    calibration: Calibration | None,
    assistant: PreTrainedModel | int | None,
    left_out: dict[str, str],
) -> list[_Way]:
    named = dict(decoders) if isinstance(decoders, Mapping) else {name: name for name in decoders}
    ways = [_Way(GREEDY, dict)]
    for name, what in named.items():
        if what == TRANSFORMERS_LOOKUP:
            ways.append(_Way(name, lambda: {"prompt_lookup_num_tokens": _LOOKUP_TOKENS}))
        elif what == ASSISTED:
            if assistant is None:
                left_out[name] = "no smaller model of the same vocabulary was named to draft"
                continue
            ways.append(_Way(name, _assisted(model, assistant).copy))
        elif what != GREEDY:
            ways.append(_Way(name, _fresh(model, what, calibration)))
    return ways


def _assisted(model: PreTrainedModel, assistant: PreTrainedModel | int) -> dict[str, Any]:
    if not isinstance(assistant, int):
        return {"assistant_model": assistant}
    layers = model.config.get_text_config().num_hidden_layers
    if not 0 < assistant < layers:
        raise InputError(
            f"To draft, a model of {layers} layers exits after 1 to {layers - 1} of them, not {assistant}."
        )
    return {"assistant_early_exit": assistant}


def _fresh(
    model: PreTrainedModel, what: str | Proposer | Speculation, calibration: Calibration | None
) -> Callable[[], dict[str, Any]]:
    """Copies of a decoder as it is now: measuring it teaches the user's own one nothing."""
    if isinstance(what, str):
        what = what.removesuffix(COLD)
        if what not in NAMED:
            known = ", ".join((GREEDY, TRANSFORMERS_LOOKUP, ASSISTED, *NAMED))
            raise UnknownNameError(
                f"No decoder is called {what!r}; there are {known}; {COLD!r} may stand behind those of tokenry."
            )
    sizing = _UNCALIBRATED if calibration is None else None
    original = (
        what
        if isinstance(what, Speculation)
        else decoder(model, what, calibration=calibration, sizing=sizing)
    )
    return lambda: {"custom_generate": copy.deepcopy(original, {id(model): model})}


def _encode(model: PreTrainedModel, tokenizer: Any, prompt: Prompt, new_tokens: int) -> dict[str, Tensor]:
    roles, contents = zip(*prompt.messages, strict=True)

    def encode(tokenizer: Any, contents: Sequence[str]) -> Mapping[str, Any]:
        if not getattr(tokenizer, "chat_template", None):
            return dict(tokenizer("\n\n".join(contents), return_tensors="pt"))
        chat = replace(prompt, messages=tuple(zip(roles, contents, strict=True))).chat
        try:
            return dict(
                tokenizer.apply_chat_template(
                    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
                )
            )
        except TemplateError as error:
            raise InputError(f"The model's chat template refuses prompt {prompt.name!r}: {error}") from error

    found = PlainText(tokenizer).encode(contents, encode)
    ids: Int[Tensor, "1 s"] = found["input_ids"].to(device_of(model))
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and ids.shape[1] + new_tokens > most:
        raise InputError(
            f"Prompt {prompt.name!r} has {ids.shape[1]} tokens; with {new_tokens} new ones that is more than the "
            f"model's {most}. Shorten it, or write fewer."
        )
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# --------------------------------------------------------------------------------------------------------- measuring


class _Passes:
    """Rows of every forward pass of a model between ``with`` and its end.

    Passes that stop at an inner layer (drafting by early exit) are not counted: they are no passes of the whole model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.rows: list[int] = []
        self._model = unwrap(model, bare=False)
        self._depth = model.config.get_text_config().num_hidden_layers

    def __enter__(self) -> _Passes:
        self._hook = self._model.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._hook.remove()

    def _note(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.config.get_text_config().num_hidden_layers < self._depth:
            return
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        self.rows.append(next(int(tensor.shape[1]) for tensor in given if tensor is not None))


class _Task:
    """One comparison."""

    def __init__(
        self,
        model: PreTrainedModel,
        items: list[_Item],
        ways: list[_Way],
        left_out: dict[str, str],
        new_tokens: int,
        latency: Mapping[int, float] | None,
    ) -> None:
        self.model, self.items, self.ways = model, items, ways
        self.left_out, self.new_tokens, self.latency = left_out, new_tokens, latency
        self.process_time = device_of(model).type == "cpu" and torch.get_num_threads() == 1
        self.calls: dict[tuple[int, str], list[_Call]] = {}

    def run(self, rounds: int, order: random.Random, progress: bool) -> tuple[Decoded, ...]:
        self._warm_up()
        with _bar(not progress) as bar:
            shown = bar.add_task("decoding", total=rounds * len(self.items) * len(self.ways))
            for _ in range(rounds):
                options = {way.name: way.fresh() for way in self.ways}
                for number, item in enumerate(self.items):
                    for way in order.sample(self.ways, len(self.ways)):
                        given = way.fresh() if way.cold else options[way.name]
                        call = self._call(item, given, self.new_tokens)
                        self.calls.setdefault((number, way.name), []).append(call)
                        bar.advance(shown)
        return tuple(
            self._decoded(number, item, way) for way in self.ways for number, item in enumerate(self.items)
        )

    def _warm_up(self) -> None:
        """What happens only once does not count; and a way that this model does not support is left out."""
        for way in list(self.ways):
            try:
                self._call(self.items[0], way.fresh(), min(8, self.new_tokens))
            except (TokenryError, ValueError, NotImplementedError) as error:
                if way.name == GREEDY:
                    raise
                self.left_out[way.name] = str(error)
                self.ways.remove(way)

    def _call(self, item: _Item, options: dict[str, Any], new_tokens: int) -> _Call:
        pad = self.model.generation_config.pad_token_id
        options = dict(options) if pad is not None else {"pad_token_id": 0, **options}
        speculation = options.get("custom_generate")
        before = _expectation(speculation)
        with environment.PeakMemory(device_of(self.model)) as peak, _Passes(self.model) as passes:
            started = self._now()
            ids = self.model.generate(**item.inputs, max_new_tokens=new_tokens, do_sample=False, **options)
            seconds = self._now() - started
        if isinstance(speculation, Speculation) and speculation.stats.interrupted:
            raise KeyboardInterrupt  # it hands back what it has; a comparison has no use for half a text
        tokens, spent = (now - then for now, then in zip(_expectation(speculation), before, strict=True))
        return _Call(
            ids=ids[0, item.inputs["input_ids"].shape[1] :].tolist(),
            rows=passes.rows,
            seconds=seconds,
            expected=tokens / spent if spent else None,
            held=held_bytes(
                options.get("assistant_model") or getattr(speculation, "proposer", None), beside=self.model
            ),
            peak=peak.bytes,
        )

    def _now(self) -> float:
        if device_of(self.model).type == "cuda":
            torch.cuda.synchronize(device_of(self.model))
        return time.process_time() if self.process_time else time.perf_counter()

    def _decoded(self, number: int, item: _Item, way: _Way) -> Decoded:
        calls = self.calls[number, way.name]
        first, greedy = calls[0], self.calls[number, GREEDY][0]
        return Decoded(
            kind=item.kind,
            prompt=item.name,
            decoder=way.name,
            tokens=len(first.ids),
            seconds=tuple(call.seconds for call in calls),
            passes=len(first.rows),
            rows=sum(first.rows[1:]),
            expected=first.expected,
            calibrated=self._calibrated(first),
            differs_at=_first_difference(greedy.ids, first.ids),
            held_bytes=first.held,
            peak_bytes=first.peak,
        )

    def _calibrated(self, call: _Call) -> float | None:
        if self.latency is None or len(call.rows) < 2:
            return None
        sizes = sorted(self.latency)
        times = np.interp(call.rows[1:], sizes, [self.latency[size] for size in sizes])
        return (len(call.ids) - 1) / float(times.sum())


def _expectation(speculation: Any) -> tuple[float, float]:
    """Tokens that a decoder has expected so far, and the time it has expected them to take."""
    sizing = getattr(speculation, "sizing", None)
    return (sizing.expected, sizing.spent) if isinstance(sizing, Expected) else (0.0, 0.0)


def _first_difference(expected: Sequence[int], written: Sequence[int]) -> int | None:
    pairs = zip(expected, written, strict=False)
    shorter = None if len(expected) == len(written) else min(len(expected), len(written))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)


def _bar(hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True)


def held_bytes(thing: object, *, beside: PreTrainedModel) -> int:
    """Bytes of the arrays, tensors and containers that an object keeps.

    Args:
        thing: a proposer, an assistant model, or several of them.
        beside: the model that is there anyway: what belongs to it does not count.
    """
    seen = {id(part) for part in (*beside.modules(), *beside.parameters(), *beside.buffers())}
    found, open_ = 0, [thing]
    while open_:
        one = open_.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, torch.device, torch.dtype)):
            continue
        seen.add(id(one))
        if isinstance(one, torch.nn.Module):
            open_ += [*one.parameters(), *one.buffers()]
        elif isinstance(one, (Tensor, np.ndarray)):
            found += one.nbytes
        elif isinstance(one, (dict, MappingProxyType)):
            found += sys.getsizeof(one)
            open_ += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            found += sys.getsizeof(one)
            open_ += one
        elif hasattr(one, "__dict__"):
            open_ += vars(one).values()
        elif one is not None:
            found += sys.getsizeof(one)
    return found
