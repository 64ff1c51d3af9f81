"""How often the lower bound of a paired interval is above the truth: the rule in use and six others, on drawn data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from scipy.stats import t as student_t

from benchmarks.common import RESULTS, provenance
from tokenry.bench.stats import LEVEL, corrected, lower_bound, paired_interval
from tokenry.tokens.files import whole_file

TAIL = 0.025
TAILS = (TAIL, 0.0025, 0.0005)  # alone, and Bonferroni's over 10 and 50 arms
QUESTIONS = (20, 50, 100, 200, 500)
LOST = (0.0, 0.01, 0.02, 0.035, 0.055, 0.10)
GAINED = (0.0, 0.04)  # losses only; losses and gains, which is 0.04 more lost and 0.04 gained
PICTURES = {"1": (1,), "2": (2,), "4": (4,), "1 to 8": (1, 1, 1, 2, 3, 8)}
FEW = (50, 100, 200, 500, 1000)  # questions
DRAWN = 1000  # data sets a round
RESAMPLES = 1000
CRITERION = (
    "stated before the run: with 50 questions and more the lower bound of the 95 % interval is above the truth in at "
    "most 3.5 % of data sets, in every cell; with fewer in at most 2.5 % and three standard errors of the simulation"
)

USED = "Gaffke's bound, pictures (in use)"
Rule = Callable[["Data", float], Float[np.ndarray, " data"]]


@dataclass(frozen=True)
class Setting:
    """A kind of question set.

    Attributes:
        scores: "0/1", "thirds" (a question loses or gains 1/3, 2/3 or 1) or "mean of 3" (of a method that draws lots).
        per_picture: a key of `PICTURES`.
        correlation: of the differences of two questions about one picture.
    """

    scores: str
    per_picture: str
    correlation: float

    def sizes(self, questions: int) -> Float[np.ndarray, " m"]:
        """Questions about each picture, until there are enough."""
        pattern = PICTURES[self.per_picture]
        sizes = np.resize(pattern, questions)
        last = int(np.searchsorted(np.cumsum(sizes), questions))
        sizes = sizes[: last + 1]
        sizes[-1] -= sizes.sum() - questions
        return sizes.astype(float)


SETTINGS = (
    Setting("0/1", "1", 0.0),
    *(Setting("0/1", per, rho) for per in ("2", "4", "1 to 8") for rho in (0.0, 0.3, 0.7)),
    *(
        Setting(scores, per, rho)
        for scores in ("thirds", "mean of 3")
        for per, rho in (("1", 0.0), ("4", 0.3))
    ),
)
WIDTHS = {
    "0/1": Setting("0/1", "1", 0.0),
    "0/1, 4 a picture, correlation 0": Setting("0/1", "4", 0.0),
    "0/1, 4 a picture, correlation 0.7": Setting("0/1", "4", 0.7),
    "thirds": Setting("thirds", "1", 0.0),
}


@dataclass(frozen=True)
class Data:
    """Data sets with the same pictures.

    Attributes:
        values: differences of the questions.
        total: their sums over each picture.
        size: questions about each picture.
    """

    values: Float[np.ndarray, "data n"]
    total: Float[np.ndarray, "data m"]
    size: Float[np.ndarray, " m"]

    @cached_property
    def mean(self) -> Float[np.ndarray, " data"]:
        """The mean difference."""
        return self.values.mean(1)

    @cached_property
    def error(self) -> Float[np.ndarray, " data"]:
        """The jackknife's (CR3) standard error, leaving out a picture at a time."""
        m = len(self.size)
        without = (self.total.sum(1, keepdims=True) - self.total) / (self.size.sum() - self.size)
        return np.sqrt((m - 1) * without.var(1))

    @property
    def kish(self) -> float:
        """The design effect if the questions of a picture were one."""
        return float((self.size**2).sum() / self.size.sum())

    @cached_property
    def apart(self) -> Data:
        """The same with a picture for each question."""
        return Data(self.values, self.values, np.ones(self.values.shape[1]))

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Total and size of each kind of picture, how many of each the different data sets have, and which is whose."""
        kinds, kind = np.unique(np.round(self.total, 9) + 1j * self.size, return_inverse=True)
        places = kind.reshape(self.total.shape) + len(kinds) * np.arange(len(self.total))[:, None]
        count = np.bincount(places.ravel(), minlength=len(kinds) * len(self.total))
        different, back = np.unique(count.reshape(len(self.total), -1), axis=0, return_inverse=True)
        return kinds.real[None], kinds.imag, different.astype(float), back.ravel()


def draw(
    setting: Setting, questions: int, lost: float, gained: float, data: int, seed: Sequence[int]
) -> tuple[Data, float]:
    """Data sets, and the true mean difference.

    With probability sqrt(correlation) a question takes the outcome of its picture, otherwise one of its own: two
    questions about a picture then have that correlation, whatever the outcomes.
    """
    random, size = np.random.default_rng(seed), setting.sizes(questions)
    starts = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(int)
    of = np.repeat(np.arange(len(size)), size.astype(int))
    picture = _outcome(random, setting.scores, lost + gained, gained, (data, len(size)))[:, of]
    own = _outcome(random, setting.scores, lost + gained, gained, (data, questions))
    shared = random.random((data, questions)) < np.sqrt(setting.correlation)
    values = np.where(shared, picture, own)
    return Data(values, np.add.reduceat(values, starts, axis=1), size), -lost


def _outcome(
    random: np.random.Generator, scores: str, lost: float, gained: float, shape: tuple[int, int]
) -> Float[np.ndarray, "data k"]:
    """Differences, by points lost and gained on average."""
    if scores == "0/1":
        share, amount = 1.0, np.ones(shape)
    elif scores == "thirds":
        share, amount = 2 / 3, random.integers(1, 4, shape) / 3
    else:  # a question at risk goes wrong under one seed in three
        share, amount = 1 / 3, random.binomial(3, 1 / 3, shape) / 3
    dice = random.random(shape) * share
    return amount * ((dice >= share - gained).astype(float) - (dice < lost))


# --- rules: each gives the lower bound of every data set --------------------------------------------------------------


def in_use(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """`tokenry.bench.stats.paired_interval`'s."""
    total, size, count, which = data.kinds
    return lower_bound(total, size, count, tail)[which]


