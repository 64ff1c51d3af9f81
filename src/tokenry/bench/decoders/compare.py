"""Comparing ways of decoding on the same prompts: speed, what is accepted, memory, and whether the text is the same.

Every prompt is decoded in every way in turn, in an order drawn anew each time, so that a machine that slows down slows
all of them alike; what counts is the ratio to plain greedy decoding on the same prompt in the same round. Times are of
the whole call of `generate`, the pass over the prompt included: what a user waits for. On one CPU thread they are
process time, so that other programs do not count; otherwise they are wall-clock time.

With a file to keep it in, every call is written down as soon as it is over (`bench.decoding_log`), and the same
comparison goes on where it was stopped.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.decoders.log import DecodingLog, DecodingSession, LeftOut, TimedDecoding
from tokenry.bench.decoders.report import GREEDY, DecodingReport
from tokenry.bench.lines import digest
from tokenry.bench.run import ComparisonRecord, Interleaved, Problem
from tokenry.bench.task import BatchedTask
from tokenry.catalog.registry import catalogued
from tokenry.data.text.prompts import Prompt, Prompts
from tokenry.hosts.chat import ChatPrompt, Message
from tokenry.hosts.host import evaluating
from tokenry.hosts.upstream import longest_text
from tokenry.hosts.wrappers import device_of, fingerprint, synchronise, unwrap
from tokenry.predict.lm.calibrate import Calibration
from tokenry.predict.lm.generate import decoder, decoder_names, require_decoder
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.registry import DECODERS as NAMED
from tokenry.predict.lm.sizing import Expected, Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError, UnsupportedError

TRANSFORMERS_LOOKUP: Final = "prompt-lookup-transformers"
ASSISTED: Final = "assisted"
COLD: Final = "-cold"
"""Ending of a decoder's name: it forgets all it has learned before every prompt."""


def _usual() -> tuple[str, ...]:
    """Transformers' own, and every decoder that needs no training; those that learn from texts also without that."""
    untrained = [
        name for name, entry in catalogued(NAMED.kind).items() if entry.card and not entry.card.trained
    ]
    learn = [name for name in untrained if hasattr(NAMED.get(name), "warm_up")]
    ours = [name + end for name in untrained for end in ("", *([COLD] if name in learn else []))]
    return (GREEDY, TRANSFORMERS_LOOKUP, ASSISTED, *ours)


DECODERS: Final = _usual()
"""What is compared unless something else is asked for."""

_OTHERS: Final = (GREEDY, TRANSFORMERS_LOOKUP, ASSISTED)
_NO_ASSISTANT: Final = "no smaller model of the same vocabulary was named to draft"
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
    calibration: Calibration | Callable[[], Calibration] | None = None,
    assistant: PreTrainedModel | int | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> DecodingReport:
    """Decode the same prompts greedily in several ways.

    Decoders that learn from what they see keep it from prompt to prompt within a round, as they do for a user; those
    whose name ends in "-cold" start anew before every prompt. Every round starts anew.

    Args:
        model: a causal language model, on the device it is to be measured on.
        tokenizer: its tokenizer; prompts go through its chat template if it has one.
        prompts: by class (see `tokenry.data.text.prompts`).
        decoders: names: "greedy" (always included), "prompt-lookup-transformers" and "assisted" (transformers' own),
            and those of `tokenry.decoder`, also with "-cold" behind them; or a mapping from names of your own to such
            names, proposers and `Speculation`s.
        new_tokens: most tokens to write for a prompt; an end token stops earlier.
        rounds: how often each prompt is decoded in each way.
        seed: of the order in which the ways take turns.
        calibration: forward times on this machine (`hosts.calibrate.calibrate`), which size the draft trees, or what
            measures them if `out` holds none for this comparison; without it every pass judges 16 guesses.
        assistant: for "assisted": a smaller model of the same vocabulary, or the number of the model's own layers
            after which it exits early to draft. Without it "assisted" is left out.
        name: how the model is called in the report.
        out: file of JSON lines to keep what is measured in; what it holds of the same comparison (model, prompts,
            decoders, code, machine ...) is not measured again. Proposers of your own are told apart by name and source.
        progress: whether to show a progress bar on stderr.

    Raises:
        InputError: no prompts, one that leaves no room for new tokens or that the chat template refuses, a model that
            is no causal language model, fewer than one round or token, an early exit at a layer that there is not, a
            file that cannot be written.
        UnknownNameError: no decoder has that name.
        KeyboardInterrupt: interrupted by the user; what was measured until then is in the file.
    """
    named = dict(decoders) if isinstance(decoders, Mapping) else {name: name for name in decoders}
    check_request(prompts, [what for what in named.values() if isinstance(what, str)], new_tokens, rounds)
    _check_model(model, assistant)
    items = [
        _EncodedPrompt(kind, prompt.name, _encode(model, tokenizer, prompt, new_tokens))
        for kind, several in prompts.items()
        for prompt in several
    ]
    facts = environment.facts(model, name or Path(model.name_or_path).name or None)
    plan = _plan(items, named, assistant, calibration) | {"new_tokens": new_tokens, "seed": seed}
    with DecodingLog.open(None if out is None else Path(out), digest(facts, plan)) as log, evaluating(model):
        found = _calibrated(calibration, log)
        session = DecodingSession(
            setting=log.setting,
            facts=facts,
            items=[[item.kind, item.name, item.digest] for item in items],
            decoders=list(dict.fromkeys((GREEDY, *named))),
            rounds=rounds,
            new_tokens=new_tokens,
            clock="process" if _process_time(model) else "wall",
            calibration=None if found is None else found.to_json(),
            started=datetime.now(UTC).isoformat(timespec="microseconds"),
            load=environment.load_average(),
        )
        log.append(session)
        if assistant is None:
            for name in (name for name, what in named.items() if what == ASSISTED):
                log.append(LeftOut(log.setting, name, _NO_ASSISTANT))
        record = _LogRecord(log)
        ways = [_way(model, name, named.get(name, GREEDY), found, assistant) for name in record.admitted]
        task = DecodingTask(model, items, log, new_tokens, rounds)
        Interleaved(task, ways, record, seed=seed).run(task.items(), progress=progress)
        return log.report()


