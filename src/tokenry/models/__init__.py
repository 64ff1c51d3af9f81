"""Networks that are trained whole, what loads them, and trained models made adaptive.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.adaptive.acm.layer import AcmConfig as AcmConfig
    from tokenry.models.adaptive.acm.training import EndToEnd as EndToEnd
    from tokenry.models.adaptive.acm.training import GatePretraining as GatePretraining
    from tokenry.models.adaptive.acm.training import ModuleDistillation as ModuleDistillation
    from tokenry.models.adaptive.conditional import compute_map as compute_map
    from tokenry.models.adaptive.duo_llm.oracle import oracle as oracle
    from tokenry.models.adaptive.duo_llm.training import RandomRouting as RandomRouting
    from tokenry.models.adaptive.duo_llm.training import RouterTraining as RouterTraining
    from tokenry.models.backbones.dinov2_heads.model import dinov2_for_scenes as dinov2_for_scenes
    from tokenry.models.vlm.connector import Connector as Connector
    from tokenry.models.vlm.connector import IdentityConnector as IdentityConnector
    from tokenry.models.vlm.connector import PoolConnector as PoolConnector
    from tokenry.models.vlm.connector import VisualTokens as VisualTokens
    from tokenry.models.vlm.dinov2_smollm2.folder import dinov2_smollm2_folder as dinov2_smollm2_folder
    from tokenry.models.vlm.embedded.model import PROMPT as PROMPT

_MOVED = {
    "load_embedded": "models.load:load_embedded",
    "load_model": "models.load:load_model",
    "load_smollm2": "models.load:load_smollm2",
}

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
