"""Offline data sets: small loaders with licence and provenance.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.data.images.fashion_mnist import load_fashion_mnist as load_fashion_mnist
    from tokenry.data.images.pictures import Picture as Picture
    from tokenry.data.images.pictures import open_picture as open_picture
    from tokenry.data.images.stamps import load_stamps as load_stamps
    from tokenry.data.questions.examples import Example as Example
    from tokenry.data.questions.examples import load_clips as load_clips
    from tokenry.data.questions.examples import load_folder as load_folder
    from tokenry.data.questions.examples import load_pages as load_pages
    from tokenry.data.questions.examples import load_scenes as load_scenes
    from tokenry.data.scenes.clips import make_clip as make_clip
    from tokenry.data.scenes.compose import make_scene as make_scene
    from tokenry.data.scenes.maps import pixel_class_names as pixel_class_names
    from tokenry.data.scenes.maps import pixel_classes as pixel_classes
    from tokenry.data.scenes.maps import pixel_depth as pixel_depth
    from tokenry.data.scenes.pages import make_page as make_page
    from tokenry.data.scenes.style import FINE as FINE
    from tokenry.data.scenes.style import LARGE as LARGE
    from tokenry.data.scenes.style import OVERLAPPING as OVERLAPPING
    from tokenry.data.scenes.style import SMALL as SMALL
    from tokenry.data.scenes.style import TILED as TILED
    from tokenry.data.scenes.style import SceneStyle as SceneStyle
    from tokenry.data.text.corpora import Corpus as Corpus
    from tokenry.data.text.corpora import corpus_names as corpus_names
    from tokenry.data.text.corpora import load_corpus as load_corpus
    from tokenry.data.text.prompts import load_prompts as load_prompts

__getattr__, __dir__, __all__ = face(__name__)
