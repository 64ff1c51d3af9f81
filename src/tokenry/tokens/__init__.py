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
    from tokenry.tokens.needs import ColumnKind, Cut, CutLike, Depth, Needs, ReadAttention, Stage, Tower
    from tokenry.tokens.positions import Positions
    from tokenry.tokens.reduction import DenseReduction, Reduction, gather_rows, prefix_mask, top_mask
    from tokenry.tokens.signals import Signal, SignalSpec
    from tokenry.tokens.view import AttentionView, EncoderView, TokenView

__all__ = [
    "HALF",
    "AttentionView",
    "Budget",
    "BudgetError",
    "BudgetLike",
    "Codes",
    "ColumnKind",
    "Cut",
    "CutLike",
    "DenseReduction",
    "Depth",
    "EncoderView",
    "InputError",
    "Latents",
    "Method",
    "Needs",
    "Positions",
    "ReadAttention",
    "Reduction",
    "ReductionError",
    "Signal",
    "SignalSpec",
    "Stage",
    "TokenView",
    "TokenryError",
    "Tower",
    "UnknownNameError",
    "UnsupportedError",
    "gather_rows",
    "prefix_mask",
    "top_mask",
]

# What needs torch is loaded on first use: whoever only wants the errors (the catalogue, `tokenry list`) does without.
_HOME = {
    "HALF": "tokens.budget",
    "Budget": "tokens.budget",
    "BudgetLike": "tokens.budget",
    "Codes": "tokens.codes",
    "DenseReduction": "tokens.reduction",
    "Reduction": "tokens.reduction",
    "top_mask": "tokens.reduction",
    "gather_rows": "tokens.reduction",
    "prefix_mask": "tokens.reduction",
    "AttentionView": "tokens.view",
    "EncoderView": "tokens.view",
    "Latents": "tokens.codes",
    "Method": "tokens.method",
    "ColumnKind": "tokens.needs",
    "Cut": "tokens.needs",
    "CutLike": "tokens.needs",
    "Depth": "tokens.needs",
    "ReadAttention": "tokens.needs",
    "Tower": "tokens.needs",
    "Needs": "tokens.needs",
    "Positions": "tokens.positions",
    "Signal": "tokens.signals",
    "SignalSpec": "tokens.signals",
    "Stage": "tokens.needs",
    "TokenView": "tokens.view",
}

__getattr__, __dir__ = lazy(__name__, _HOME, moved={"best": "tokens.top_mask"})
