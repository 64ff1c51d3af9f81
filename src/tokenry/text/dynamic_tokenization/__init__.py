"""Dynamic tokenization (arXiv 2411.18553): frequent neighbours become tokens; vocabularies of millions."""

from tokenry.text.dynamic_tokenization.embedding_cache import LRUEmbeddingCache
from tokenry.text.dynamic_tokenization.large_vocabulary import LargeVocabulary
from tokenry.text.dynamic_tokenization.model import DynamicBatch, DynamicModel, dynamic
from tokenry.tokens.moved import former_names

__all__ = ["DynamicBatch", "DynamicModel", "LRUEmbeddingCache", "LargeVocabulary", "dynamic"]

__getattr__ = former_names(__name__)
