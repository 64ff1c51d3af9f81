"""Byte-level probabilities of a tokenized language model (arXiv 2410.09303)."""

from tokenry.predict.lm.byte_probabilities.base import ByteLM, ByteLMState
from tokenry.predict.lm.byte_probabilities.byte_model import ByteModel, byte_model
from tokenry.predict.lm.byte_probabilities.ensemble import ByteEnsemble, ensemble
from tokenry.predict.lm.byte_probabilities.fim import MiddleTokens
from tokenry.predict.lm.byte_probabilities.healing import TokenContinuation
from tokenry.predict.lm.byte_probabilities.state import ByteState

__all__ = [
    "ByteEnsemble",
    "ByteLM",
    "ByteLMState",
    "ByteModel",
    "ByteState",
    "MiddleTokens",
    "TokenContinuation",
    "byte_model",
    "ensemble",
]
