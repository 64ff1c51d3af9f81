"""What a comparison of decoders found: every run, a summary of each decoder, and a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tokenry.tokens.files import whole_file

GREEDY: Final = "greedy"
"""The way that all others are compared with."""
_GAP: Final = 2
"""Spaces between columns."""


@dataclass(frozen=True)
class Decoded:
    """One prompt, decoded in one way.

    Attributes:
        kind, prompt: the prompt's class and name.
        decoder: the way.
        tokens: written.
        seconds: of the whole call, one a round.
        passes: forward passes of the model, the one over the prompt included.
        rows: tokens that went through the model in all passes but the first.
        expected: speed-up that the decoder itself expected of its guesses; None if it expects nothing.
        calibrated: speed-up of the passes that were made by the calibrated forward times, were drafting for free;
            None without calibration.
        differs_at: the first token that greedy decoding writes otherwise; None if there is none.
        held_bytes: what the way keeps in memory beside the model, after this prompt.
        peak_bytes: peak memory of the process or the device; None where the platform does not tell.
    """

    kind: str
    prompt: str
    decoder: str
    tokens: int
    seconds: tuple[float, ...]
    passes: int
    rows: int
    expected: float | None
    calibrated: float | None
    differs_at: int | None
    held_bytes: int
    peak_bytes: float | None


@dataclass(frozen=True)
class DecoderSummary:
    """A way of decoding over all prompts.

    Attributes:
        decoder: the way.
        speedup: over greedy decoding, by class of prompts: the median over the prompts of each one's median.
        mean_speedup: geometric mean over the classes.
        tokens_per_second: over everything.
        acceptance_length: tokens per forward pass, the pass over the prompt and its token left out (transformers' own
            assisted generation already judges guesses in that pass, which counts in its favour).
        acceptance: the same by class.
        forwards_per_token: all passes over all tokens.
        rows_per_pass: tokens in a pass after the prompt's.
        expected, calibrated: averaged as `mean_speedup` is.
        same: share of the prompts whose text is that of greedy decoding.
        differs_at: median of the first differing token where it is not.
        held_bytes, peak_bytes: the most at any prompt.
    """

    decoder: str
    speedup: dict[str, float]
    mean_speedup: float
    tokens_per_second: float
    acceptance_length: float
    acceptance: dict[str, float]
    forwards_per_token: float
    rows_per_pass: float
    expected: float | None
    calibrated: float | None
    same: float
    differs_at: float | None
    held_bytes: int
    peak_bytes: float | None


@dataclass(frozen=True)
class DecodingReport:
    """What a comparison of decoders found.

    Attributes:
        facts: model, machine, versions.
        new_tokens: most tokens that were written for a prompt.
        clock: "process" or "wall".
        calibration: forward times by number of rows, as `hosts.calibrate.Calibration.to_json` gives them, if measured.
        runs: every prompt in every way.
        left_out: decoders that do not run on this model, and why.
        sessions: when, and on how busy a machine, the runs were made; several if it was interrupted.
        done, planned: prompts that all decoders are through with, over all rounds, and how many it was to be.
    """

    facts: dict[str, Any]
    new_tokens: int
    clock: str
    calibration: dict[str, Any] | None
    runs: tuple[Decoded, ...]
    left_out: dict[str, str]
    sessions: tuple[dict[str, Any], ...]
    done: int
    planned: int

    @cached_property
    def decoders(self) -> tuple[str, ...]:
        """The ways that were measured, greedy decoding first."""
        return tuple(dict.fromkeys(run.decoder for run in self.runs))

    @property
    def failure(self) -> str | None:
        """What to say first if nothing but greedy decoding ran, though more was asked for; None if something did."""
        if not self.left_out or self.decoders != (GREEDY,):
            return None
        return f"Nothing was compared: none of the {len(self.left_out)} decoders ran on this model."

    @property
    def partial(self) -> str | None:
        """What to say first if not everything was measured; None if it was."""
        if self.done == self.planned:
            return None
        return (
            f"Not finished: all decoders are through with {self.done} of {self.planned} prompts (each counts once a "
            "round), and only these are in the table."
        )

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The classes of prompts."""
        return tuple(dict.fromkeys(run.kind for run in self.runs))

    @cached_property
    def summaries(self) -> tuple[DecoderSummary, ...]:
        """One of every decoder."""
        return tuple(map(self.summary, self.decoders))

    def of(self, decoder: str, kind: str | None = None) -> list[Decoded]:
        """The runs of one decoder, of one class of prompts or of all."""
        return [run for run in self.runs if run.decoder == decoder and kind in (None, run.kind)]

    def speedup(self, decoder: str, kind: str, over: str = GREEDY) -> float:
        """How many times faster one decoder is than another on a class of prompts, per token."""
        return statistics.median(map(_ratio, self.of(over, kind), self.of(decoder, kind)))

    def mean_speedup(self, decoder: str, over: str = GREEDY) -> float:
        """Geometric mean of the speed-ups over the classes."""
        return statistics.geometric_mean(self.speedup(decoder, kind, over) for kind in self.kinds)

    def summary(self, decoder: str) -> DecoderSummary:
        """One decoder over all prompts."""
        runs = self.of(decoder)
        differing = [run.differs_at for run in runs if run.differs_at is not None]
        peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
        tokens, passes = sum(run.tokens for run in runs), sum(run.passes for run in runs)
        return DecoderSummary(
            decoder=decoder,
            speedup={kind: self.speedup(decoder, kind) for kind in self.kinds},
            mean_speedup=self.mean_speedup(decoder),
            tokens_per_second=tokens / sum(statistics.median(run.seconds) for run in runs),
            acceptance_length=_acceptance(runs),
            acceptance={kind: _acceptance(self.of(decoder, kind)) for kind in self.kinds},
            forwards_per_token=passes / tokens,
            rows_per_pass=sum(run.rows for run in runs) / max(1, passes - len(runs)),
            expected=self._mean(decoder, lambda run: run.expected),
            calibrated=self._mean(decoder, lambda run: run.calibrated),
            same=1 - len(differing) / len(runs),
            differs_at=statistics.median(differing) if differing else None,
            held_bytes=max(run.held_bytes for run in runs),
            peak_bytes=max(peaks) if peaks else None,
        )

    def _mean(self, decoder: str, figure: Callable[[Decoded], float | None]) -> float | None:
        """Geometric mean over the classes of the median over the prompts; None where a class has no such figure."""
        by_kind = [[value for run in self.of(decoder, kind) if (value := figure(run))] for kind in self.kinds]
        return statistics.geometric_mean(map(statistics.median, by_kind)) if all(by_kind) else None

    def to_json(self) -> dict[str, Any]:
        """Summaries and single runs as JSON values."""
        return {
            "facts": self.facts,
            "new_tokens": self.new_tokens,
            "clock": self.clock,
            "calibration": self.calibration,
            "left_out": self.left_out,
            "sessions": list(self.sessions),
            "done": self.done,
            "planned": self.planned,
            "decoders": [asdict(summary) for summary in self.summaries],
            "runs": [asdict(run) for run in self.runs],
        }


