"""Text and tokens: vocabularies, tries, new vocabularies for models that exist, byte-level views.

Names are loaded on first use. `byte_model` lives in `tokenry.predict`, above this room: it is here because whoever
looks for the bytes of a language model looks here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenry.predict.lm.byte_model import byte_model as byte_model
    from tokenry.text.dynamic_tokenization import dynamic as dynamic
    from tokenry.text.trie import ByteTrie as ByteTrie
    from tokenry.text.vocabulary import ByteVocab as ByteVocab

_HOME = {
    "byte_model": "predict.lm.byte_model",
    "dynamic": "text.dynamic_tokenization",
    "ByteTrie": "text.trie",
    "ByteVocab": "text.vocabulary",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tokenry.text' has no attribute {name!r}")
    value = getattr(import_module(f"tokenry.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
