"""Small-scale reproductions: does a paper's claim hold, in direction and size, on the embedded model?

An experiment is a module of `experiments` named after its system, with a function ``experiment(trial) -> Findings``;
its settings and criteria are a recipe (``recipes/reproduce/SLUG.yaml``). Nothing else has to change to add one.
"""

from __future__ import annotations

import pkgutil
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

from tokenry.bench.reproduce import experiments, findings
from tokenry.bench.reproduce.findings import Findings, Reproduction, Trial
from tokenry.bench.reproduce.lab import Lab
from tokenry.bench.reproduce.recipe import Criterion, Questions, Recipe, recipe_folder
from tokenry.catalog import card, results
from tokenry.tokens import InputError

__all__ = [
    "Criterion",
    "Findings",
    "Lab",
    "Plan",
    "Questions",
    "Recipe",
    "Reproduction",
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


def reproduce(plan: Plan | str, lab: Lab) -> Reproduction:
    """Run one system's reproduction and write its result file.

    Arms that the lab's cache already holds are not run again; an interrupted reproduction goes on where it stopped. A
    result file is written whole, at the end, or not at all.

    Args:
        plan: what `find` gave, or the name of a system.
        lab: the model, and what it has already answered. Share one between reproductions.

    Raises:
        TokenryError: see `find`; or a folder that cannot be written.
    """
    if isinstance(plan, str):
        plan = find(plan)
    module = import_module(f"{experiments.__name__}.{plan.slug.replace('-', '_')}")
    started = time.perf_counter()
    trial = Trial(lab, plan.recipe.questions, plan.recipe.settings, plan.slug)
    found: Findings = module.experiment(trial)
    seconds = time.perf_counter() - started
    return findings.write(findings.to_values(plan.slug, plan.recipe, lab, found, seconds), plan.path)
