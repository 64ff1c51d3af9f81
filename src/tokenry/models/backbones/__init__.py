"""Encoders of pictures that stand alone: pretrained towers, and what is put on them.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.backbones.dinov2 import dinov2_folder as dinov2_folder

__getattr__, __dir__, __all__ = face(__name__)
