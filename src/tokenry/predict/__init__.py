"""What comes next: tokens of text (`tokenry.predict.lm`), and who should answer (`tokenry.predict.octopus`).

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.predict.lm.byte_model import byte_model as byte_model
    from tokenry.predict.lm.ensemble import ensemble as ensemble
    from tokenry.predict.lm.flash import Flash as Flash
    from tokenry.predict.lm.ppd import ParallelPromptDecoding as ParallelPromptDecoding
    from tokenry.predict.lm.prompt_lookup import PromptLookup as PromptLookup
    from tokenry.predict.lm.proposer import Proposer as Proposer
    from tokenry.predict.lm.token_recycling import TokenRecycling as TokenRecycling

_HOME = {
    "Flash": "predict.lm.flash",
    "ParallelPromptDecoding": "predict.lm.ppd",
    "PromptLookup": "predict.lm.prompt_lookup",
    "Proposer": "predict.lm.proposer",
    "TokenRecycling": "predict.lm.token_recycling",
    "byte_model": "predict.lm.byte_model",
    "ensemble": "predict.lm.ensemble",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
