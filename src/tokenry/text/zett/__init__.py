"""Zero-Shot Tokenizer Transfer (arXiv 2405.07883): a hypernetwork that predicts the rows of any vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.text.zett.network import HypernetConfig as HypernetConfig
    from tokenry.text.zett.network import HypernetOutput as HypernetOutput
    from tokenry.text.zett.network import Hypernetwork as Hypernetwork
    from tokenry.text.zett.network import MeanOfPieces as MeanOfPieces
    from tokenry.text.zett.network import source_rows as source_rows
    from tokenry.text.zett.sampler import SamplerSettings as SamplerSettings
    from tokenry.text.zett.sampler import sample_tokenizer as sample_tokenizer
    from tokenry.text.zett.surface import Surfaces as Surfaces
    from tokenry.text.zett.swap import run_with_rows as run_with_rows
    from tokenry.text.zett.transfer import Zett as Zett

__getattr__, __dir__, __all__ = face(__name__)
