"""From many tokens to one vector: representations that texts are searched and compared with.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

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

__getattr__, __dir__, __all__ = face(__name__)
