"""What comes next: tokens of text (`tokenry.predict.lm`), tokens of pictures (`tokenry.predict.image`), and who should
answer (`tokenry.predict.octopus_v4`).

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.predict.image.autoregressive import AutoregressiveConfig as AutoregressiveConfig
    from tokenry.predict.image.autoregressive import AutoregressiveGenerator as AutoregressiveGenerator
    from tokenry.predict.image.base import TokenGenerator as TokenGenerator
    from tokenry.predict.lm.byte_probabilities.byte_model import byte_model as byte_model
    from tokenry.predict.lm.byte_probabilities.ensemble import ensemble as ensemble
    from tokenry.predict.lm.calibrate import Calibration as Calibration
    from tokenry.predict.lm.calibrate import calibrate as calibrate
    from tokenry.predict.lm.flash.proposer import Flash as Flash
    from tokenry.predict.lm.generate import decoder as decoder
    from tokenry.predict.lm.generate import generate as generate
    from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding as ParallelPromptDecoding
    from tokenry.predict.lm.prompt_lookup import PromptLookup as PromptLookup
    from tokenry.predict.lm.proposer import Proposer as Proposer
    from tokenry.predict.lm.token_recycling import TokenRecycling as TokenRecycling
    from tokenry.predict.octopus_v4.training import CallBatches as CallBatches
    from tokenry.predict.octopus_v4.training import CallObjective as CallObjective
    from tokenry.predict.octopus_v4.training import RoutingExample as RoutingExample

_HOME = {
    "AutoregressiveConfig": "predict.image.autoregressive",
    "AutoregressiveGenerator": "predict.image.autoregressive",
    "Calibration": "predict.lm.calibrate",
    "CallBatches": "predict.octopus_v4.training",
    "CallObjective": "predict.octopus_v4.training",
    "Flash": "predict.lm.flash.proposer",
    "ParallelPromptDecoding": "predict.lm.ppd.proposer",
    "PromptLookup": "predict.lm.prompt_lookup",
    "Proposer": "predict.lm.proposer",
    "RoutingExample": "predict.octopus_v4.training",
    "TokenGenerator": "predict.image.base",
    "TokenRecycling": "predict.lm.token_recycling",
    "byte_model": "predict.lm.byte_probabilities.byte_model",
    "calibrate": "predict.lm.calibrate",
    "decoder": "predict.lm.generate",
    "ensemble": "predict.lm.byte_probabilities.ensemble",
    "generate": "predict.lm.generate",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
