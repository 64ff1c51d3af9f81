"""Dynamic tokenization (arXiv 2411.18553): frequent neighbours become tokens; vocabularies of millions."""

from tokenry.text.dynamic_tokenization.embedding_cache import LRUEmbeddingCache
from tokenry.text.dynamic_tokenization.large_vocabulary import LargeVocabulary
from tokenry.text.dynamic_tokenization.model import DynamicBatch, DynamicModel, dynamic

__all__ = ["DynamicBatch", "DynamicModel", "LRUEmbeddingCache", "LargeVocabulary", "dynamic"]
