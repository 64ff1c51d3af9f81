"""What an experiment on the embedded model is given, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tokenry.bench import environment
from tokenry.bench.lines import digest
from tokenry.bench.reproduce.figure import Figure
from tokenry.bench.reproduce.lab import Arms, Chain, Lab
from tokenry.bench.reproduce.recipe import Questions, Recipe
from tokenry.bench.reproduce.sheet import Sheet, mean_over
from tokenry.bench.reproduce.verdict import judge
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import BudgetLike, InputError


@dataclass(frozen=True)
class Trial:
    """What an experiment is given.

    Attributes:
        lab: runs the model.
        questions: what is asked.
        settings: of the recipe.
        label: what the progress display says.
    """

    lab: Lab
    questions: Questions
    settings: Mapping[str, Any]
    label: str = ""

    def ask(self, arms: Arms) -> dict[str, Sheet]:
        """Put the trial's questions under every arm."""
        return self.lab.ask(arms, self.questions, self.label)

    def random(self, budget: BudgetLike, positions: str | None = None) -> list[Chain]:
        """Random selection on the way in, with each of the recipe's seeds, under the recipe's position rule."""
        rule = self.positions if positions is None else positions
        return [
            (RandomTokens(budget=budget, positions=rule, seed=seed),)
            for seed in self.settings["random_seeds"]
        ]

    @property
    def positions(self) -> str:
        """The position rule that all arms share, so that a difference is one of selection."""
        return str(self.settings.get("positions", "keep"))


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        ours, baseline: what is measured, and the same for what the claim compares with.
        what: names of the two.
        full: the model on all tokens.
        figures: what the recipe's criteria are about, by name.
        sheets: everything that was run, by name.
        details: further tables, JSON values.
        notes: what a reader must know.
    """

    what: tuple[str, str]
    ours: Sheet
    baseline: Sheet
    full: Sheet
    figures: Mapping[str, Figure]
    sheets: Mapping[str, Sheet]
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def to_values(slug: str, recipe: Recipe, trial: Trial, found: Findings, seconds: float) -> dict[str, Any]:
    """The content of a result file."""
    lab, q = trial.lab, trial.questions
    verdict, judged = judge(recipe.criteria, found.figures, "by set of questions")
    facts = environment.facts(lab.model, lab.name)
    ours, baseline = (mean_over(s, s.correct) for s in (found.ours, found.baseline))
    values = {
        "system": slug,
        "verdict": verdict,
        "claim": recipe.claim,
        "ours": {"what": found.what[0], "accuracy": round(ours.value, 4)},
        "baseline": {"what": found.what[1], "accuracy": round(baseline.value, 4)},
        "ratio": round(ours.value / baseline.value, 4) if baseline.value else None,
        "full": {"what": "accuracy on all tokens", "accuracy": round(found.full.accuracy, 4)},
        "criteria": judged,
        "seeds": {
            "sets of test scenes": list(q.seeds),
            "ours": [round(v, 4) for v in ours.by_seed],
            "baseline": [round(v, 4) for v in baseline.by_seed],
            "spread of ours": round(max(ours.by_seed) - min(ours.by_seed), 4),
            "random subsets": list(recipe.settings.get("random_seeds", ())),
            "training": "one trained model; other training seeds were not available",
        },
        "arms": lab.scores(found.sheets, found.full),
        "accuracy by kind of question": _kinds(found.sheets),
        "notes": [*found.notes, *_about_positions(recipe)],
        "questions": f"{len(found.full.correct)} about {len(set(found.full.pictures))} held-out scenes",
        "settings": recipe.to_json()["settings"],
        "settings hash": digest(recipe.to_json()),
        "model": {k: facts[k] for k in ("model", "class", "fingerprint", "parameters", "dtype", "attention")},
        "machine": f"{facts['machine']}, {facts['threads']} threads used",
        "load per core": environment.load_average(),
        "versions": facts["versions"] | {"code": facts["code"]},
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": {
            "this run": round(seconds, 1),
            "all arms, had none been shared or kept": round(sum(s.seconds for s in found.sheets.values()), 1),
        },
    }
    if clash := sorted(values.keys() & found.details.keys()):
        raise InputError(f"The experiment of {slug} reports {', '.join(clash)}, a name every result has.")
    at = list(values).index("notes")
    items = list(values.items())
    return dict(items[:at]) | dict(found.details) | dict(items[at:])


def _about_positions(recipe: Recipe) -> list[str]:
    if recipe.settings.get("positions") != "keep":
        return []
    return [
        "All arms keep position ids, so that they differ in what they select only. The paper renumbers positions; the "
        "embedded model was trained on full grids and reads places off position ids, so renumbering alone costs it "
        "much, whatever is selected: see the arms 'renumbered'. This was chosen after a look at unfinished weights; no "
        "criterion was changed."
    ]


def _kinds(sheets: Mapping[str, Sheet]) -> dict[str, list[Any]]:
    """Accuracy by kind of question, one row per arm; the first row names the kinds."""
    tables = {name: s.by_kind() for name, s in sheets.items()}
    kinds = list(next(iter(tables.values())))
    return {"arm": kinds} | {name: [round(t[kind], 4) for kind in kinds] for name, t in tables.items()}
