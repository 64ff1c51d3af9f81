"""The results file: JSON lines that are only ever appended to, and from which alone a report is built.

Four kinds of line. A *run* says what was about to be measured, on what; a *result* is one example under one arm; a
*refusal* is an arm that the model does not support; a *picture* is one of the few pictures that a report shows. Every
line names the setting it was measured in, so that one file may hold several and none is mixed up with another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

from tokenry.tokens import InputError

FORMAT = 1
"""Written into every line; raised when a field changes its meaning. Lines of another format are skipped."""


@dataclass(frozen=True)
class Run:
    """One call of `compare`: the setting, the plan, and the circumstances.

    Attributes:
        setting: digest of `facts`; what is equal for all results that may be compared with each other.
        facts: model, its fingerprint, data, dtype, attention, device, threads, versions, machine, generation settings.
        plan: arms, number of pictures, and `items`: digests of the examples, which say what the results are of.
        started: UTC time, ISO 8601.
        load: one-minute load average divided by the number of cores, as the run began (None: not known).
    """

    kind: ClassVar[str] = "run"

    setting: str
    facts: dict[str, Any]
    plan: dict[str, Any]
    started: str
    load: float | None = None


@dataclass(frozen=True)
class Trace:
    """What became of one picture's tokens.

    Attributes:
        grid: (frames, rows, columns) of the token grid.
        layers: decoder layers.
        life: for each token, through how many decoder layers it went (0: it never entered).
        group: for each token the output it was merged into, -1 = dropped; None where nothing was merged.
    """

    grid: tuple[int, int, int]
    layers: int
    life: tuple[int, ...]
    group: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.grid) != 3 or (self.group is not None and len(self.group) != len(self.life)):
            raise ValueError("a trace's parts disagree")


@dataclass(frozen=True)
class Result:
    """One example under one arm. Times are milliseconds.

    Attributes:
        setting, key: digests of the setting, and of everything that this result depends on.
        method, budget, seed: the arm (`none` has no budget).
        item: digest of the example itself: picture, question and reference.
        example, picture, topic: the example's name, its picture's, its kind of question.
        question, truth, answer: the texts; `truth` are the references, None where the data set has none.
        score: 0..1, None without a reference.
        tokens: visual tokens that enter the language model.
        full_tokens: visual tokens the picture has.
        by_layer: visual tokens in each decoder layer.
        prefill_flops: floating-point operations of the decoder's prefill, analytic.
        kv_bytes: bytes of the key-value cache after prefill.
        encoder_ms: the vision side, once for all arms.
        selection_ms: choosing tokens (part of `prefill_ms`).
        prefill_ms: first forward pass of the language side.
        decode_ms: median over the later forward passes; None if the answer was a single token.
        memory_bytes: peak memory while answering; None where the platform does not tell.
        recall: share of the patches under the answer's regions still present, averaged over the decoder's layers.
        trace: what became of the tokens, for the examples a report shows.
        kept: digest of what became of the tokens; None where that is not told.
    """

    kind: ClassVar[str] = "result"

    setting: str
    key: str
    method: str
    budget: str
    seed: int
    item: str
    example: str
    picture: str
    topic: str
    question: str
    truth: str | None
    answer: str
    score: float | None
    tokens: int
    full_tokens: int
    by_layer: tuple[int, ...]
    prefill_flops: float
    kv_bytes: float
    encoder_ms: float
    selection_ms: float
    prefill_ms: float
    decode_ms: float | None
    memory_bytes: float | None
    recall: float | None
    trace: Trace | None = None
    kept: str | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) or (value is None and name in _OPTIONAL)):
                raise ValueError(f"{name} is {value!r}")

    @property
    def tokens_mean(self) -> float:
        """Visual tokens per decoder layer, on average."""
        return sum(self.by_layer) / max(1, len(self.by_layer))


_OPTIONAL = frozenset({"score", "decode_ms", "memory_bytes", "recall"})
_NUMBERS = (
    "seed", "score", "tokens", "full_tokens", "prefill_flops", "kv_bytes", "encoder_ms", "selection_ms", "prefill_ms",
    "decode_ms", "memory_bytes", "recall",
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """An arm that cannot run on this model, and why."""

    kind: ClassVar[str] = "refusal"

    setting: str
    method: str
    budget: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A picture that the report shows.

    Attributes:
        name: the picture's name.
        data: its PNG or JPEG file, base64.
        regions: the boxes an answer depends on, in shares of width and height (x0, y0, x1, y1), by example.
    """

    kind: ClassVar[str] = "picture"

    setting: str
    name: str
    data: str
    regions: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        kind = "png" if self.data.startswith("iVBOR") else "jpeg"  # base64 of the PNG signature
        return f"data:image/{kind};base64,{self.data}"


