"""The few types that everything passes around.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.tokens.budget import HALF as HALF
    from tokenry.tokens.budget import Budget as Budget
    from tokenry.tokens.budget import BudgetLike as BudgetLike
    from tokenry.tokens.codes import Codes as Codes
    from tokenry.tokens.codes import Latents as Latents
    from tokenry.tokens.errors import BudgetError as BudgetError
    from tokenry.tokens.errors import InputError as InputError
    from tokenry.tokens.errors import ReductionError as ReductionError
    from tokenry.tokens.errors import TokenryError as TokenryError
    from tokenry.tokens.errors import UnknownNameError as UnknownNameError
    from tokenry.tokens.errors import UnsupportedError as UnsupportedError
    from tokenry.tokens.method import Method as Method
    from tokenry.tokens.needs import ColumnKind as ColumnKind
    from tokenry.tokens.needs import Cut as Cut
    from tokenry.tokens.needs import CutLike as CutLike
    from tokenry.tokens.needs import Depth as Depth
    from tokenry.tokens.needs import Needs as Needs
    from tokenry.tokens.needs import ReadAttention as ReadAttention
    from tokenry.tokens.needs import Stage as Stage
    from tokenry.tokens.needs import Tower as Tower
    from tokenry.tokens.positions import Positions as Positions
    from tokenry.tokens.reduction import DenseReduction as DenseReduction
    from tokenry.tokens.reduction import Reduction as Reduction
    from tokenry.tokens.reduction import gather_rows as gather_rows
    from tokenry.tokens.reduction import prefix_mask as prefix_mask
    from tokenry.tokens.reduction import top_mask as top_mask
    from tokenry.tokens.signals import Signal as Signal
    from tokenry.tokens.signals import SignalSpec as SignalSpec
    from tokenry.tokens.view import AttentionView as AttentionView
    from tokenry.tokens.view import EncoderView as EncoderView
    from tokenry.tokens.view import TokenView as TokenView

__getattr__, __dir__, __all__ = face(__name__, moved={"best": "tokens.top_mask"})
