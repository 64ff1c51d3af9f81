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
        entry_point: "package.module:name".

    Raises:
        TokenryError: If the module, the name in it or its docstring does not exist.
    """
    node, _ = _definition(entry_point)
    if (text := ast.get_docstring(node)) is None:
        raise TokenryError(f"Entry point {entry_point!r} has no docstring.")
    return text


def defined_at(entry_point: str) -> str:
    """Return where an entry point is defined, as "package.module:name": a package hands out names of its modules.

    Raises:
        TokenryError: If the module or the name in it does not exist.
    """
    return _definition(entry_point)[1]


def _definition(entry_point: str) -> tuple[ast.ClassDef | ast.FunctionDef, str]:
    """The definition in the source, and where it stands."""
    module, _, name = entry_point.partition(":")
    package, *folders, last = module.split(".")
    base = resources.files(package).joinpath(*folders)
    file = next((f for f in (base / f"{last}.py", base / last / "__init__.py") if f.is_file()), None)
    if file is None:
        raise TokenryError(f"Entry point {entry_point!r}: there is no module {module}")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    # A face imports what it offers `if TYPE_CHECKING:`.
    offered = [node for block in body if isinstance(block, ast.If) for node in block.body]
    for node in (*body, *offered):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, entry_point
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for found in node.names:
                if (found.asname or found.name) == name:
                    return _definition(f"{node.module}:{found.name}")
    raise TokenryError(f"Entry point {entry_point!r}: {module} defines no class or function {name!r}")


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
