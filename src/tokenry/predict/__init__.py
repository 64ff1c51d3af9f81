"""What comes next: tokens of text (`tokenry.predict.lm`), tokens of pictures (`tokenry.predict.image`), and who should
answer (`tokenry.predict.octopus_v4`).

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.predict.image.autoregressive import AutoregressiveConfig as AutoregressiveConfig
    from tokenry.predict.image.autoregressive import AutoregressiveGenerator as AutoregressiveGenerator
    from tokenry.predict.image.base import TokenGenerator as TokenGenerator
    from tokenry.predict.lm.byte_probabilities.byte_model import byte_model as byte_model
    from tokenry.predict.lm.byte_probabilities.ensemble import ensemble as ensemble
    from tokenry.predict.lm.calibrate import Calibration as Calibration
    from tokenry.predict.lm.calibrate import calibrate as calibrate
    from tokenry.predict.lm.flash.drafter import FlashConfig as FlashConfig
    from tokenry.predict.lm.flash.drafter import FlashDrafter as FlashDrafter
    from tokenry.predict.lm.flash.proposer import Flash as Flash
    from tokenry.predict.lm.generate import decoder as decoder
    from tokenry.predict.lm.generate import decoder_names as decoder_names
    from tokenry.predict.lm.generate import generate as generate
    from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding as ParallelPromptDecoding
    from tokenry.predict.lm.prompt_lookup import PromptLookup as PromptLookup
    from tokenry.predict.lm.proposer import Proposer as Proposer
    from tokenry.predict.lm.token_recycling import TokenRecycling as TokenRecycling
    from tokenry.predict.octopus_v4.adapter import with_lora as with_lora
    from tokenry.predict.octopus_v4.dispatch import Octopus as Octopus
    from tokenry.predict.octopus_v4.dispatch import WorkerError as WorkerError
    from tokenry.predict.octopus_v4.graph import Edge as Edge
    from tokenry.predict.octopus_v4.graph import Graph as Graph
    from tokenry.predict.octopus_v4.graph import Node as Node
    from tokenry.predict.octopus_v4.router import FunctionalRouter as FunctionalRouter
    from tokenry.predict.octopus_v4.router import Written as Written
    from tokenry.predict.octopus_v4.tokens import CallPrompt as CallPrompt
    from tokenry.predict.octopus_v4.tokens import add_functional_tokens as add_functional_tokens
    from tokenry.predict.octopus_v4.training import CallBatches as CallBatches
    from tokenry.predict.octopus_v4.training import CallObjective as CallObjective
    from tokenry.predict.octopus_v4.training import RoutingExample as RoutingExample

__getattr__, __dir__, __all__ = face(__name__)
