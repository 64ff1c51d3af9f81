"""The few types that everything passes around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.errors import (
    BudgetError,
    InputError,
    ReductionError,
    TokenryError,
    UnknownNameError,
    UnsupportedError,
)
from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.tokens.budget import HALF, Budget, BudgetLike
    from tokenry.tokens.codes import Codes, Latents
    from tokenry.tokens.method import Method
    from tokenry.tokens.positions import Positions
    from tokenry.tokens.reduction import DenseReduction, Reduction, best, gather_rows, prefix_mask
    from tokenry.tokens.signals import Signal, SignalSpec
    from tokenry.tokens.view import AttentionView, Depth, Needs, Stage, TokenView

__all__ = [
    "HALF",
    "AttentionView",
    "Budget",
    "BudgetError",
    "BudgetLike",
    "Codes",
    "DenseReduction",
    "Depth",
    "InputError",
    "Latents",
    "Method",
    "Needs",
    "Positions",
    "Reduction",
    "ReductionError",
    "Signal",
    "SignalSpec",
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
    "HALF": "tokens.budget",
    "Budget": "tokens.budget",
    "BudgetLike": "tokens.budget",
    "Codes": "tokens.codes",
    "DenseReduction": "tokens.reduction",
    "Reduction": "tokens.reduction",
    "best": "tokens.reduction",
    "gather_rows": "tokens.reduction",
    "prefix_mask": "tokens.reduction",
    "AttentionView": "tokens.view",
    "Latents": "tokens.codes",
    "Method": "tokens.method",
    "Depth": "tokens.view",
    "Needs": "tokens.view",
    "Positions": "tokens.positions",
    "Signal": "tokens.signals",
    "SignalSpec": "tokens.signals",
    "Stage": "tokens.view",
    "TokenView": "tokens.view",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
