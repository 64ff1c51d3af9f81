"""From many tokens to one vector: representations that texts are searched and compared with.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.embed.chat import ChatModel as ChatModel
    from tokenry.embed.chat import TokenRuler as TokenRuler
    from tokenry.embed.crag.method import CRAG as CRAG
    from tokenry.embed.crag.pipeline import ClusteredRAG as ClusteredRAG
    from tokenry.embed.crag.summarise import ExtractiveSummariser as ExtractiveSummariser
    from tokenry.embed.crag.summarise import ModelSummariser as ModelSummariser
    from tokenry.embed.dupmae.encoder import DupmaeEncoder as DupmaeEncoder
    from tokenry.embed.dupmae.training import DupmaeObjective as DupmaeObjective
    from tokenry.embed.encoder import SentenceEncoder as SentenceEncoder
    from tokenry.embed.index import VectorIndex as VectorIndex

_HOME = {
    "CRAG": "embed.crag.method",
    "ChatModel": "embed.chat",
    "ClusteredRAG": "embed.crag.pipeline",
    "DupmaeEncoder": "embed.dupmae.encoder",
    "DupmaeObjective": "embed.dupmae.training",
    "ExtractiveSummariser": "embed.crag.summarise",
    "ModelSummariser": "embed.crag.summarise",
    "SentenceEncoder": "embed.encoder",
    "TokenRuler": "embed.chat",
    "VectorIndex": "embed.index",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
