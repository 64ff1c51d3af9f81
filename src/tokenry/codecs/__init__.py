"""Pictures, video, sound and shapes as tokens: codecs, and the quantizers in them (`tokenry.codecs.quantize`).

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.codecs import quantize as quantize
    from tokenry.codecs.audio.mu_law import MuLawCodec as MuLawCodec
    from tokenry.codecs.audio.mu_law import MuLawCodecConfig as MuLawCodecConfig
    from tokenry.codecs.base import Codec as Codec
    from tokenry.codecs.image.dct import DctCodec as DctCodec
    from tokenry.codecs.image.dct import DctCodecConfig as DctCodecConfig

_HOME = {
    "Codec": "codecs.base",
    "DctCodec": "codecs.image.dct",
    "DctCodecConfig": "codecs.image.dct",
    "MuLawCodec": "codecs.audio.mu_law",
    "MuLawCodecConfig": "codecs.audio.mu_law",
}

__all__ = sorted([*_HOME, "quantize"])

__getattr__, __dir__ = lazy(__name__, _HOME, rooms=("quantize",))
