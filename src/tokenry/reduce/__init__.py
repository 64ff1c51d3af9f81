"""Fewer tokens: one file per method, running a model with them, and the check of a model.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.reduce.base import Reducer as Reducer
    from tokenry.reduce.base import Scorer as Scorer
    from tokenry.reduce.check import CheckReport as CheckReport
    from tokenry.reduce.registry import read_methods as read_methods
    from tokenry.reduce.registry import reducer as reducer
    from tokenry.reduce.registry import reducers as reducers
    from tokenry.reduce.session import encode as encode
    from tokenry.reduce.session import reduced as reduced
    from tokenry.reduce.trained import TrainedReducer as TrainedReducer

_MOVED = {
    "method": "reduce.reducer",
    "methods": "reduce.reducers",
}

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
