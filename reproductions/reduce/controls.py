"""Controls: methods with their idea taken out or turned round, so that an experiment sees what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.reduce.base import layer_at
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.tokens import Depth, Needs, Stage, TokenView


@dataclass(frozen=True, kw_only=True)
class LateRandom(RandomTokens):
    """A random choice at a layer of the language model: what FastV is without its ranking.

    Attributes:
        layer: the first layer that runs on the shorter sequence.
    """

    slug: ClassVar[str] = "late-random"
    stage: ClassVar[Stage] = Stage.LAYER

    layer: int = 2

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before `layer`."""
        return (layer_at(self.layer, depth.decoder),)


@dataclass(frozen=True, kw_only=True)
class RandomPyramid(PyramidDrop):
    """PyramidDrop's schedule with a random choice.

    Attributes:
        seed: another seed, another subset.
    """

    slug: ClassVar[str] = "random-pyramid"

    seed: int = 0

    def needs(self, layer: int, depth: Depth) -> Needs:
        """Nothing."""
        return Needs()

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """Uniform numbers, others at each cut."""
        return RandomTokens(seed=self.seed + 1000 * view.layer).score(view)


@dataclass(frozen=True, kw_only=True)
class WithoutRecovery(RecoverableCompression):
    """Recoverable Compression that recovers nothing; with an exact budget, [CLS] attention fills the places."""

    slug: ClassVar[str] = "without-recovery"

    def recovered(
        self, view: TokenView, salient: Bool[Tensor, "items n"]
    ) -> tuple[Bool[Tensor, "items n"], Float[Tensor, "items n"]]:
        """Nothing, and no similarities."""
        return torch.zeros_like(salient), torch.zeros_like(view.features[..., 0])
