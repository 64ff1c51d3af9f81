"""The file that a comparison of decoders is kept in: JSON lines that are only appended to, and what they add up to.

Three kinds of line. A *session* says what was about to be measured, on what; a *call* is one prompt, decoded in one way
in one round; a *left-out* is a decoder that does not run on this model. Every line names the setting it was measured
in, so that one file may hold several.

Decoders are compared with each other on the same prompt in the same round. So that counts once all of them are through
with it in one session: a machine that was busy yesterday and is idle today would otherwise favour today's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np

from tokenry.bench.decoders.report import GREEDY, Decoded, DecodingReport
from tokenry.bench.lines import ResultsWriter, read_lines
from tokenry.predict.lm.calibrate import Calibration


@dataclass(frozen=True)
class DecodingSession:
    """One call of `compare_decoders`: the setting, the plan, and the circumstances.

    Attributes:
        setting: digest of all that a measured time depends on.
        facts: model, machine, versions.
        items: class, name and digest of every prompt, in order.
        decoders: the ways that were asked for, greedy decoding first.
        rounds: how often each prompt was to be decoded in each way.
        new_tokens: most tokens that are written for a prompt.
        clock: "process" or "wall".
        calibration: forward times, as `Calibration.to_json` gives them, if measured.
        started: UTC time, ISO 8601; what tells the sessions of a file apart.
        load: load average per core as it began (None: not known).
    """

    kind: ClassVar[str] = "decoding-session"

    setting: str
    facts: dict[str, Any]
    items: list[list[str]]
    decoders: list[str]
    rounds: int
    new_tokens: int
    clock: str
    calibration: dict[str, Any] | None
    started: str
    load: float | None = None


@dataclass(frozen=True)
class TimedDecoding:
    """One prompt, decoded in one way in one round.

    Attributes:
        setting, session: digest of the setting, and when the session was started.
        round: counted from 0.
        item: digest of the prompt.
        decoder: the way.
        ids: the new tokens.
        rows: of every forward pass of the model.
        seconds: of the whole call.
        expected: speed-up that the decoder itself expected of its guesses; None if it expects nothing.
        held: bytes that it keeps beside the model, after this prompt.
        peak: peak memory in bytes; None where the platform does not tell.
    """

    kind: ClassVar[str] = "decoding-call"

    setting: str
    session: str
    round: int
    item: str
    decoder: str
    ids: list[int]
    rows: list[int]
    seconds: float
    expected: float | None
    held: int
    peak: float | None


@dataclass(frozen=True)
class LeftOut:
    """A decoder that does not run on this model, and why."""

    kind: ClassVar[str] = "decoding-left-out"

    setting: str
    decoder: str
    reason: str


Line: TypeAlias = DecodingSession | TimedDecoding | LeftOut
_KINDS: Final[Mapping[str, type[Line]]] = {cls.kind: cls for cls in (DecodingSession, TimedDecoding, LeftOut)}


class DecodingLog:
    """What has been measured in one setting, in this session and in those before.

    Attributes:
        sessions: in order.
        left_out: decoders that do not run, and why.
    """

    def __init__(self, setting: str, lines: Sequence[Line] = (), writer: ResultsWriter | None = None) -> None:
        self.setting = setting
        self.sessions: list[DecodingSession] = []
        self.left_out: dict[str, str] = {}
        self._calls: dict[tuple[int, str], dict[str, dict[str, TimedDecoding]]] = {}
        for line in lines:
            if line.setting == setting:
                self._note(line)
        self._writer = writer

    @classmethod
    @contextmanager
    def open(cls, path: Path | None, setting: str) -> Iterator[DecodingLog]:
        """A log that is kept in a file, and goes on with what the file holds; without a path, in memory.

        Raises:
            InputError: the file cannot be written.
        """
        with nullcontext() if path is None else ResultsWriter(path) as writer:
            yield cls(setting, [] if path is None else _readable(path), writer)

    def append(self, line: Line) -> None:
        """Keep a line.

        Raises:
            InputError: the file can no longer be written.
        """
        if self._writer is not None:
            self._writer.append(line)
        self._note(line)

    def whole(self, number: int, item: str) -> dict[str, TimedDecoding] | None:
        """The calls of all decoders on a prompt in a round, if one session has made them all."""
        wanted = set(self.sessions[-1].decoders) - self.left_out.keys()
        made = self._calls.get((number, item), {}).values()
        return next((calls for calls in made if wanted <= calls.keys()), None)

    def report(self) -> DecodingReport:
        """What was found on the prompts that all decoders are through with."""
        last = self.sessions[-1]
        items = {item: (kind, name) for kind, name, item in last.items}
        found = {item: [c for r in range(last.rounds) if (c := self.whole(r, item))] for item in items}
        used = {call.session for rounds in found.values() for calls in rounds for call in calls.values()}
        return DecodingReport(
            facts=last.facts,
            new_tokens=last.new_tokens,
            clock=last.clock,
            calibration=last.calibration,
            runs=tuple(
                _decoded(*items[item], name, rounds, last.calibration)
                for name in last.decoders
                if name not in self.left_out
                for item, rounds in found.items()
                if rounds
            ),
            left_out=dict(self.left_out),
            sessions=tuple(
                {"started": one.started, "load": one.load} for one in self.sessions if one.started in used
            ),
            done=sum(map(len, found.values())),
            planned=last.rounds * len(items),
        )

    def _note(self, line: Line) -> None:
        if isinstance(line, DecodingSession):
            self.sessions.append(line)
        elif isinstance(line, LeftOut):
            self.left_out[line.decoder] = line.reason
        else:
            calls = self._calls.setdefault((line.round, line.item), {})
            calls.setdefault(line.session, {})[line.decoder] = line


def read_decoding(path: Path) -> DecodingReport | None:
    """What a file of decodings holds for the setting of its last session; None if it holds no session.

    Raises:
        OSError: it cannot be read.
    """
    lines = _readable(path)
    settings = [line.setting for line in lines if isinstance(line, DecodingSession)]
    return DecodingLog(settings[-1], lines).report() if settings else None


def _readable(path: Path) -> list[Line]:
    """The lines that can be read: of a torn one, what it was the result of is measured again."""
    return [line for line in read_lines(path, _KINDS) if line is not None]


def _decoded(
    kind: str, prompt: str, decoder: str, rounds: Sequence[Mapping[str, TimedDecoding]], calibration: Any
) -> Decoded:
    first, greedy = rounds[0][decoder], rounds[0][GREEDY]
    return Decoded(
        kind=kind,
        prompt=prompt,
        decoder=decoder,
        tokens=len(first.ids),
        seconds=tuple(calls[decoder].seconds for calls in rounds),
        passes=len(first.rows),
        rows=sum(first.rows[1:]),
        expected=first.expected,
        calibrated=_calibrated(first, calibration),
        differs_at=_first_difference(greedy.ids, first.ids),
        held_bytes=first.held,
        peak_bytes=first.peak,
    )


def _calibrated(call: TimedDecoding, calibration: Mapping[str, Any] | None) -> float | None:
    if calibration is None or len(call.rows) < 2:
        return None
    latency = Calibration.from_json(calibration).latency
    sizes = sorted(latency)
    times = np.interp(call.rows[1:], sizes, [latency[size] for size in sizes])
    return (len(call.ids) - 1) / float(times.sum())


def _first_difference(expected: Sequence[int], written: Sequence[int]) -> int | None:
    pairs = zip(expected, written, strict=False)
    shorter = None if len(expected) == len(written) else min(len(expected), len(written))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
