"""Text and tokens: vocabularies, tries, new vocabularies for models that exist, byte-level views.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.text.dynamic_tokenization import dynamic as dynamic
    from tokenry.text.lib import Lib as Lib
    from tokenry.text.trie import ByteTrie as ByteTrie
    from tokenry.text.vocabulary import ByteVocab as ByteVocab

_HOME = {
    "Lib": "text.lib",
    "dynamic": "text.dynamic_tokenization",
    "ByteTrie": "text.trie",
    "ByteVocab": "text.vocabulary",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME, moved={"byte_model": "predict.byte_model"})
