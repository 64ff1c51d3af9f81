"""Optional packages: whatever needs one says in the same words which extra brings it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tokenry.tokens.errors import UnsupportedError


def optional(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """A module of an optional package, imported at its first use.

    Args:
        module: What is imported, such as "sklearn.cluster".
        package: The distribution that has it, as it is named in pyproject.toml ("scikit-learn").
        extra: The extra of tokenry that brings the package.
        purpose: What it is needed for: the beginning of a sentence.

    Raises:
        UnsupportedError: It is not installed, or it is and cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        absent = (
            isinstance(error, ModuleNotFoundError)
            and (error.name or "").split(".")[0] == module.split(".")[0]
        )
        why = "is not installed" if absent else f"cannot be imported ({error})"
        raise UnsupportedError(
            f"{purpose} needs {package}, which {why}: pip install 'tokenry[{extra}]', "
            f"or pip install '.[{extra}]' in a checkout."
        ) from error