def independent(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """The same rule that knows nothing of pictures."""
    return in_use(data.apart, tail)


def percentile(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """Percentile bootstrap over pictures; before, without a difference, the exact binomial bound."""
    means, _ = _resampled(data)
    found = np.quantile(means, tail, axis=0)
    return np.where(data.values.any(1), found, tail ** (1 / len(data.size)) - 1)


def studentised(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """Bootstrap-t over pictures with the linearised standard error."""
    means, errors = _resampled(data)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, (means - data.mean) / errors, 0.0)
    rest = data.total - data.mean[:, None] * data.size
    return data.mean - np.quantile(t, 1 - tail, axis=0) * np.sqrt((rest**2).sum(1)) / data.size.sum()


def _resampled(data: Data) -> tuple[Float[np.ndarray, "r data"], Float[np.ndarray, "r data"]]:
    """Mean and standard error of each resample of the pictures."""
    m = len(data.size)
    times = np.random.default_rng(0).multinomial(m, np.full(m, 1 / m), size=RESAMPLES).astype(float)
    whole = (times @ data.size)[:, None]
    means = times @ data.total.T / whole
    square = times @ (data.total**2).T - 2 * means * (times @ (data.total * data.size).T)
    square += means**2 * (times @ data.size**2)[:, None]
    return means, np.sqrt(np.maximum(square, 0)) / whole


def cluster_t(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """Student's t with the jackknife's standard error and a degree of freedom less than there are pictures."""
    return data.mean - student_t.ppf(1 - tail, len(data.size) - 1) * data.error


def normal(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """Mean and standard error, questions taken for independent."""
    n = data.values.shape[1]
    return data.mean + NormalDist().inv_cdf(tail) * data.values.std(1) / np.sqrt(n)


def tango(data: Data, tail: float) -> Float[np.ndarray, " data"]:
    """Tango's score bound for paired proportions, on an effective number of questions.

    Tango 1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B; the design effect in the way of
    Eliasziw & Donner 1991, doi 10.1002/sim.4780101211. The design effect is the jackknife's variance in that of
    independent 0/1 outcomes, drawn towards Kish's the more, the fewer pictures tell of it: 2 (Kish's - 1) pictures'
    worth, with which no loss is not worse than one.
    """
    n = data.values.shape[1]
    gained, lost = np.maximum(data.values, 0).sum(1), np.maximum(-data.values, 0).sum(1)
    alone = (gained + lost) / n - data.mean**2
    telling, prior = (data.total != 0).sum(1), 2 * (data.kish - 1) + 1e-9
    found = np.where(alone > 0, data.error**2 * n / np.maximum(alone, 1e-12), data.kish)
    effect = (np.maximum(found, 1) * telling + data.kish * prior) / (telling + prior)
    b, c, n = gained / effect, lost / effect, n / effect
    z, low, high = -NormalDist().inv_cdf(tail), np.full_like(b, -1.0), (b - c) / n
    for _ in range(40):
        middle = (low + high) / 2
        linear, constant = -b - c + (2 * n - b + c) * middle, -c * middle * (1 - middle)
        p = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
        variance = n * np.maximum(2 * p + middle * (1 - middle), 1e-300)
        outside = (b - c - n * middle) > z * np.sqrt(variance)
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return low


RULES: dict[str, Rule] = {
    USED: in_use,
    "Tango's score, design effect": tango,
    "bootstrap-t, pictures": studentised,
    "cluster-robust t (jackknife)": cluster_t,
    "percentile bootstrap, pictures (before)": percentile,
    "Gaffke's bound, questions": independent,
    "normal, questions": normal,
}
SLOW = (studentised, percentile, independent)  # in the first round only
RESAMPLED = (
    studentised,
    percentile,
)  # at the first tail only: a resample in a thousand says little about the others


# --- the simulation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one rule did in one cell at one tail.

    Attributes:
        rule, setting, questions, lost, gained, tail: which.
        data: data sets drawn.
        failed: share of them whose bound was above the truth.
        below: mean distance from the mean down to the bound.
    """

    rule: str
    setting: Setting
    questions: int
    lost: float
    gained: float
    tail: float
    data: int
    failed: float
    below: float

    @property
    def holds(self) -> bool:
        """Whether it meets the criterion; at tails other than the first, nominal and three standard errors."""
        nominal = self.tail + 3 * np.sqrt(self.tail * (1 - self.tail) / self.data)
        if self.tail == TAIL and self.questions >= 50:
            return self.failed <= 0.035
        return bool(self.failed <= nominal)


def simulate(setting: Setting, questions: int, rounds: int, seed: int) -> Iterator[Cell]:
    """All losses, rules and tails; where nothing is ever lost or gained nothing can fail, and nothing is drawn."""
    for i, lost in enumerate(LOST):
        for j, gained in enumerate(GAINED):
            if lost + gained == 0:
                continue
            sums: dict[tuple[str, float], list[tuple[float, float]]] = {}
            for k in range(rounds):
                data, truth = draw(setting, questions, lost, gained, DRAWN, (seed, questions, i, j, k))
                for name, rule in RULES.items():
                    for tail in TAILS:
                        if (rule in SLOW and k > 0) or (rule in RESAMPLED and tail != TAIL):
                            continue
                        low = rule(data, tail)
                        found = float((low > truth + 1e-9).mean()), float((data.mean - low).mean())
                        sums.setdefault((name, tail), []).append(found)
            for (name, tail), found in sums.items():
                failed, below = np.mean(found, axis=0).tolist()
                drawn = DRAWN * len(found)
                yield Cell(name, setting, questions, lost, gained, tail, drawn, failed, below)


def run(console: Console, rounds: int) -> None:
    """Every setting and number of questions; a thousand data sets a cell for every three rounds."""
    rounds = max(1, rounds // 3)
    cells: list[Cell] = []
    for i, setting in enumerate(SETTINGS):
        for questions in QUESTIONS:
            cells += simulate(setting, questions, rounds, seed=i)
        console.print(f"{setting}: done")
    write_few()
    used = _of(cells, USED, TAIL)
    _write(
        "intervals",
        _coverage(cells),
        "Share of data sets, in %, in which the lower bound of the 95 % interval was above the truth (nominal: 2.5), "
        "in the worst cell and on average over cells (true losses of 0 to 10 points, with and without gains; "
        f"{DRAWN * rounds:,} data sets each); the average at nominal 0.25 and 0.05 %, in units of nominal; and how far "
        "below the mean the bound is, in points; the last two columns are those of the percentile bootstrap that was "
        f"used before (1,000 data sets and resamples each). Criterion, {CRITERION}. "
        f"{sum(c.holds for c in used)} of {len(used)} cells hold",
    )
    _write(
        "intervals-rules",
        [_rule(name, cells) for name in RULES],
        "The rules that were tried, over all cells: share of cells that meet the criterion, worst cell and average, "
        "all in % (nominal: 2.5); the worst setting at nominal 0.25 and 0.05 %, in units of nominal, averaged over "
        "losses; and how far below the mean the bound is, in points, on 200 questions, averaged over losses. "
        "Bootstraps and bounds over questions: 1,000 data sets a cell",
    )


def write_few() -> None:
    """The bounds where little is lost, which tells how many questions a claim needs."""
    _write(
        "intervals-few",
        [
            {"lost": lost}
            | {f"of {n}": 100 * paired_interval([-1.0] * lost + [0.0] * (n - lost)).low for n in FEW}
            | {
                f"of {n}, {arms} arms": 100
                * paired_interval([-1.0] * lost + [0.0] * (n - lost), level=corrected(LEVEL, arms)).low
                for arms in (10, 50)
                for n in FEW[-1:]
            }
            for lost in (0, 1, 2, 3, 5, 10, 20)
        ],
        "Lower bounds of the 95 % interval, in points, where that many answers of so many questions were lost and none "
        "gained, each question about a picture of its own; in the last columns at the level corrected for so many arms",
    )


def _of(cells: list[Cell], rule: str, tail: float, **where: Any) -> list[Cell]:
    chosen = [c for c in cells if c.rule == rule and c.tail == tail]
    return [c for c in chosen if all(getattr(c, k) == v for k, v in where.items())]


def _coverage(cells: list[Cell]) -> list[dict[str, Any]]:
    rows = []
    for setting in SETTINGS:
        for questions in QUESTIONS:
            where = {"setting": setting, "questions": questions}
            used, corrected, furthest = (_of(cells, USED, tail, **where) for tail in TAILS)
            before = _of(cells, "percentile bootstrap, pictures (before)", TAIL, **where)
            rows.append(
                {
                    "scores": setting.scores,
                    "questions": questions,
                    "a picture": setting.per_picture,
                    "pictures": len(setting.sizes(questions)),
                    "correlation": setting.correlation,
                    "worst": _percent(max(c.failed for c in used)),
                    "mean": _percent(_mean(c.failed for c in used)),
                    "at 0.25 %": round(_mean(c.failed / c.tail for c in corrected), 2),
                    "at 0.05 %": round(_mean(c.failed / c.tail for c in furthest), 2),
                    "below": _percent(_mean(c.below for c in used)),
                    "before: worst": _percent(max(c.failed for c in before)),
                    "before: below": _percent(_mean(c.below for c in before)),
                }
            )
    return rows


def _rule(name: str, cells: list[Cell]) -> dict[str, Any]:
    mine = _of(cells, name, TAIL)
    row = {
        "rule": name,
        "cells that hold": _percent(_mean(float(c.holds) for c in mine)),
        "worst, n >= 50": _percent(max(c.failed for c in mine if c.questions >= 50)),
        "worst, n = 20": _percent(max(c.failed for c in mine if c.questions < 50)),
        "mean": _percent(_mean(c.failed for c in mine)),
    }
    for tail in TAILS[1:]:
        groups = (
            _of(cells, name, tail, setting=setting, questions=questions)
            for setting in SETTINGS
            for questions in QUESTIONS
        )
        excess = [_mean(c.failed / c.tail for c in group) for group in groups if group]
        row[f"at {100 * tail:.2g} %"] = round(max(excess), 2) if excess else None
    for label, setting in WIDTHS.items():
        here = _of(cells, name, TAIL, setting=setting, questions=200)
        row[f"below: {label}"] = _percent(_mean(c.below for c in here))
    return row


def _mean(values: Iterator[float]) -> float:
    return float(np.mean(list(values)))


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _write(name: str, rows: list[dict[str, Any]], what: str) -> None:
    """Store a table for the documentation as ``docs/results/NAME.json``."""
    path = RESULTS / f"{name}.json"
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps({"what": what, name: rows} | provenance(), indent=1) + "\n")
