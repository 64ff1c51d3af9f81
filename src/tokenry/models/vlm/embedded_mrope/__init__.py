"""The embedded model with multi-axis RoPE, for pictures of any size, clips and pages; shipped with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.vlm.embedded_mrope.model import IMAGE_PROMPT as IMAGE_PROMPT
    from tokenry.models.vlm.embedded_mrope.model import VIDEO_PROMPT as VIDEO_PROMPT
    from tokenry.models.vlm.embedded_mrope.model import build_config as build_config
    from tokenry.models.vlm.embedded_mrope.model import build_processor as build_processor
    from tokenry.models.vlm.embedded_mrope.training import MropeRecipe as MropeRecipe
    from tokenry.models.vlm.frames import FrameProcessor as FrameProcessor

__getattr__, __dir__, __all__ = face(__name__)
