"""Training: the one loop, its settings and recipes, what is masked, and the objectives that many systems share.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.train.loop import train as train
    from tokenry.train.objective import Objective as Objective
    from tokenry.train.phases import Phase as Phase
    from tokenry.train.phases import train_phases as train_phases
    from tokenry.train.players import adaptive_weight as adaptive_weight
    from tokenry.train.processes import gathered as gathered
    from tokenry.train.settings import LoopSettings as LoopSettings

__getattr__, __dir__, __all__ = face(__name__)
