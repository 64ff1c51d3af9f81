"""Docstrings of entry points, read from the source: showing a page must not import torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib import resources

from tokenry.tokens.errors import TokenryError


@dataclass(frozen=True)
class EntryPoint:
    """What an entry point's source says about it.

    Attributes:
        text: Its docstring, dedented.
        signature: How it is called: a class with its public fields and their defaults, or a function's definition.
    """

    text: str
    signature: str


def of(entry_point: str) -> EntryPoint:
    """Read an entry point's docstring and signature.

    Args:
        entry_point: "package.module:name"; the name must be defined in that module, not imported into it.

    Raises:
        TokenryError: If the module, the name in it or its docstring does not exist.
    """
    module, _, name = entry_point.partition(":")
    package, *folders, last = module.split(".")
    base = resources.files(package).joinpath(*folders)
    file = next((f for f in (base / f"{last}.py", base / last / "__init__.py") if f.is_file()), None)
    if file is None:
        raise TokenryError(f"entry point {entry_point!r}: there is no module {module}")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            if (text := ast.get_docstring(node)) is None:
                raise TokenryError(f"entry point {entry_point!r} has no docstring")
            return EntryPoint(text, _signature(node))
    raise TokenryError(f"entry point {entry_point!r}: {module} defines no class or function {name!r}")


def _signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returns}"
    fields = [
        ast.unparse(statement)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and not ast.unparse(statement.target).startswith("_")
        and not ast.unparse(statement.annotation).startswith("ClassVar")
    ]
    return f"{node.name}({', '.join(fields)})"
