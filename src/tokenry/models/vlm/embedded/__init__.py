"""The embedded vision-language model: small, real, and shipped with the package."""

from tokenry.models.vlm.embedded.model import PROMPT, build_config, build_processor, load_embedded

__all__ = ["PROMPT", "build_config", "build_processor", "load_embedded"]
