"""Byte-level probabilities of a tokenized language model (arXiv 2410.09303)."""

from tokenry.predict.lm.byte_probabilities.byte_model import ByteModel, byte_model
from tokenry.predict.lm.byte_probabilities.ensemble import ByteEnsemble
from tokenry.predict.lm.byte_probabilities.fim import MiddleTokens
from tokenry.predict.lm.byte_probabilities.healing import TokenContinuation

__all__ = ["ByteEnsemble", "ByteModel", "MiddleTokens", "TokenContinuation", "byte_model"]
