"""Text and tokens: vocabularies, tries, new vocabularies for models that exist, byte-level views.

Everything here is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenry.text.trie import ByteTrie as ByteTrie
    from tokenry.text.vocabulary import ByteVocab as ByteVocab

_HOME = {
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