Line: TypeAlias = Run | Result | Refusal | Picture
_KINDS: dict[str, type[Line]] = {cls.kind: cls for cls in (Run, Result, Refusal, Picture)}


@dataclass(frozen=True)
class Results:
    """What a results file holds, for one setting.

    Attributes:
        runs: in order; all of the same setting.
        results: one per key (a later line replaces an earlier one), of the examples of the last run.
        refusals: one per arm that has no result.
        pictures: by name.
        skipped: lines that could not be read.
        other: result lines of other settings or other examples in the same file.
    """

    runs: tuple[Run, ...]
    results: tuple[Result, ...]
    refusals: tuple[Refusal, ...]
    pictures: dict[str, Picture]
    skipped: int = 0
    other: int = 0

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the results."""
        return frozenset(r.key for r in self.results)


class ResultsWriter:
    """Appends lines to a results file; every line is one write, so a kill leaves at most one torn line behind.

    Raises:
        InputError: the folder or the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"Cannot write {self.path}: {error.strerror}. Choose another folder (--out)."
            ) from error
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # a torn last line stays torn, and alone

    def append(self, line: Line) -> None:
        """Write one line.

        Raises:
            InputError: the disk is full or the file has become unwritable.
        """
        content = {"kind": line.kind, "format": FORMAT} | asdict(line)
        data = (
            json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        )
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise InputError(
                f"Cannot write {self.path}: {error.strerror}. What was measured before is kept."
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_results(path: str | Path, setting: str | None = None) -> Results:
    """Read a results file: the lines of one setting, by default of the last run in the file.

    Lines that are not JSON, lack a field or have another format are skipped and counted; all others survive.

    Raises:
        InputError: no such file, or no readable run in it.
    """
    path = Path(path)
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror}. `tokenry compare` writes such a file."
        ) from error
    lines = [_parse(line) for line in raw if line.strip()]
    good = [line for line in lines if line is not None]
    settings = [line.setting for line in good if isinstance(line, Run)]
    wanted = setting if setting is not None else (settings[-1] if settings else None)
    if wanted is None:
        raise InputError(f"{path} holds no comparison: none of its {len(lines)} lines says what was run.")
    return _collect(good, wanted, skipped=len(lines) - len(good))


def _collect(lines: Iterable[Line], setting: str, skipped: int) -> Results:
    runs: list[Run] = []
    results: dict[str, Result] = {}
    refusals: dict[tuple[str, str], Refusal] = {}
    pictures: dict[str, Picture] = {}
    other = 0
    for line in lines:
        if line.setting != setting:
            other += isinstance(line, Result)
        elif isinstance(line, Run):
            runs.append(line)
        elif isinstance(line, Result):
            results[line.key] = line
        elif isinstance(line, Refusal):
            refusals[line.method, line.budget] = line
        else:
            pictures[line.name] = line
    items = set(runs[-1].plan.get("items", ())) if runs else set()
    chosen = tuple(r for r in results.values() if r.item in items)
    measured = {(r.method, r.budget) for r in chosen}
    refused = tuple(r for arm, r in refusals.items() if arm not in measured)
    return Results(tuple(runs), chosen, refused, pictures, skipped, other + len(results) - len(chosen))


def _parse(raw: bytes) -> Line | None:
    try:
        content = json.loads(raw)
        cls = _KINDS[content.pop("kind")]
        if content.pop("format") != FORMAT or set(content) - {f.name for f in fields(cls)}:
            return None
        return cls(**_as_tuples(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _as_tuples(content: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where a result has tuples of whole numbers, and an object where it has a trace."""
    found = dict(content)
    for name in ("by_layer", "grid", "life", "group"):
        if isinstance(found.get(name), list):
            found[name] = tuple(int(n) for n in found[name])
    if isinstance(found.get("trace"), dict):
        found["trace"] = Trace(**_as_tuples(found["trace"]))
    return found


def digest(*parts: Any) -> str:
    """A hash of JSON values: equal parts, equal digest, in any process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