def decoding_table(report: DecodingReport, *, width: int | None = None) -> Group:
    """Speed-up over greedy decoding by class of prompts, and below it what else it took, one decoder a line.

    Args:
        report: what was measured.
        width: of the terminal, in characters; columns that do not fit go on in a table below. None: no limit.
    """
    speed, costs = _Figures(), _Figures()
    for one in report.summaries:
        same = f"{one.same:.0%}" + ("" if one.differs_at is None else f", to {one.differs_at:.0f}")
        speed.rows[one.decoder] = {
            **{kind: f"{ratio:.2f}" for kind, ratio in one.speedup.items()},
            "mean": f"{one.mean_speedup:.2f}",
            "tokens/s": f"{one.tokens_per_second:.1f}",
        }
        costs.rows[one.decoder] = {
            "tok/pass": f"{one.acceptance_length:.2f}",
            "pass/tok": f"{one.forwards_per_token:.2f}",
            "rows": f"{one.rows_per_pass:.1f}",
            "expected": "" if one.expected is None else f"{one.expected:.2f}",
            "calibrated": "" if one.calibrated is None else f"{one.calibrated:.2f}",
            "MB held": f"{one.held_bytes / 1e6:.2f}",
            "MB peak": "" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}",
            "as greedy": "" if one.decoder == GREEDY else same,
        }
    reasons: dict[str, list[str]] = {}
    for name, why in report.left_out.items():
        reasons.setdefault(why, []).append(name)
    notes = [Text(f"{', '.join(names)}: left out: {why}", style="yellow") for why, names in reasons.items()]
    first = [Text(one, style="bold red") for one in (report.partial, report.failure) if one is not None]
    tables = [part for table in (*speed.tables(width), *costs.tables(width)) for part in (table, Text())]
    end = Text(_footer(report), style="dim")
    if report.failure is None:
        return Group(*first, *tables[:-1], *notes, Text(), end)
    return Group(*first, *notes, Text(), *tables, end)


