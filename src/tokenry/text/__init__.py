"""Text and tokens: vocabularies, tries, new vocabularies for models that exist, byte-level views.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.text.dynamic_tokenization import dynamic as dynamic
    from tokenry.text.lib import Lib as Lib
    from tokenry.text.measure import bits_per_byte as bits_per_byte
    from tokenry.text.measure import bytes_per_token as bytes_per_token
    from tokenry.text.transplant import Context as Context
    from tokenry.text.transplant import Donor as Donor
    from tokenry.text.transplant import Transplanted as Transplanted
    from tokenry.text.transplant import save_transplanted as save_transplanted
    from tokenry.text.transplant import transplants as transplants
    from tokenry.text.trie import ByteTrie as ByteTrie
    from tokenry.text.vocabulary import ByteVocab as ByteVocab
    from tokenry.text.vocabulary import load_tokenizer as load_tokenizer

_MOVED = {
    "byte_model": "predict.byte_model",
}

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
