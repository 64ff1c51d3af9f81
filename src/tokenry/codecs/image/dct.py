"""Block transform coding: the baseline that learned image tokenizers are held against."""

from __future__ import annotations

import functools
import math
from typing import ClassVar, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from tokenry.codecs.base import Codec, common_grid
from tokenry.codecs.quantize.fsq import FiniteScalarQuantizer
from tokenry.tokens.codes import Codes
from tokenry.tokens.errors import InputError
from tokenry.tokens.precision import without_autocast
from tokenry.tokens.signals import Signal, SignalSpec


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class DctCodecConfig(PreTrainedConfig):
    """Configuration of `DctCodec`.

    Attributes:
        channels: of the pictures.
        patch: side of a block, in pixels.
        levels: of the coefficients of a token, the most important one first (see `FiniteScalarQuantizer`).
        bands: tokens of a block; each holds the next ``len(levels)`` coefficients.
    """

    model_type = "tokenry-dct"

    channels: int = 3
    patch: int = 8
    levels: list[int] | tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    bands: int = 3


class DctCodec(Codec):
    """Block transform codec for pictures (DCT, scalar quantization), progressive; a baseline, not a published system.

    Blocks of pixels go through the orthonormal discrete cosine transform, over colours too; the most important
    coefficients, divided by their spread, are quantized by FSQ, ``len(levels)`` of them to a token. Tokens go band by
    band, as in a progressive JPEG: first one for each block with its most important coefficients, then one for each
    block with the next ones. What a prefix leaves out is decoded at its mean. A coefficient is decoded to where a
    normal variable lies on average within its level.

    It works at once, with spreads that fall with frequency; `fit` takes spreads and importance from pictures.

    Args:
        config: sizes.
    """

    config_class = DctCodecConfig
    config: DctCodecConfig
    flexible: ClassVar[bool] = True

    order: Tensor

    def __init__(self, config: DctCodecConfig) -> None:
        super().__init__(config)
        self.quantizer = FiniteScalarQuantizer(tuple(config.levels))
        whole, kept = config.channels * config.patch**2, config.bands * self.quantizer.dim
        if not 1 <= kept <= whole:
            raise InputError(
                f"{config.bands} bands of {self.quantizer.dim} coefficients are {kept}, of the {whole} that a block "
                "has: choose 1 band or more, and larger blocks or fewer levels."
            )
        self.mean = nn.Parameter(torch.empty(kept))
        self.spread = nn.Parameter(torch.empty(kept))
        self.register_buffer("order", torch.empty(kept, dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            c, p = self.config.channels, self.config.patch
            colour, y, x = torch.meshgrid(torch.arange(c), torch.arange(p), torch.arange(p), indexing="ij")
            frequency = (2 * colour + y + x).flatten()
            order = frequency.argsort(stable=True)[: len(self.mean)]
            init.copy_(self.order, order)
            init.zeros_(self.mean)
            init.copy_(self.spread, p * math.sqrt(c) / 2 / (1.0 + frequency[order]) ** 1.5)

    @property
    def signal(self) -> SignalSpec:
        """Pictures in [-1, 1] whose sides are multiples of a block's."""
        return SignalSpec(Signal.IMAGE, self.config.channels, -1, 1, multiple=(self.config.patch,) * 2)

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "b c h w"]) -> None:
        """Take the coefficients' means and spreads, and which of them matter most, from pictures.

        Raises:
            InputError: pictures that the codec does not take.
        """
        self.signal.check(x)
        coefficients = self._transform(x).flatten(0, 1)
        spread = coefficients.std(0, correction=0)
        order = spread.argsort(descending=True, stable=True)[: len(self.mean)]
        self.order.copy_(order)
        self.mean.copy_(coefficients.mean(0)[order])
        self.spread.copy_(spread[order].clamp(min=1e-6))

    def _encode(self, x: Float[Tensor, "b c h w"], generator: torch.Generator | None) -> Codes:
        p, d = self.config.patch, self.quantizer.dim
        kept = (self._transform(x)[..., self.order] - self.mean.float()) / self.spread.float()
        z = kept.unflatten(2, (-1, d)).transpose(1, 2).flatten(1, 2)
        ids = self.quantizer.encode(z)
        grid = (1, x.shape[2] // p, x.shape[3] // p)
        return Codes(
            ids=ids,
            length=torch.full_like(ids[:, 0, 0], ids.shape[1]),
            sizes=self.quantizer.sizes,
            grid=ids.new_tensor(grid).expand(len(ids), 3),
            scales=(grid,) * self.config.bands,
            codec=self.fingerprint(),
        )

    def _decode(
        self,
        codes: Codes,
        size: tuple[int, ...] | None,
        steps: int | None,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "b c h w"]:
        (_, h, w), p, d = common_grid(codes), self.config.patch, self.quantizer.dim
        if size is not None and size != (h * p, w * p):
            raise InputError(f"These codes are of pictures of {h * p} x {w * p} pixels, not of {size}.")
        ids = nn.functional.pad(codes.ids, (0, 0, 0, self.config.bands * h * w - codes.width), value=-1)
        z = _levels_on_average(self.quantizer.levels).to(ids.device)
        z = z[self.quantizer.digits(ids), torch.arange(d, device=ids.device)].masked_fill(ids < 0, 0)
        kept = z.unflatten(1, (self.config.bands, h * w)).transpose(1, 2).flatten(2)
        full = kept.new_zeros(len(ids), h * w, self.config.channels * p * p)
        full[..., self.order] = kept * self.spread.float() + self.mean.float()
        return self._inverse(full, h, w).to(self.dtype)

    def _transform(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n k"]:
        """The coefficients of every block, in float32."""
        p = self.config.patch
        blocks = x.float().unflatten(3, (-1, p)).unflatten(2, (-1, p))
        with without_autocast(x):
            found = torch.einsum(
                "bchywx,kc,uy,vx->bhwkuv", blocks, _dct(x.shape[1], x), _dct(p, x), _dct(p, x)
            )
        return found.flatten(3).flatten(1, 2)

    def _inverse(self, coefficients: Float[Tensor, "b n k"], h: int, w: int) -> Float[Tensor, "b c h1 w1"]:
        c, p, like = self.config.channels, self.config.patch, coefficients
        blocks = coefficients.view(-1, h, w, c, p, p)
        with without_autocast(like):
            pixels = torch.einsum(
                "bhwkuv,kc,uy,vx->bchywx", blocks, _dct(c, like), _dct(p, like), _dct(p, like)
            )
        return pixels.flatten(4).flatten(2, 3)


def _dct(n: int, like: Tensor) -> Float[Tensor, "n n"]:
    """The orthonormal DCT-II: row k holds the cosine of frequency k."""
    k, i = torch.arange(n, device=like.device)[:, None], torch.arange(n, device=like.device)
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
    return torch.where(k == 0, math.sqrt(1 / n), basis)


@functools.cache
def _levels_on_average(levels: tuple[int, ...]) -> Float[Tensor, "l d"]:
    """Where a standard normal variable lies on average that was quantized to each level, for each number."""
    quantizer = FiniteScalarQuantizer(levels)
    line = torch.linspace(-6, 6, 12001)[None, :, None].expand(1, -1, len(levels))
    digits: Int[Tensor, "n d"] = quantizer.digits(quantizer.encode(line))[0]
    weight = torch.exp(-line[0].square() / 2)
    mass = torch.zeros(max(levels), len(levels)).scatter_add_(0, digits, weight)
    return torch.zeros_like(mass).scatter_add_(0, digits, weight * line[0]) / mass.clamp(min=1e-30)
