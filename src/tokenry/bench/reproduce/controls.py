"""Controls and gauges: reducers that exist for the sake of an experiment, not to be used.

A control is a method with its idea taken out or turned round. A gauge changes nothing: put into a chain of methods, it
reads something off the tokens that reach it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.reduce import Reducer
from tokenry.reduce.base import layer_at
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.tokens import BudgetLike, Depth, Needs, ReadAttention, Reduction, Stage, TokenView
from tokenry.tokens.pooling import mean_pool

# --- controls ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReverseCls(FasterVLM):
    """FasterVLM upside down: keep the tokens that [CLS] looks at least."""

    slug: ClassVar[str] = "reverse-cls"

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The negative of the head-mean [CLS] probability."""
        return -super().score(view)


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


# --- gauges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gauge(Reducer):
    """Lets all tokens pass and notes a figure per item.

    Attributes:
        log: (name of the figure, its values for the items of a batch), in order. The only state among the reducers:
            a gauge belongs to one run of one experiment.
    """

    budget: BudgetLike = 1.0
    log: list[tuple[str, Float[Tensor, "items ..."]]] = field(default_factory=list, compare=False, repr=False)

    @abstractmethod
    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """The figures of the items, by name."""

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Read, and keep everything."""
        self.log.extend((name, values.cpu()) for name, values in self.read(view).items())
        return Reduction.identity(view.length, view.features.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The configuration, without what was noted."""
        return {name: value for name, value in super().to_json().items() if name != "log"}


@dataclass(frozen=True, kw_only=True)
class LeastDistance(Gauge):
    """The least cosine distance between two tokens of a picture, where it stands in the chain."""

    slug: ClassVar[str] = "least-distance"

    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """1 - cos of the two most similar tokens."""
        unit = unit_rows(view.features)
        pair = view.valid[:, :, None] & view.valid[:, None, :]
        likeness = cosines(unit, unit).masked_fill(~pair, -torch.inf)
        likeness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        return {"least distance": 1 - likeness.amax((1, 2))}


@dataclass(frozen=True, kw_only=True)
class AttentionToPicture(Gauge):
    """The mean share of its attention that text after the picture puts on visual tokens, layer by layer.

    Attributes:
        which: "previous" reads every layer but the last, "next" the last.
    """

    slug: ClassVar[str] = "attention-to-picture"
    stage: ClassVar[Stage] = Stage.LAYER

    which: str = "previous"

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before every layer but the first; or before the last."""
        return tuple(range(1, depth.decoder)) if self.which == "previous" else (depth.decoder - 1,)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The attention of the layer just run, or of the one about to run."""
        return Needs(attention=ReadAttention(self.which))

    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """Head mean, then the mean over the text tokens behind the picture."""
        text = view.columns == 2
        mass = view.attention.mass(view.columns == 1).mean(1)
        mean = mean_pool(mass, text)
        layer = view.layer - 1 if self.which == "previous" else view.layer
        return {f"attention in layer {layer}": mean[view.row]}


@dataclass(frozen=True, kw_only=True)
class Recovery(Gauge):
    """What Recoverable Compression would keep and recover, and what [CLS] looks at.

    Attributes:
        of: the method asked.
    """

    slug: ClassVar[str] = "recovery"

    of: RecoverableCompression = field(default_factory=RecoverableCompression)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """What the method needs."""
        return self.of.needs(layer, depth)

    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """Both sets as 0 and 1, and the [CLS] scores."""
        salient, score = self.of.salient(view)
        recovered, _ = self.of.recovered(view, salient)
        return {"salient": salient.float(), "recovered": recovered.float(), "score": score}

    def to_json(self) -> dict[str, Any]:
        """The configuration, the method's within."""
        return super().to_json() | {"of": self.of.to_json()}
