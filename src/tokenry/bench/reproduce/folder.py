"""Where reproductions are: ``reproductions/ROOM/SLUG.yaml`` and its module beside it, in a checkout of tokenry."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final

from tokenry.bench.reproduce.outcome import Outcome
from tokenry.bench.reproduce.study import Study
from tokenry.tokens import InputError

PACKAGE: Final = "reproductions"
"""Name of the folder, and of the package that its modules are loaded as."""


def reproductions_folder() -> Path:
    """The reproductions of the checkout that tokenry runs from, or else of the one that the user is in.

    Raises:
        InputError: neither is a checkout.
    """
    here = Path.cwd()
    for folder in (*Path(__file__).resolve().parents, here, *here.parents):
        if _is_checkout(folder):
            return folder / PACKAGE
    raise InputError(
        "Reproductions are not part of the installed package; clone the repository of tokenry and run them inside it."
    )


def systems() -> tuple[str, ...]:
    """The systems that have a reproduction."""
    return tuple(sorted(path.stem for path in reproductions_folder().glob("*/*.yaml")))


def design_path(slug: str) -> Path:
    """The file with the design of a system's study.

    Raises:
        InputError: the system has none.
    """
    for path in reproductions_folder().glob(f"*/{slug}.yaml"):
        return path
    raise InputError(f"{slug} has no reproduction yet; there are {', '.join(systems())}.")


def load_experiment(slug: str) -> Callable[[Study], Outcome]:
    """Load the function that runs a system's study: ``experiment`` of the module beside its design.

    Raises:
        InputError: the system has no reproduction, or another package has taken the name.
    """
    path = design_path(slug)
    _load_package(path.parents[1])
    module = import_module(f"{PACKAGE}.{path.parent.name}.{slug.replace('-', '_')}")
    experiment: Callable[[Study], Outcome] = module.experiment
    return experiment


def _is_checkout(folder: Path) -> bool:
    if not (folder / PACKAGE / "__init__.py").is_file():
        return False
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return False
    return project.get("name") == "tokenry"


def _load_package(folder: Path) -> None:
    """Make the folder importable under its name, wherever it lies; nothing else is."""
    if (known := sys.modules.get(PACKAGE)) is not None:
        if str(folder) not in known.__path__:
            raise InputError(f"Another package is called {PACKAGE}: {', '.join(known.__path__)}.")
        return
    spec = spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None  # it is None for endings that are not Python's
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