def _plan(
    items: Sequence[_EncodedPrompt],
    named: Mapping[str, str | Proposer | Speculation],
    assistant: PreTrainedModel | int | None,
    calibration: Calibration | Callable[[], Calibration] | None,
) -> dict[str, Any]:
    """What a measured time depends on besides the model and its circumstances, as JSON values."""
    times = calibration.to_json() if isinstance(calibration, Calibration) else calibration is not None
    return {
        "prompts": [item.digest for item in items],
        "decoders": {name: _identity(what) for name, what in named.items()},
        "assistant": fingerprint(assistant) if isinstance(assistant, nn.Module) else assistant,
        "calibration": times,
        "code": environment.code_version(("predict",)),
    }


def check_request(prompts: Prompts, decoders: Sequence[str], new_tokens: int, rounds: int) -> None:
    """Refuse a comparison that cannot be made with any model, before one is loaded for it.

    Raises:
        InputError: no prompts, fewer than one round or token.
        UnknownNameError: no decoder has that name.
    """
    if not any(prompts.values()):
        raise InputError("There are no prompts to compare on.")
    if new_tokens < 1 or rounds < 1:
        raise InputError(f"At least one new token and one round are needed, got {new_tokens} and {rounds}.")
    for name in decoders:
        if name in _OTHERS:
            continue
        try:
            require_decoder(name.removesuffix(COLD))
        except UnknownNameError as error:
            known = ", ".join((*_OTHERS, *decoder_names()))
            raise UnknownNameError(
                f"No decoder is called {name!r}; there are {known}; {COLD!r} may stand behind those of tokenry."
            ) from error


# --------------------------------------------------------------------------------------------------------- what runs


@dataclass(frozen=True)
class _Way:
    """A way of decoding: `fresh` gives options of `generate` that remember nothing."""

    name: str
    fresh: Callable[[], dict[str, Any]]

    @property
    def cold(self) -> bool:
        return self.name.endswith(COLD)


@dataclass(frozen=True, eq=False)
class _EncodedPrompt:
    kind: str
    name: str
    inputs: dict[str, Tensor]

    @property
    def digest(self) -> str:
        return digest(self.kind, self.name, self.inputs["input_ids"].tolist())


def _check_model(model: PreTrainedModel, assistant: PreTrainedModel | int | None) -> None:
    if model.config.is_encoder_decoder or not model.can_generate():
        raise InputError(
            f"{type(model).__name__} is no causal language model, so there is nothing to compare."
        )
    layers = model.config.get_text_config().num_hidden_layers
    if isinstance(assistant, int) and not 0 < assistant < layers:
        raise InputError(
            f"To draft, a model of {layers} layers exits after 1 to {layers - 1} of them, not {assistant}."
        )


