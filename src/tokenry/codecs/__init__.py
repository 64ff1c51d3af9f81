"""Pictures, video, sound and shapes as tokens: codecs, and the quantizers in them (`tokenry.codecs.quantize`).

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.codecs import quantize as quantize
    from tokenry.codecs.audio.mu_law import MuLawCodec as MuLawCodec
    from tokenry.codecs.audio.mu_law import MuLawCodecConfig as MuLawCodecConfig
    from tokenry.codecs.base import Codec as Codec
    from tokenry.codecs.image.dct import DctCodec as DctCodec
    from tokenry.codecs.image.dct import DctCodecConfig as DctCodecConfig

__getattr__, __dir__, __all__ = face(__name__)
