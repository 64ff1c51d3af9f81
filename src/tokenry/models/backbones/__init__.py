"""Encoders of pictures that stand alone: pretrained towers, and what is put on them.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.backbones.dinov2 import dinov2_folder as dinov2_folder
    from tokenry.models.backbones.dinov2_heads.model import dinov2_for_scenes as dinov2_for_scenes
    from tokenry.models.backbones.features import FeatureCache as FeatureCache
    from tokenry.models.backbones.features import FrozenTower as FrozenTower
    from tokenry.models.backbones.features import PictureSeries as PictureSeries
    from tokenry.models.backbones.heads import HeadedEncoder as HeadedEncoder
    from tokenry.models.backbones.heads import TaskHeads as TaskHeads

__getattr__, __dir__, __all__ = face(__name__)
