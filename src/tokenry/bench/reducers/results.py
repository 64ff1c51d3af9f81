"""The results file: JSON lines that are only ever appended to, and from which alone a report is built.

Five kinds of line. A *run* says what was about to be measured, on what; a *result* is one example under one arm; a
*failure* is an example that could not be answered; a *refusal* is an arm that the model does not support; a *picture*
is one of the few pictures that a report shows. Every line names the setting it was measured in, so that one file may
hold several and none is mixed up with another.

One run writes at a time. What is read back is what was written: a line that is anything else is skipped and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NotRequired, TypeAlias, TypedDict

from tokenry.bench.lines import read_lines
from tokenry.tokens import InputError

FILE_NAME = "results.jsonl"
"""What the file is called in the folder of a comparison."""

Facts = TypedDict(
    "Facts",
    {
        "model": str,
        "class": str,
        "fingerprint": str,
        "parameters": int,
        "dtype": str,
        "attention": str,
        "device": str,
        "machine": str,
        "threads": int,
        "code": str,
        "versions": dict[str, str],
        "data": str,
        "max_new_tokens": int,
        "metric": NotRequired[str],
        "scorer": NotRequired[str],  # what files of before have in its place
        "prompt": NotRequired[str],
        "positions": str,
        "batch_size": NotRequired[int],
    },
)
"""What a table or page tells of the circumstances; facts may hold more."""


def metric_name(facts: Facts) -> str:
    """By what answers were scored, in files of before too."""
    return facts.get("metric") or facts.get("scorer") or "an unknown metric"


class _Planned(TypedDict):
    arms: list[tuple[str, str]]
    items: list[str]
    pictures: int
    seeds: int


class RunPlan(_Planned, total=False):
    """What a run sets out to measure: arms as (method, budget), digests of examples, how many pictures and seeds.

    `against` has the baselines that each arm has to beat, in the order of the arms; `left_out` what of the data could
    not be asked, a line each.
    """

    against: list[list[tuple[str, str]]]
    left_out: list[str]


@dataclass(frozen=True)
class Run:
    """One call of `compare`: the setting, the plan, and the circumstances.

    Attributes:
        setting: digest of `facts`; what is equal for all results that may be compared with each other.
        facts: model, its fingerprint, data, dtype, attention, device, threads, versions, machine, generation settings.
        plan: arms, number of pictures, and `items`, which say what the results are of.
        started: UTC time, ISO 8601.
        load: one-minute load average divided by the number of cores, as the run began (None: not known).
    """

    kind: ClassVar[str] = "run"

    setting: str
    facts: Facts
    plan: RunPlan
    started: str
    load: float | None = None


@dataclass(frozen=True)
class TokenTrace:
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
        if self.group is not None and len(self.group) != len(self.life):
            raise ValueError("a trace's parts disagree")
        if min(self.grid) < 1 or self.layers < 1 or not all(0 <= life <= self.layers for life in self.life):
            raise ValueError("no such token, grid or decoder")


@dataclass(frozen=True)
class ArmResult:
    """One example under one arm. Times are milliseconds.

    Of a pass over several questions, `encoder_ms`, `selection_ms` and `prefill_ms` are the pass's, divided by `rows`;
    `decode_ms` is what a step of the whole batch takes, which is what each of its questions waits for a token;
    `memory_bytes` is the batch's. FLOPs and cache are the question's own, without padding.

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
        kept: digest of what became of the tokens and their position ids; None where that is not told.
        rows: questions in the pass that answered it: the run's batch size, fewer at the end, 1 where a batch failed.
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
    trace: TokenTrace | None = None
    kept: str | None = None
    rows: int = 1

    def __post_init__(self) -> None:
        for name in (*_SHARES, *_COUNTS):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= (1 if name in _SHARES else float("inf")):
                raise ValueError(f"{name} is {value!r}")
        if min(self.by_layer, default=-1) < 0 or self.rows < 1:
            raise ValueError("fewer tokens or questions than none")

    @property
    def arm(self) -> ArmKey:
        """Method, budget and seed."""
        return self.method, self.budget, self.seed

    @property
    def tokens_mean(self) -> float:
        """Visual tokens per decoder layer, on average."""
        return sum(self.by_layer) / max(1, len(self.by_layer))


