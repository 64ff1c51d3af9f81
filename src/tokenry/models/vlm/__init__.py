"""Vision-language models and their parts.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.models.vlm.connector import Connector as Connector
    from tokenry.models.vlm.connector import IdentityConnector as IdentityConnector
    from tokenry.models.vlm.connector import PoolConnector as PoolConnector
    from tokenry.models.vlm.connector import VisualTokens as VisualTokens

_HOME = {
    "Connector": "models.vlm.connector",
    "IdentityConnector": "models.vlm.connector",
    "PoolConnector": "models.vlm.connector",
    "VisualTokens": "models.vlm.connector",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
