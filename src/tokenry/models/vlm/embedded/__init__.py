"""The embedded vision-language model: small, real, and shipped with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.models.vlm.embedded.model import PROMPT as PROMPT
    from tokenry.models.vlm.embedded.model import build_config as build_config
    from tokenry.models.vlm.embedded.model import build_processor as build_processor
    from tokenry.models.vlm.embedded.training import EmbeddedRecipe as EmbeddedRecipe

_TRAINING = "models.vlm.embedded.training"
_MOVED = {
    "Recipe": f"{_TRAINING}.EmbeddedRecipe",
    "Stage": "models.vlm.embedded.settings.PhaseSettings",
    "build": f"{_TRAINING}.build",
    "export": f"{_TRAINING}.export",
    "run": f"{_TRAINING}.run",
    "validate": f"{_TRAINING}.validate",
}

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