def _identity(what: str | Proposer | Speculation) -> str | list[str]:
    """What tells one way of decoding from another, in any process."""
    if isinstance(what, str):
        return what
    parts = (what, what.proposer, what.sizing) if isinstance(what, Speculation) else (what,)
    kinds: list[type] = [type(part) for part in parts]
    return [f"{kind.__qualname__} {environment.source_digest(kind)}" for kind in kinds]


def _calibrated(
    calibration: Calibration | Callable[[], Calibration] | None, log: DecodingLog
) -> Calibration | None:
    """The forward times; those that a comparison has begun with, if it goes on, for they decide the sizes of trees."""
    if calibration is None or isinstance(calibration, Calibration):
        return calibration
    known = [session.calibration for session in log.sessions if session.calibration is not None]
    return Calibration.from_json(known[0]) if known else calibration()


def _process_time(model: PreTrainedModel) -> bool:
    return device_of(model).type == "cpu" and torch.get_num_threads() == 1


def _way(
    model: PreTrainedModel,
    name: str,
    what: str | Proposer | Speculation,
    calibration: Calibration | None,
    assistant: PreTrainedModel | int | None,
) -> _Way:
    if what == GREEDY:
        return _Way(name, dict)
    if what == TRANSFORMERS_LOOKUP:
        return _Way(name, lambda: {"prompt_lookup_num_tokens": _LOOKUP_TOKENS})
    if what == ASSISTED:
        early = isinstance(assistant, int)
        return _Way(name, {"assistant_early_exit" if early else "assistant_model": assistant}.copy)
    return _Way(name, _fresh(model, what, calibration))


def _fresh(
    model: PreTrainedModel, what: str | Proposer | Speculation, calibration: Calibration | None
) -> Callable[[], dict[str, Any]]:
    """Copies of a decoder as it is now: measuring it teaches the user's own one nothing."""
    sizing = _UNCALIBRATED if calibration is None else None
    original = (
        what
        if isinstance(what, Speculation)
        else decoder(
            model,
            what.removesuffix(COLD) if isinstance(what, str) else what,
            calibration=calibration,
            sizing=sizing,
        )
    )
    return lambda: {"custom_generate": copy.deepcopy(original, {id(model): model})}


def _encode(model: PreTrainedModel, tokenizer: Any, prompt: Prompt, new_tokens: int) -> dict[str, Tensor]:
    roles, contents = zip(*prompt.messages, strict=True)

    def chat(contents: Sequence[str]) -> Sequence[Message]:
        return replace(prompt, messages=tuple(zip(roles, contents, strict=True))).chat

    found = ChatPrompt(tokenizer).ids(contents, chat, what=f"prompt {prompt.name!r}")
    ids: Int[Tensor, "1 s"] = torch.tensor([found], device=device_of(model))
    most = longest_text(model.config)
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


class LeftOutError(UnsupportedError):
    """A way of decoding that does not run on this model."""


@dataclass(frozen=True)
class PromptInRound:
    """A prompt in a round."""

    round: int
    prompt: _EncodedPrompt


