"""Text and tokens: vocabularies, tries, new vocabularies for models that exist, byte-level views.

Names are loaded on first use. `byte_model` lives in `tokenry.predict`, above this room: it is here because whoever
looks for the bytes of a language model looks here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

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

__getattr__, __dir__ = lazy(__name__, _HOME)
