"""Docstrings of entry points, read from the source: showing them must not import torch."""

from __future__ import annotations

import ast
from importlib import resources

from tokenry.tokens.errors import TokenryError


def docstring(entry_point: str) -> str:
    """Return an entry point's docstring, dedented.

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
            return text
    raise TokenryError(f"entry point {entry_point!r}: {module} defines no class or function {name!r}")