class DecodingTask(BatchedTask[_Way, PromptInRound, PromptInRound, TimedDecoding]):
    """Prompts, decoded greedily in several ways, in several rounds.

    What a way has learned stays with it for a round; prompts that were measured in a session before are decoded again,
    unmeasured, so that it has learned from them when the next one's turn comes. Errors end the comparison.
    """

    name = "decoding"
    metric = "tokens/s"
    higher_is_better = True
    tolerated = (LeftOutError,)

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[_EncodedPrompt],
        log: DecodingLog,
        new_tokens: int,
        rounds: int,
    ) -> None:
        self.model, self.prompts, self.log = model, prompts, log
        self.new_tokens, self.rounds = new_tokens, rounds
        self.process_time = _process_time(model)
        self._begun: tuple[int, int] = (-1, 0)  # round, and how many of its prompts all ways have seen
        self._options: dict[str, dict[str, Any]] = {}

    def items(self, limit: int | None = None) -> list[PromptInRound]:
        """Every prompt in every round."""
        return [PromptInRound(number, one) for number in range(self.rounds) for one in self.prompts[:limit]]

    def open(self, item: PromptInRound) -> PromptInRound:
        """The prompt as it is."""
        return item

    def join(self, opened: Sequence[PromptInRound]) -> PromptInRound:
        """The only one: prompts are decoded one at a time."""
        (only,) = opened
        return only

    def warm_up(self, subject: _Way, batch: PromptInRound) -> None:
        """Decode a few tokens of the first prompt.

        Raises:
            LeftOutError: the model does not support this way.
        """
        try:
            self._call(
                PromptInRound(0, self.prompts[0]), subject.name, subject.fresh(), min(8, self.new_tokens)
            )
        except (TokenryError, ValueError, NotImplementedError) as error:
            if subject.name == GREEDY:
                raise
            raise LeftOutError(str(error)) from error

    def prepare(self, batch: PromptInRound, subjects: Sequence[_Way]) -> PromptInRound:
        """Let the ways that learn see the prompts before this one that were measured in a session before."""
        number, seen = self._begun
        if number != batch.round:
            seen, self._options = 0, {way.name: way.fresh() for way in subjects}
        place = next(i for i, one in enumerate(self.prompts) if one is batch.prompt)
        for prompt in self.prompts[seen:place]:
            for way in subjects:
                if not way.cold and "custom_generate" in self._options[way.name]:
                    self._call(
                        PromptInRound(batch.round, prompt), way.name, self._options[way.name], self.new_tokens
                    )
        self._begun = batch.round, place + 1
        return batch

    def run(self, subject: _Way, batch: PromptInRound) -> list[TimedDecoding]:
        """Decode the prompt."""
        options = subject.fresh() if subject.cold else self._options[subject.name]
        return [self._call(batch, subject.name, options, self.new_tokens)]

    def score(self, output: TimedDecoding, item: PromptInRound) -> float:
        """Tokens in a second of the whole call."""
        return len(output.ids) / output.seconds

    def settle(self, reason: str) -> None:
        """Nothing is held that could be lost."""

    def _call(
        self, turn: PromptInRound, name: str, options: dict[str, Any], new_tokens: int
    ) -> TimedDecoding:
        pad = self.model.generation_config.pad_token_id
        options = dict(options) if pad is not None else {"pad_token_id": 0, **options}
        speculation = options.get("custom_generate")
        before = _expectation(speculation)
        inputs = turn.prompt.inputs
        with environment.PeakMemory(device_of(self.model)) as peak, _Passes(self.model) as passes:
            started = self._now()
            ids = self.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, **options)
            seconds = self._now() - started
        if isinstance(speculation, Speculation):
            speculation.stats.raise_if_interrupted()
        tokens, spent = (now - then for now, then in zip(_expectation(speculation), before, strict=True))
        return TimedDecoding(
            setting=self.log.setting,
            session=self.log.sessions[-1].started,
            round=turn.round,
            item=turn.prompt.digest,
            decoder=name,
            ids=ids[0, inputs["input_ids"].shape[1] :].tolist(),
            rows=passes.rows,
            seconds=seconds,
            expected=tokens / spent if spent else None,
            held=held_bytes(
                options.get("assistant_model") or getattr(speculation, "proposer", None), beside=self.model
            ),
            peak=peak.bytes,
        )

    def _now(self) -> float:
        synchronise(self.model)
        return time.process_time() if self.process_time else time.perf_counter()


@dataclass(frozen=True)
class _LogRecord(ComparisonRecord[_Way, PromptInRound, PromptInRound, TimedDecoding]):
    """The log of a comparison of decoders: a prompt counts once one session has decoded it in every way."""

    log: DecodingLog

    @property
    def admitted(self) -> list[str]:
        """Names of the ways that run on the model, as far as is known."""
        return [name for name in self.log.sessions[-1].decoders if name not in self.log.left_out]

    def known(self, subject: _Way, opened: PromptInRound) -> bool:
        """Whether a session has decoded this prompt in every way."""
        return self.log.whole(opened.round, opened.prompt.digest) is not None

    def admits(self, subject: _Way) -> bool:
        """Whether this way runs on the model."""
        return subject.name not in self.log.left_out

    def begin(self, opened: Sequence[PromptInRound]) -> None:
        """The log has the prompts already."""

    def line(
        self, subject: _Way, item: PromptInRound, output: TimedDecoding, score: float | None
    ) -> TimedDecoding:
        """The call; what it adds up to is worked out from all of them."""
        return output

    def append(self, line: TimedDecoding) -> None:
        """Keep a call."""
        self.log.append(line)

    def failed(self, item: PromptInRound, subject: _Way | None, problem: Problem) -> None:
        """A way that ran on one prompt and refuses another; none is left out for that."""
        raise LeftOutError(problem.reason)

    def refused(self, subject: _Way, problem: Problem) -> None:
        """Leave a way out."""
        self.log.append(LeftOut(self.log.setting, subject.name, problem.reason))


def _expectation(speculation: Any) -> tuple[float, float]:
    """Tokens that a decoder has expected so far, and the time it has expected them to take."""
    sizing = getattr(speculation, "sizing", None)
    return (sizing.expected, sizing.spent) if isinstance(sizing, Expected) else (0.0, 0.0)


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
