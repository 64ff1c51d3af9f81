"""Running one system's reproduction, from its design to its result file."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tokenry.bench.lines import digest
from tokenry.bench.reproduce.design import StudyDesign
from tokenry.bench.reproduce.folder import design_path, load_experiment, reproductions_folder
from tokenry.bench.reproduce.result import Reproduction
from tokenry.bench.reproduce.study import Study
from tokenry.bench.reproduce.vqa.lab import VqaLab
from tokenry.catalog import card
from tokenry.models.load import load


@dataclass(frozen=True)
class Plan:
    """A reproduction that can be run.

    Attributes:
        slug: the system.
        design: its settings and criteria.
        path: where the result goes.
    """

    slug: str
    design: StudyDesign
    path: Path


def find(slug: str, *, designs: str | Path | None = None, out: str | Path | None = None) -> Plan:
    """Find a system's reproduction and read its design.

    Args:
        slug: a system of `systems()`.
        designs: folder with ``SLUG.yaml``; by default it is beside the experiment.
        out: folder for the result; ``docs/results`` of the checkout by default.

    Raises:
        UnknownNameError: no system of that name.
        InputError: no checkout; a system without reproduction; a design that is missing or wrong.
    """
    card(slug)  # an unknown name: the catalogue suggests the nearest
    path = design_path(slug)
    design = StudyDesign.load(path if designs is None else Path(designs) / path.name)
    folder = reproductions_folder().parent / "docs" / "results" if out is None else Path(out)
    return Plan(slug, design, folder / f"{slug}.json")


def embedded_lab() -> VqaLab:
    """The embedded model, without a cache."""
    return VqaLab(*load("embedded"))


def reproduce(
    plan: Plan | str,
    *,
    lab: Callable[[], VqaLab] = embedded_lab,
    cache: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> Reproduction:
    """Run one system's reproduction and write its result file.

    What the cache already holds is not run again; an interrupted reproduction goes on where it stopped. A result file
    is written whole, at the end, or not at all.

    Args:
        plan: what `find` gave, or the name of a system.
        lab: opens the embedded model, for experiments that ask it; let several reproductions share what it opens.
        cache: folder in which a study keeps its checkpoints; None keeps none.
        fresh: forget a study's earlier checkpoints.
        console: where progress is shown.

    Raises:
        TokenryError: see `find`; or a folder that cannot be written.
    """
    if isinstance(plan, str):
        plan = find(plan)
    design = plan.design
    started = time.perf_counter()
    with _study_folder(plan, cache, fresh) as folder:
        study = Study(plan.slug, design.settings, design.seeds, folder, lab, design.questions, console)
        outcome = load_experiment(plan.slug)(study)
    done = Reproduction.of(plan.slug, design, outcome, time.perf_counter() - started)
    done.write(plan.path)
    return done


@contextmanager
def _study_folder(plan: Plan, cache: Path | None, fresh: bool) -> Iterator[Path]:
    """A folder that belongs to this design alone."""
    if cache is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    folder = cache / f"{plan.slug}-{digest(plan.design.to_json())[:12]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
