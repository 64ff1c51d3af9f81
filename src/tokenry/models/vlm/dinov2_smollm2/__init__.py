"""A small LLaVA of real parts: DINOv2-S/14, a projector, SmolLM2-135M with an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.vlm.dinov2_smollm2.folder import dinov2_smollm2_folder as dinov2_smollm2_folder
    from tokenry.models.vlm.dinov2_smollm2.model import assemble as assemble
    from tokenry.models.vlm.dinov2_smollm2.training import RealRecipe as RealRecipe

__getattr__, __dir__, __all__ = face(__name__)
