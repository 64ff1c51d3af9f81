"""Companded samples, as telephones have them: the baseline that learned audio tokenizers are held against."""

from __future__ import annotations

import math
from typing import ClassVar, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from tokenry.codecs.base import Codec, common_grid
from tokenry.tokens.codes import Codes
from tokenry.tokens.errors import InputError
from tokenry.tokens.signals import Signal, SignalSpec


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class MuLawCodecConfig(PreTrainedConfig):
    """Configuration of `MuLawCodec`.

    Attributes:
        bits: of a sample.
        rate: samples a second; None: any.
    """

    model_type = "tokenry-mu-law"

    bits: int = 8
    rate: float | None = None


class MuLawCodec(Codec):
    """Mu-law codec for sound (G.711's companding, WaveNet's tokens); a baseline, not a published system.

    ``sign(x) ln(1 + mu |x|) / ln(1 + mu)`` with mu = 2^bits - 1 is cut into 2^bits equal cells, one token a sample,
    and decoded at the middle of the cell: with 8 bits and 8,000 samples a second the 64 kbit/s of a telephone. Its one
    weight is the loudest sample, 1 unless `fit` says otherwise.

    Args:
        config: sizes.
    """

    config_class = MuLawCodecConfig
    config: MuLawCodecConfig
    causal: ClassVar[bool] = True

    def __init__(self, config: MuLawCodecConfig) -> None:
        super().__init__(config)
        if not 1 <= config.bits <= 16:
            raise InputError(f"A sample has 1 to 16 bits, got {config.bits}.")
        self.peak = nn.Parameter(torch.empty(()))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.ones_(self.peak)

    @property
    def signal(self) -> SignalSpec:
        """One channel of sound in [-1, 1], of any length."""
        return SignalSpec(Signal.AUDIO, 1, -1, 1, multiple=(1,), rate=self.config.rate)

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "b 1 s"]) -> None:
        """Let the range end at the loudest of some samples, rounded up so that bfloat16 holds it.

        Raises:
            InputError: sounds that the codec does not take.
        """
        self.signal.check(x)
        self.peak.copy_(2.0 ** x.abs().max().clamp(min=2.0**-16).log2().ceil())

    def _encode(self, x: Float[Tensor, "b 1 s"], generator: torch.Generator | None) -> Codes:
        size = 2**self.config.bits
        x = (x.float() / self.peak.float()).clamp(-1, 1)
        y = torch.sign(x) * torch.log1p((size - 1) * x.abs()) / math.log(size)
        ids = ((y + 1) / 2 * size).long().clamp(max=size - 1).transpose(1, 2)
        length = torch.full_like(ids[:, 0, 0], x.shape[2])
        grid = torch.stack([length, torch.ones_like(length), torch.ones_like(length)], 1)
        return Codes(ids, length, (size,), grid, None, self.fingerprint())

    def _decode(
        self,
        codes: Codes,
        size: tuple[int, ...] | None,
        steps: int | None,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "b 1 s"]:
        samples, cells = common_grid(codes)[0], 2**self.config.bits
        if size is not None and size != (samples,):
            raise InputError(f"These codes are of {samples} samples, not of {size}.")
        y = (codes.ids.transpose(1, 2) + 0.5) / cells * 2 - 1
        loudness = torch.expm1(y.abs() * math.log(cells)) / (cells - 1)
        return (self.peak.float() * torch.sign(y) * loudness).to(self.dtype)
