"""The codecs that the laws hold to: small ones of every kind, each with signals that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.codecs import Codec, DctCodec, DctCodecConfig, MuLawCodec, MuLawCodecConfig


@dataclass(frozen=True)
class Member:
    """A codec for tests.

    Attributes:
        build: makes it, the same at every call.
        signals: so many signals, different ones for each seed.
    """

    build: Callable[[], Codec]
    signals: Callable[[int, int], Tensor]


def pictures(n: int, seed: int) -> Tensor:
    """Pictures with more in low frequencies than in high ones, as photographs have it."""
    noise = torch.randn(n, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
    fall = 1 / (1 + torch.fft.fftfreq(16).abs()[:, None] + torch.fft.rfftfreq(24)) ** 8
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) * fall, s=(16, 24))
    return (smooth / smooth.std() / 2).clamp(-1, 1)


def sounds(n: int, seed: int) -> Tensor:
    """A hum with hiss, not as loud as can be."""
    generator = torch.Generator().manual_seed(seed)
    pitch = 20 + 100 * torch.rand(n, 1, 1, generator=generator)
    return 0.5 * torch.sin(torch.arange(200) / pitch) + 0.1 * torch.randn(n, 1, 200, generator=generator)


def _fitted(codec: DctCodec | MuLawCodec, x: Tensor) -> Codec:
    codec.fit(x)
    return codec.eval()


MEMBERS: dict[str, Member] = {
    "dct": Member(
        lambda: _fitted(DctCodec(DctCodecConfig(patch=4, levels=(8, 5, 5), bands=1)), pictures(8, 99)),
        pictures,
    ),
    "dct-bands": Member(
        lambda: _fitted(DctCodec(DctCodecConfig(patch=8, levels=(8, 6, 5, 5), bands=4)), pictures(8, 99)),
        pictures,
    ),
    "mu-law": Member(lambda: _fitted(MuLawCodec(MuLawCodecConfig(bits=6)), sounds(8, 99)), sounds),
}


def which(property_: str) -> list[str]:
    """The members that declare something of themselves: "flexible", "causal"."""
    return [name for name, member in MEMBERS.items() if getattr(member.build(), property_)]
