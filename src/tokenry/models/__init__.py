"""Networks that are trained whole, what loads them, and trained models made adaptive.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.models.adaptive.acm.training import EndToEnd as EndToEnd
    from tokenry.models.adaptive.acm.training import GatePretraining as GatePretraining
    from tokenry.models.adaptive.acm.training import ModuleDistillation as ModuleDistillation
    from tokenry.models.adaptive.duo_llm.training import RandomRouting as RandomRouting
    from tokenry.models.adaptive.duo_llm.training import RouterTraining as RouterTraining
    from tokenry.models.load import load_model as load_model
    from tokenry.models.pretrained import load_smollm2 as load_smollm2
    from tokenry.models.vlm.connector import Connector as Connector
    from tokenry.models.vlm.connector import IdentityConnector as IdentityConnector
    from tokenry.models.vlm.connector import PoolConnector as PoolConnector
    from tokenry.models.vlm.connector import VisualTokens as VisualTokens
    from tokenry.models.vlm.embedded.model import load_embedded as load_embedded

_HOME = {
    "Connector": "models.vlm.connector",
    "EndToEnd": "models.adaptive.acm.training",
    "GatePretraining": "models.adaptive.acm.training",
    "IdentityConnector": "models.vlm.connector",
    "ModuleDistillation": "models.adaptive.acm.training",
    "PoolConnector": "models.vlm.connector",
    "RandomRouting": "models.adaptive.duo_llm.training",
    "RouterTraining": "models.adaptive.duo_llm.training",
    "VisualTokens": "models.vlm.connector",
    "load_embedded": "models.vlm.embedded.model",
    "load_model": "models.load",
    "load_smollm2": "models.pretrained",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
