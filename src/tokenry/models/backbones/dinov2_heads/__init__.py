"""Heads on DINOv2-S for composed scenes and stamps: segmentation, depth, category; shipped with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.backbones.dinov2_heads.model import dinov2_for_scenes as dinov2_for_scenes
    from tokenry.models.backbones.dinov2_heads.model import heads_folder as heads_folder
    from tokenry.models.backbones.dinov2_heads.training import Dinov2HeadsRecipe as Dinov2HeadsRecipe

__getattr__, __dir__, __all__ = face(__name__)
