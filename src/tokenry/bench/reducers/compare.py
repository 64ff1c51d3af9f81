"""Comparing methods on a model the user already runs: what each budget costs in answers, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.lines import ResultsWriter, digest
from tokenry.bench.reducers import measure
from tokenry.bench.reducers.arms import BUDGETS, MethodArm, Spec, plan_arms
from tokenry.bench.reducers.metrics import MetricLike, require_judgeable
from tokenry.bench.reducers.metrics import metric as find_metric
from tokenry.bench.reducers.prompts import Template
from tokenry.bench.reducers.results import (
    FILE_NAME,
    Facts,
    Results,
    Run,
    RunPlan,
    read_results,
)
from tokenry.bench.reducers.running import ResultsRecord, VisualQuestions, pictures_of
from tokenry.bench.reducers.summary import Row, nothing_ran, summarise
from tokenry.bench.run import Interleaved
from tokenry.bench.writing import Claim
from tokenry.data.questions.examples import Example
from tokenry.hosts.host import evaluating
from tokenry.hosts.wrappers import unwrap
from tokenry.tokens import Budget, BudgetLike, InputError, Positions


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        path: the results file; `bench.write_report` makes a page of it.
        results: its content, for the setting that was run.
    """

    path: Path
    results: Results

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row per method and budget; `none` first."""
        return summarise(self.results)

    @property
    def failure(self) -> str | None:
        """What to say if the model refused every arm on fewer tokens; None if one ran."""
        return nothing_ran(self.rows)

    def row(self, method: str, budget: BudgetLike | str = "") -> Row:
        """One row.

        Args:
            method: as the row has it: a name, with settings that are not the defaults.
            budget: anything `Budget.of` reads, or the text that the row has; of a chain "50%+50%".

        Raises:
            InputError: not among those compared.
        """
        wanted = budget if isinstance(budget, str) else str(Budget.of(budget))
        for row in self.rows:
            if (row.method, row.budget) == (method, wanted):
                return row
        raise InputError(
            f"{method} at {wanted} was not compared; there are {', '.join(str(r) for r in self.rows)}."
        )


def compare(
    model: Any,
    processor: Any,
    data: Sequence[Example],
    methods: Sequence[Spec] = (),
    budgets: Sequence[BudgetLike] = BUDGETS,
    *,
    seeds: int = 3,
    limit: int | None = None,
    out: str | Path = "comparison",
    name: str | None = None,
    data_name: str = "examples",
    metric: MetricLike = "exact",
    prompt: str | None = None,
    max_new_tokens: int = 32,
    threads: int | None = None,
    positions: Positions | str | None = None,
    batch_size: int = 1,
    pictures: int = 6,
    left_out: Sequence[object] = (),
    progress: bool = False,
) -> Comparison:
    """Ask a model the same questions under every method and budget, and once on all of its tokens.

    `none`, `random` (with `seeds` repetitions) and `pool` are always among the methods. Questions are put one at a
    time (or `batch_size`), and for each of them all arms run one after the other in an order drawn anew, so that a
    machine that slows down slows all of them alike; a picture is opened when its turn comes, and encoded once for all
    of its questions and arms. Every arm answers one question unmeasured first (warm-up). How times are taken is told
    in `tokenry.bench.reducers.measure`.

    Results are appended to ``out/results.jsonl`` as they come. A result depends on model, weights, data, method,
    settings, machine and code version; what the file already holds of exactly this comparison is not measured again,
    so an interrupted comparison continues where it stopped. One comparison at a time writes to a folder.

    An error belongs to its question: a picture that cannot be opened, a prompt that does not fit, an arm or a metric
    that fails on one of them is written down (``results.failures``) and tried again by the next run; the comparison
    goes on with what is left.

    Args:
        model: a vision-language model, on the device it is to be measured on.
        processor: its processor.
        data: questions about pictures; a scene, a folder (`bench.load_data`), or your own `Example`s.
        methods: names, chains ("divprune+pyramiddrop", or a list), JSON, or configured `Reducer`s; which of them run at
            `budgets` is told in `plan_arms`.
        budgets: anything `Budget.of` reads.
        seeds: repetitions of methods that draw lots.
        limit: only the first so many examples.
        out: folder for the results file.
        name: how the model is called in the report.
        data_name: how the data set is called; part of what identifies a result.
        metric: how an answer is scored: one of `bench.METRICS` by name, or a function (prediction, example) -> 0..1.
            Examples without references are not scored.
        prompt: how a question is put: a text with ``{question}`` in it and, if wanted, ``{choices}``. By default the
            question as it is; of an example with choices, the options below it and the usual instruction.
        max_new_tokens: longest answer.
        threads: CPU threads; as they are by default.
        positions: one rule for the position ids of the tokens that stay, for all methods: "keep", "compact", or
            "paper", which is each method's own and brings baselines under both. By default as configured, which keeps
            them unless told otherwise. Where a model reads positions, the rule can matter more than the method.
        batch_size: questions in a pass, padded on the left. Each has its own picture encoded and is charged its share
            of the pass; results of different batch sizes are not compared with each other. Questions that cannot be
            put together are put one at a time.
        pictures: how many pictures with their overlays go into the results file.
        left_out: what of the data could not be asked (`Data.skipped`, or texts); the report lists it.
        progress: whether to show a progress bar on stderr.

    Returns:
        The rows, read back from the file.

    Raises:
        TokenryError: no data, an unknown method, a budget that means nothing, a folder that cannot be written or that
            another comparison is writing to: all before the model is run; a disk that is full, later. A method that
            the model does not support is not an error but a row that says so; the comparison's `failure` tells if
            there is no other.
        KeyboardInterrupt: interrupted by the user; everything measured until then is in the file.
    """
    measure.require_tokens(max_new_tokens)
    if not isinstance(unwrap(model), PreTrainedModel):
        raise InputError(f"Expected a transformers model, got {type(model).__name__}.")
    arms = plan_arms(methods, budgets, seeds=seeds, positions=positions)
    if batch_size < 1:
        raise InputError(f"A pass takes at least one question, got a batch size of {batch_size}.")
    task = VisualQuestions(model, processor, data, find_metric(metric), Template(prompt), max_new_tokens)
    examples = task.items(limit)
    require_judgeable(task.judge, examples)
    path = Path(out) / FILE_NAME
    with ResultsWriter(path) as writer, environment.limit_threads(threads), evaluating(model):
        facts = environment.facts(model, name) | {
            "data": data_name,
            "max_new_tokens": max_new_tokens,
            "metric": task.metric,
            "prompt": str(task.template),
            "positions": str(positions or Positions.KEEP),
            "batch_size": batch_size,
        }
        setting = digest(facts)
        plan = _plan(arms, examples, seeds, left_out)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        writer.append(Run(setting, cast(Facts, facts), plan, started, environment.load_average()))
        done = read_results(path, setting).keys  # of the examples that this run announces
        record = ResultsRecord(task, setting, writer, done, _shown(examples, pictures))
        with torch.inference_mode():
            Interleaved(task, arms, record, batch_size).run(examples, progress=progress)
    return Comparison(path, read_results(path, setting))


def require_free(out: str | Path) -> None:
    """Refuse a folder that another comparison is writing to, before a model is loaded for this one.

    Raises:
        InputError: who writes there, and since when; or that nothing can be written.
    """
    Claim.require(Path(out) / FILE_NAME)


def _plan(
    arms: Sequence[MethodArm], examples: Sequence[Example], seeds: int, left_out: Sequence[object]
) -> RunPlan:
    """What a run announces."""
    return {
        "arms": list(dict.fromkeys((arm.method, arm.budget) for arm in arms)),
        "against": [*{(arm.method, arm.budget): list(arm.against) for arm in arms}.values()],
        "items": [measure.item_digest(e) for e in examples],
        "pictures": len({pictures_of(e) for e in examples}),
        "seeds": seeds,
        "left_out": list(map(str, left_out)),
    }


def _shown(examples: Sequence[Example], count: int) -> frozenset[str]:
    """Examples whose overlays a report shows: one per picture, kinds of question taking turns."""
    kinds: dict[str, int] = {}
    chosen: dict[str, Example] = {}
    for picture, group in groupby(examples, key=lambda e: e.picture):
        if len(chosen) == count:
            break
        chosen[picture] = min(group, key=lambda e: kinds.get(e.kind, 0))
        kinds[chosen[picture].kind] = kinds.get(chosen[picture].kind, 0) + 1
    return frozenset(e.id for e in chosen.values())
