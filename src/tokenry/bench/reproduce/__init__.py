"""Small-scale reproductions: does a paper's claim hold, in direction and size?

An experiment is a module of `experiments` named after its system; its settings and criteria are a recipe
(``recipes/reproduce/SLUG.yaml``). Where the recipe has `questions`, they are put to the embedded model, and the module
has a function ``experiment(trial) -> Findings``; otherwise it is a study with models of its own, and has
``experiment(study) -> Outcome``. Nothing else has to change to add one.
"""

from __future__ import annotations

import pkgutil
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PreTrainedModel

from tokenry.bench.lines import digest
from tokenry.bench.reproduce import experiments, findings, study, verdict
from tokenry.bench.reproduce.findings import Findings, Trial
from tokenry.bench.reproduce.lab import Lab
from tokenry.bench.reproduce.recipe import Criterion, Questions, Recipe, recipe_folder
from tokenry.bench.reproduce.study import Outcome, Study
from tokenry.bench.reproduce.verdict import Reproduction
from tokenry.catalog import card, results
from tokenry.tokens import InputError

__all__ = [
    "Criterion",
    "Findings",
    "Lab",
    "Outcome",
    "Plan",
    "Questions",
    "Recipe",
    "Reproduction",
    "Study",
    "Trial",
    "find",
    "open_lab",
    "reproduce",
    "systems",
]


def systems() -> tuple[str, ...]:
    """The systems that have a reproduction."""
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(experiments.__path__)))


@dataclass(frozen=True)
class Plan:
    """A reproduction that can be run.

    Attributes:
        slug: the system.
        recipe: its settings and criteria.
        path: where the result goes.
    """

    slug: str
    recipe: Recipe
    path: Path


def find(slug: str, *, recipes: str | Path | None = None, out: str | Path | None = None) -> Plan:
    """Find a system's reproduction and read its recipe.

    Args:
        slug: a system of `systems()`.
        recipes: folder with ``SLUG.yaml``; that of the checkout by default.
        out: folder for the result; ``docs/results`` of the checkout by default.

    Raises:
        UnknownNameError: no system of that name.
        InputError: a system without reproduction; a recipe that is missing or wrong; no folder known.
    """
    card(slug)  # an unknown name: the catalogue suggests the nearest
    if slug not in systems():
        raise InputError(f"{slug} has no reproduction yet; there are {', '.join(systems())}.")
    recipe = Recipe.load((recipe_folder() if recipes is None else Path(recipes)) / f"{slug}.yaml")
    if out is None:
        root = results.checkout()
        if root is None:
            raise InputError("Results go to docs/results of a checkout; outside of one, say where (--out).")
        out = root / "docs" / "results"
    return Plan(slug, recipe, Path(out) / f"{slug}.json")


@contextmanager
def open_lab(
    model: PreTrainedModel,
    processor: Any,
    *,
    name: str = "embedded",
    cache: Path | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> Iterator[Lab]:
    """A lab for one or several reproductions.

    Args:
        model: the embedded model, or another of its kind.
        processor: its processor.
        name: what results call it.
        cache: folder for answers; None keeps none.
        fresh: forget what the cache holds.
        progress: whether to show progress on stderr.
    """
    if fresh and cache is not None:
        for sheet in cache.glob("*.safetensors"):
            sheet.unlink()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        yield Lab(model, processor, name, cache, bar)


def reproduce(
    plan: Plan | str,
    lab: Lab | None = None,
    *,
    cache: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> Reproduction:
    """Run one system's reproduction and write its result file.

    What the cache already holds (answers of the lab, checkpoints of a study) is not run again; an interrupted
    reproduction goes on where it stopped. A result file is written whole, at the end, or not at all.

    Args:
        plan: what `find` gave, or the name of a system.
        lab: the embedded model, and what it has already answered; needed by plans with questions. Share one between
            reproductions.
        cache: folder in which a study keeps its checkpoints; None keeps none.
        fresh: forget a study's earlier checkpoints.
        console: where a study shows progress.

    Raises:
        TokenryError: see `find`; a plan with questions and no lab; or a folder that cannot be written.
    """
    if isinstance(plan, str):
        plan = find(plan)
    recipe = plan.recipe
    started = time.perf_counter()
    if recipe.questions is not None:
        if lab is None:
            raise InputError(
                f"The reproduction of {plan.slug} asks the embedded model: hand in a lab (`open_lab`)."
            )
        trial = Trial(lab, recipe.questions, recipe.settings, plan.slug)
        found: Findings = _experiment(plan.slug)(trial)
        values = findings.to_values(plan.slug, recipe, trial, found, time.perf_counter() - started)
    else:
        with _study_folder(plan, cache, fresh) as folder:
            outcome = _experiment(plan.slug)(Study(recipe.settings, recipe.seeds, folder, console))
        values = study.to_values(plan.slug, recipe, outcome, time.perf_counter() - started)
    return verdict.write(values, plan.path)


def _experiment(slug: str) -> Any:
    return import_module(f"{experiments.__name__}.{slug.replace('-', '_')}").experiment


@contextmanager
def _study_folder(plan: Plan, cache: Path | None, fresh: bool) -> Iterator[Path]:
    """A folder that belongs to these settings alone."""
    if cache is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    folder = cache / f"{plan.slug}-{digest(plan.recipe.to_json())[:12]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
