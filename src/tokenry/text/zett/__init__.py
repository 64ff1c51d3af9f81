"""Zero-Shot Tokenizer Transfer (arXiv 2405.07883): a hypernetwork that predicts the rows of any vocabulary."""

from tokenry.text.zett.network import (
    HypernetConfig,
    HypernetOutput,
    Hypernetwork,
    MeanOfPieces,
    source_rows,
)
from tokenry.text.zett.sampler import SamplerSettings, sample_tokenizer
from tokenry.text.zett.surface import Surfaces
from tokenry.text.zett.swap import run_with_rows
from tokenry.text.zett.transfer import Zett

__all__ = [
    "HypernetConfig",
    "HypernetOutput",
    "Hypernetwork",
    "MeanOfPieces",
    "SamplerSettings",
    "Surfaces",
    "Zett",
    "run_with_rows",
    "sample_tokenizer",
    "source_rows",
]
