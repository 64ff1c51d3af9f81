"""Offline data sets: small loaders with licence and provenance.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.data.corpora import Corpus as Corpus
    from tokenry.data.corpora import corpus_names as corpus_names
    from tokenry.data.corpora import load_corpus as load_corpus
    from tokenry.data.examples import Example as Example
    from tokenry.data.examples import load_folder as load_folder
    from tokenry.data.examples import load_scenes as load_scenes
    from tokenry.data.fashion_mnist import load_fashion_mnist as load_fashion_mnist
    from tokenry.data.pictures import Picture as Picture
    from tokenry.data.pictures import open_picture as open_picture
    from tokenry.data.prompts import load_prompts as load_prompts
    from tokenry.data.stamps import load_stamps as load_stamps

_HOME = {
    "Corpus": "data.corpora",
    "Example": "data.examples",
    "Picture": "data.pictures",
    "corpus_names": "data.corpora",
    "load_corpus": "data.corpora",
    "load_fashion_mnist": "data.fashion_mnist",
    "load_folder": "data.examples",
    "load_prompts": "data.prompts",
    "load_scenes": "data.examples",
    "load_stamps": "data.stamps",
    "open_picture": "data.pictures",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
