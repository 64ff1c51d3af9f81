"""From many tokens to one vector: representations that texts are searched and compared with.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.embed.chat import ChatModel as ChatModel
    from tokenry.embed.chat import TokenRuler as TokenRuler
    from tokenry.embed.clustered_rag import ClusteredRAG as ClusteredRAG
    from tokenry.embed.crag import CRAG as CRAG
    from tokenry.embed.dupmae import DupmaeEncoder as DupmaeEncoder
    from tokenry.embed.encoder import SentenceEncoder as SentenceEncoder
    from tokenry.embed.index import VectorIndex as VectorIndex
    from tokenry.embed.summarise import ExtractiveSummariser as ExtractiveSummariser
    from tokenry.embed.summarise import ModelSummariser as ModelSummariser

_HOME = {
    "CRAG": "embed.crag",
    "ChatModel": "embed.chat",
    "ClusteredRAG": "embed.clustered_rag",
    "DupmaeEncoder": "embed.dupmae",
    "ExtractiveSummariser": "embed.summarise",
    "ModelSummariser": "embed.summarise",
    "SentenceEncoder": "embed.encoder",
    "TokenRuler": "embed.chat",
    "VectorIndex": "embed.index",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
