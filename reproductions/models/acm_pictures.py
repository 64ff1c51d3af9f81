"""ACM: Fashion-MNIST pictures, and the vision transformer that learns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from tokenry.data.images.fashion_mnist import FashionMNIST
from tokenry.train.loop import Batch, Figures, Objective

_SIDE, PATCH = 32, 4


_AT_ONCE = 250  # pictures


class Classification(Objective):
    """The base model's own training."""

    def __init__(self, model: ViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        loss = self.model(**batch).loss
        return loss, {"nats": loss.detach()}


@dataclass(frozen=True)
class Pictures:
    """Pictures from 0 to 1 with a black border, and their classes."""

    pixels: Float[Tensor, "n 1 32 32"]
    labels: Int[Tensor, " n"]

    def parts(self) -> Iterator[tuple[Float[Tensor, "b 1 32 32"], Int[Tensor, " b"]]]:
        """As many as are measured at once."""
        return zip(self.pixels.split(_AT_ONCE), self.labels.split(_AT_ONCE), strict=True)


@dataclass(frozen=True)
class PictureBatches:
    """Pictures drawn at random: a function of the step."""

    pictures: Pictures
    size: int
    seed: int

    def __call__(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randint(len(self.pictures.labels), (self.size,), generator=generator)
        return {"pixel_values": self.pictures.pixels[rows], "labels": self.pictures.labels[rows]}


def pictures_of(split: FashionMNIST, count: int | None = None) -> Pictures:
    """The first pictures of a split, or all of them."""
    pixels = torch.from_numpy(split.images[:count]).float()[:, None] / 255
    border = (_SIDE - pixels.shape[-1]) // 2
    return Pictures(F.pad(pixels, (border,) * 4), torch.from_numpy(split.labels[:count]).long())


def vit(s: Any) -> ViTForImageClassification:
    """A fresh vision transformer of the design's sizes."""
    return ViTForImageClassification._from_config(
        ViTConfig(
            hidden_size=s["width"],
            intermediate_size=4 * s["width"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            image_size=_SIDE,
            patch_size=PATCH,
            num_channels=1,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        attn_implementation="eager",  # the backward pass of torch's fused attention is slow on a CPU
    )
