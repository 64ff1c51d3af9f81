"""The few types that everything passes around."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenry.tokens.errors import (
    BudgetError,
    InputError,
    ReductionError,
    TokenryError,
    UnknownNameError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from tokenry.tokens.budget import HALF, Budget, BudgetLike
    from tokenry.tokens.positions import Positions
    from tokenry.tokens.reduction import DenseReduction, Reduction, best, gather_rows, prefix_mask
    from tokenry.tokens.view import AttentionView, Depth, Needs, Stage, TokenView

__all__ = [
    "HALF",
    "AttentionView",
    "Budget",
    "BudgetError",
    "BudgetLike",
    "DenseReduction",
    "Depth",
    "InputError",
    "Needs",
    "Positions",
    "Reduction",
    "ReductionError",
    "Stage",
    "TokenView",
    "TokenryError",
    "UnknownNameError",
    "UnsupportedError",
    "best",
    "gather_rows",
    "prefix_mask",
]

# What needs torch is loaded on first use: whoever only wants the errors (the catalogue, `tokenry list`) does without.
_HOME = {
    "HALF": "budget",
    "Budget": "budget",
    "BudgetLike": "budget",
    "DenseReduction": "reduction",
    "Reduction": "reduction",
    "best": "reduction",
    "gather_rows": "reduction",
    "prefix_mask": "reduction",
    "AttentionView": "view",
    "Depth": "view",
    "Needs": "view",
    "Positions": "positions",
    "Stage": "view",
    "TokenView": "view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tokenry.tokens' has no attribute {name!r}")
    value = getattr(import_module(f"tokenry.tokens.{_HOME[name]}"), name)
    globals()[name] = value
    return value