ArmKey: TypeAlias = tuple[str, str, int]
"""Method, budget and seed."""
EVERY_ARM: ArmKey = ("", "", 0)
"""Where a question itself failed, and no arm was to blame."""
_SHARES = ("score", "recall")
_COUNTS = (
    "seed", "tokens", "full_tokens", "prefill_flops", "kv_bytes", "encoder_ms", "selection_ms", "prefill_ms",
    "decode_ms", "memory_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """An example that could not be answered, and why; the next run tries it again.

    Attributes:
        setting: as in `ArmResult`.
        method, budget, seed: the arm that failed on it; `EVERY_ARM` where the question failed before any arm's turn.
        item, example, picture, question: as in `ArmResult`.
        error: class of the exception.
        reason: what it said, for an error that is not tokenry's after the name of its class.
    """

    kind: ClassVar[str] = "failure"

    setting: str
    method: str
    budget: str
    seed: int
    item: str
    example: str
    picture: str
    question: str
    error: str
    reason: str

    @property
    def arm(self) -> ArmKey:
        """Method, budget and seed."""
        return self.method, self.budget, self.seed


@dataclass(frozen=True)
class Refusal:
    """An arm that cannot run on this model, and why."""

    kind: ClassVar[str] = "refusal"

    setting: str
    method: str
    budget: str
    reason: str


@dataclass(frozen=True)
class StoredPicture:
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

    def __post_init__(self) -> None:
        if any(len(box) != 4 for boxes in self.regions.values() for box in boxes):
            raise ValueError("a box has four sides")

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        kind = "png" if self.data.startswith("iVBOR") else "jpeg"  # base64 of the PNG signature
        return f"data:image/{kind};base64,{self.data}"


Line: TypeAlias = Run | ArmResult | Failure | Refusal | StoredPicture
_KINDS: dict[str, type[Line]] = {cls.kind: cls for cls in (Run, ArmResult, Failure, Refusal, StoredPicture)}


@dataclass(frozen=True)
class Results:
    """What a results file holds, for one setting.

    Attributes:
        runs: in order; all of the same setting.
        results: one per arm and example (a later line replaces an earlier one), of the examples of the last run.
        failures: of the examples of the last run, what is still without a result; one per arm and example.
        refusals: one per arm that has no result.
        pictures: by name.
        skipped: lines that could not be read.
        other: result lines of other settings or other examples in the same file.
    """

    runs: tuple[Run, ...]
    results: tuple[ArmResult, ...]
    refusals: tuple[Refusal, ...]
    pictures: dict[str, StoredPicture]
    skipped: int = 0
    other: int = 0
    failures: tuple[Failure, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the results."""
        return frozenset(r.key for r in self.results)


def read_results(path: str | Path, setting: str | None = None) -> Results:
    """Read a results file: the lines of one setting, by default of the last run in the file.

    Lines that are not ours, whole and of this format are skipped and counted; all others survive.

    Raises:
        InputError: no such file, or no readable run in it.
    """
    path = Path(path)
    try:
        lines: list[Line | None] = read_lines(path, _KINDS)
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror}. `tokenry reduce compare` writes such a file."
        ) from error
    good = [line for line in lines if line is not None]
    settings = [line.setting for line in good if isinstance(line, Run)]
    wanted = setting if setting is not None else (settings[-1] if settings else None)
    if wanted is None:
        raise InputError(f"{path} holds no comparison: none of its {len(lines)} lines says what was run.")
    return _collect(good, wanted, skipped=len(lines) - len(good))


def _collect(lines: Iterable[Line], setting: str, skipped: int) -> Results:
    runs: list[Run] = []
    results: dict[tuple[str, ArmKey], ArmResult] = {}
    failures: dict[str, dict[ArmKey, Failure]] = defaultdict(dict)
    refusals: dict[tuple[str, str], Refusal] = {}
    pictures: dict[str, StoredPicture] = {}
    other = 0
    for line in lines:
        if line.setting != setting:
            other += isinstance(line, ArmResult)
        elif isinstance(line, Run):
            runs.append(line)
        elif isinstance(line, Refusal):
            refusals[line.method, line.budget] = line
        elif isinstance(line, StoredPicture):
            pictures[line.name] = line
        else:
            # What is known of an example under an arm is what was last seen of it. That its turn came says also that
            # nothing keeps the question from all arms any more.
            failed = failures[line.item]
            failed.pop(EVERY_ARM, None)
            failed.pop(line.arm, None)
            if isinstance(line, ArmResult):
                results[line.item, line.arm] = line
            else:
                results.pop((line.item, line.arm), None)
                failures[line.item] = ({} if line.arm == EVERY_ARM else failed) | {line.arm: line}
    items = set(runs[-1].plan["items"]) if runs else set()
    chosen = tuple(r for r in results.values() if r.item in items)
    measured = {(r.method, r.budget) for r in chosen}
    return Results(
        tuple(runs),
        chosen,
        tuple(r for arm, r in refusals.items() if arm not in measured),
        pictures,
        skipped,
        other + len(results) - len(chosen),
        tuple(f for item, failed in failures.items() if item in items for f in failed.values()),
    )
