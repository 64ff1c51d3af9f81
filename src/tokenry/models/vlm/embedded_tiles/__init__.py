"""The embedded model for large pictures in tiles: its weights in the class of LLaVA-NeXT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.vlm.embedded_tiles.model import build_config as build_config
    from tokenry.models.vlm.embedded_tiles.model import build_processor as build_processor
    from tokenry.models.vlm.embedded_tiles.model import embedded_tiles_folder as embedded_tiles_folder

__getattr__, __dir__, __all__ = face(__name__)
