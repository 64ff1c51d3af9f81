"""Cabrita (arXiv 2308.11878): a vocabulary extended by another language, and training continued in it."""

from tokenry.text.cabrita.vocabulary import Extension, extend_tokenizer, train_pieces
from tokenry.tokens.moved import former_names

__all__ = ["Extension", "extend_tokenizer", "train_pieces"]

__getattr__ = former_names(__name__)
