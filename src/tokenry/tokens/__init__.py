"""The few types that everything passes around."""

from tokenry.tokens.budget import Budget, BudgetLike
from tokenry.tokens.errors import (
    BudgetError,
    InputError,
    ReductionError,
    TokenryError,
    UnknownNameError,
    UnsupportedError,
)
from tokenry.tokens.reduction import DenseReduction, Reduction, best, gather_rows, prefix_mask
from tokenry.tokens.view import AttentionView, Depth, Needs, Positions, Stage, TokenView

__all__ = [
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
