"""Clustered Retrieved Augmented Generation (CRAG): summaries of clusters stand in the prompt instead of the texts."""

from tokenry.embed.crag.method import CRAG
from tokenry.embed.crag.pipeline import ClusteredRAG
from tokenry.embed.crag.summarise import ExtractiveSummariser, ModelSummariser
from tokenry.tokens.moved import former_names

__all__ = ["CRAG", "ClusteredRAG", "ExtractiveSummariser", "ModelSummariser"]

__getattr__ = former_names(__name__)
