"""Networks that are trained whole: backbones, language models, the embedded vision-language model."""

from tokenry.models.embedded import load_embedded

__all__ = ["load_embedded"]
