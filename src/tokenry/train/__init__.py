"""Training: the one loop, its settings and recipes, what is masked, and the objectives that many systems share.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.train.loop import LoopSettings as LoopSettings
    from tokenry.train.loop import Objective as Objective
    from tokenry.train.loop import train as train

_HOME = {
    "LoopSettings": "train.loop",
    "Objective": "train.loop",
    "train": "train.loop",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
