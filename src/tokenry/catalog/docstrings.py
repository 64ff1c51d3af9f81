"""Docstrings of entry points, read from the source: showing them must not import torch."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib import resources
from inspect import cleandoc
from itertools import pairwise
from textwrap import dedent

from tokenry.tokens.errors import TokenryError

_HEADING = re.compile(r"(?m)^([A-Z][a-z]+):\n(?=[ ]+\S)")
_ENTRY = re.compile(r"(?m)^(?=\S)")
_ROLE = re.compile(r":[a-z]+:(?=`)")  # of reStructuredText, as in :func:`load`
_CODE = re.compile(r"(`+).+?\1", re.DOTALL)
_LITERAL = re.compile(r"(?m)(?<=[\w)]):: *$")


@dataclass(frozen=True)
class Section:
    """A section of a Google docstring.

    Attributes:
        title: "Attributes", "Args", "Returns", "Raises" ...
        entries: Name and description of each entry; the name is empty where the section is plain text.
    """

    title: str
    entries: tuple[tuple[str, str], ...]


def split(text: str) -> tuple[str, tuple[Section, ...]]:
    """Split a docstring into its prose, as Markdown, and its sections.

    Args:
        text: A dedented docstring; prose behind its first section belongs to that section.
    """
    prose, *rest = _HEADING.split(text)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return _markdown(prose), tuple(
        Section(title, _entries(dedent(body.strip("\n")))) for title, body in pairs
    )


def docstring(entry_point: str) -> str:
    """Return an entry point's docstring, dedented.

    Args:
        entry_point: "package.module:name"; a package may import the name from a module in it, as its face.

    Raises:
        TokenryError: If the module, the name in it or its docstring does not exist.
    """
    module, _, name = entry_point.partition(":")
    for node in ast.parse(_source(entry_point, module)).body:
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                if (text := ast.get_docstring(node)) is None:
                    raise TokenryError(f"Entry point {entry_point!r} has no docstring.")
                return text
            case ast.ImportFrom(module=str(home), level=0, names=names):
                for alias in names:
                    if (alias.asname or alias.name) == name and home.startswith(f"{module}."):
                        return docstring(f"{home}:{alias.name}")
    raise TokenryError(f"Entry point {entry_point!r}: {module} defines no class or function {name!r}")


def _source(entry_point: str, module: str) -> str:
    package, *path = module.split(".")
    base = resources.files(package).joinpath(*path[:-1])
    for file in (base / f"{path[-1]}.py", base / path[-1] / "__init__.py"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise TokenryError(f"Entry point {entry_point!r}: there is no module {module}")


def _entries(body: str) -> tuple[tuple[str, str], ...]:
    parts = [part for part in _ENTRY.split(body) if part]
    named = [part.partition(":") for part in parts]
    if all(colon and re.fullmatch(r"[*\w., ]+", name) for name, colon, _ in named):
        return tuple((name, _markdown(cleandoc(about))) for name, _, about in named)
    return (("", _markdown(body)),)


def _markdown(text: str) -> str:
    """Prose of a docstring as Markdown: roles go, `::` opens a literal block, angle brackets are no HTML."""
    text = _LITERAL.sub(":", _ROLE.sub("", text))
    codes = list(_CODE.finditer(text))
    between = [0, *(end for code in codes for end in code.span()), len(text)]
    spans = [text[a:b] for a, b in pairwise(between)]
    return "".join(s if i % 2 else s.replace("<", "\\<") for i, s in enumerate(spans)).strip()
