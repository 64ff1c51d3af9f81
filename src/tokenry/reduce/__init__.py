"""Fewer tokens: one file per method, running a model with them, and the check of a model.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.reduce.base import Reducer as Reducer
    from tokenry.reduce.base import Scorer as Scorer
    from tokenry.reduce.check import CheckReport as CheckReport
    from tokenry.reduce.registry import method as method
    from tokenry.reduce.registry import methods as methods
    from tokenry.reduce.registry import read_methods as read_methods
    from tokenry.reduce.session import encode as encode
    from tokenry.reduce.session import reduced as reduced

_HOME = {
    "CheckReport": "reduce.check",
    "Reducer": "reduce.base",
    "Scorer": "reduce.base",
    "encode": "reduce.session",
    "method": "reduce.registry",
    "methods": "reduce.registry",
    "read_methods": "reduce.registry",
    "reduced": "reduce.session",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
