"""What experiments on reducers note of the tokens: distances, attention, and what a method would choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.bench.reproduce import TokenRecorder
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.tokens import Depth, Needs, ReadAttention, Stage, TokenView
from tokenry.tokens.pooling import mean_pool


@dataclass(frozen=True, kw_only=True)
class LeastDistance(TokenRecorder):
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
class AttentionToPicture(TokenRecorder):
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
class Recovery(TokenRecorder):
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
