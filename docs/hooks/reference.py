"""The reference pages, made while the site is built: names from the faces of tokenry's packages, commands from typer.

Nothing is listed by hand: a name that a package has in `__all__`, or a command, is on a page. The text comes from the
sources by way of mkdocstrings, which does not import them, and from typer's own `utils docs`.
"""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from inspect import getdoc, isclass, isfunction
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import tokenry
from tokenry import catalog
from tokenry.catalog.docstrings import defined_at, split
from tokenry.catalog.markdown import escape, table

FOLDER = "reference"
_CUT = re.compile(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n")  # descriptions cut short; the commands follow anyway
COMMANDS = "Command line"
_NAME = """::: {path}
    options:
      heading: {name}
      toc_label: {short}
      heading_level: 3
      members: null
      filters: ["!^_"]
      show_if_no_docstring: false
"""


def faces() -> dict[str, list[str]]:
    """Packages that say what they offer, by path: the names in their `__all__` but for dunders."""
    packages = [m.name for m in pkgutil.walk_packages(tokenry.__path__, "tokenry.") if m.ispkg]
    faces = [import_module(name) for name in ["tokenry", *packages]]
    offered = {
        face.__name__: [n for n in getattr(face, "__all__", ()) if _is_ours(face, n)] for face in faces
    }
    return {name: sorted(names) for name, names in offered.items() if names}


def _is_ours(face: ModuleType, name: str) -> bool:
    """Whether something is of tokenry: what it hands out of other libraries is documented there."""
    found = getattr(face, name)
    home = found.__module__ if isclass(found) or isfunction(found) else "tokenry"
    return not name.startswith("__") and home.partition(".")[0] == "tokenry"


def pages() -> dict[str, str]:
    """The pages of the API by the package that they are about: a room with the packages in it."""
    rooms: dict[str, list[str]] = {}
    found = faces()
    for face in found:
        rooms.setdefault(_room(face), []).append(face)
    homes = _homes(found)
    return {
        room: _page(room, {face: found[face] for face in within}, homes) for room, within in rooms.items()
    }


def command_line() -> str:
    """All commands with their arguments, options and defaults."""
    arguments = ["tokenry.cli.main", "utils", "docs", "--name", "tokenry", "--title", COMMANDS]
    done = subprocess.run(
        [sys.executable, "-m", "typer", *arguments], check=True, capture_output=True, text=True
    )
    return _CUT.sub("", done.stdout)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages at the end of the navigation."""
    api = [{room: f"{FOLDER}/{room}.md"} for room in dict.fromkeys(map(_room, faces()))]
    config.nav = [*(config.nav or []), {"Reference": [{COMMANDS: f"{FOLDER}/cli.md"}, *api]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are written by hand."""
    for name, text in {"cli": command_line(), **pages()}.items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    return files


def _room(face: str) -> str:
    return ".".join(face.split(".")[:2])


def _path(face: str, name: str) -> str:
    """Where a name is defined: what a face imports may have the name of a module beside it."""
    found: Any = getattr(import_module(face), name)
    if isinstance(found, ModuleType):
        return found.__name__
    module, qualified = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    ours = module.startswith("tokenry") and getattr(sys.modules.get(module), qualified, None) is found
    return f"{module}.{qualified}" if ours else f"{face}.{name}"


def _homes(found: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Where each thing is documented: a page and a heading on it. Systems have pages; else the first face has it."""
    systems = {
        defined_at(c.entry_point).replace(":", "."): f"../methods/{c.slug}.md"
        for c in catalog.cards()
        if c.entry_point
    }
    homes = {}
    for face, names in found.items():
        for name in names:
            path = _path(face, name)
            page = f"{_room(path)}.md" if path in found else f"{_room(face)}.md#{path}"
            homes.setdefault(path, systems.get(path, page))
    return homes


def _page(room: str, found: Mapping[str, Sequence[str]], homes: Mapping[str, str]) -> str:
    parts = [f"# {room}"]
    told: set[str] = set()
    for face, names in found.items():
        parts += [*([f"## {face}"] if face != room else []), split(getdoc(import_module(face)) or "")[0]]
        paths = {name: _path(face, name) for name in names}
        here = {name: p for name, p in paths.items() if homes[p] == f"{room}.md#{p}" and p not in told}
        told |= set(here.values())
        if elsewhere := [f"[`{name}`]({homes[p]})" for name, p in paths.items() if name not in here]:
            parts.append(f"On pages of their own: {', '.join(elsewhere)}.")
        parts += [_NAME.format(path=p, name=f"{face}.{name}", short=name) for name, p in here.items()]
    return "\n\n".join([*parts, *_systems(room)]) + "\n"


def _systems(room: str) -> Iterator[str]:
    """The systems whose code lies in a room: their documentation is on their own pages."""
    own = [card for card in catalog.cards() if card.entry_point and card.entry_point.startswith(f"{room}.")]
    if own:
        yield "## Systems"
        rows = [(f"[{c.slug}](../methods/{c.slug}.md)", f"`{c.entry_point}`", escape(c.summary)) for c in own]
        yield table(("system", "entry point", "what it does"), rows)