@dataclass(frozen=True)
class _Figures:
    """Figures of each decoder, by heading."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def tables(self, width: int | None) -> list[Table]:
        """Tables one below the other, of as many columns each as fit."""
        heads = list(next(iter(self.rows.values()), {}))
        name = max(map(cell_len, ("decoder", *self.rows)))
        parts: list[list[str]] = [[]]
        for head in heads:
            taken = sum(self._width(one) + _GAP for one in (*parts[-1], head))
            if width is not None and parts[-1] and name + taken > width:
                parts.append([])
            parts[-1].append(head)
        return [self._table(part) for part in parts]

    def _table(self, heads: Sequence[str]) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
        table.add_column("decoder", no_wrap=True)
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        for decoder, figures in self.rows.items():
            style = "bold" if decoder == GREEDY else ""
            table.add_row(decoder, *(figures[head] for head in heads), style=style)
        return table

    def _width(self, head: str) -> int:
        return max(map(cell_len, (head, *(figures[head] for figures in self.rows.values()))))


def save_report(report: DecodingReport, path: Path) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


def _footer(report: DecodingReport) -> str:
    facts = report.facts
    sessions = ", ".join(
        f"{one['started'][:16].replace('T', ' ')} UTC (load {_load(one['load'])})" for one in report.sessions
    )
    return (
        f"{facts['model']}, {facts['dtype']}, {facts['device']}, "
        f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}; {facts['machine']}; "
        f"up to {report.new_tokens} new tokens a prompt, {len(report.of(GREEDY))} prompts, {report.clock} time of the "
        f"whole call; measured {sessions}. "
        "Classes: times greedy decoding, median over the prompts; mean: geometric, over the classes; "
        "tok/pass: without the prompt's; rows: of a pass; expected: speed-up that the decoder predicted; calibrated: "
        "speed-up of the passes it made by calibrated forward times, were drafting for free; as greedy: prompts with "
        "the same text, and to which token the others have it (then comes a near-tie, which rounding decides)."
    )


def _load(load: float | None) -> str:
    return "not known" if load is None else f"{load:.2f} per core"


def _ratio(slow: Decoded, fast: Decoded) -> float:
    """Time per token of one over that of another, on the same prompt: the median over the rounds."""
    each = zip(slow.seconds, fast.seconds, strict=True)
    return statistics.median((a / slow.tokens) / (b / fast.tokens) for a, b in each)


def _acceptance(runs: Sequence[Decoded]) -> float:
    """Tokens per pass after the one over the prompt; 1 if there is none."""
    passes = sum(run.passes - 1 for run in runs)
    return sum(run.tokens - 1 for run in runs) / passes if passes else 1.0
