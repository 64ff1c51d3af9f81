"""Small heads on the tokens of a frozen vision transformer: a class and a depth for each place, a category for all.

They read features, never pictures, so whatever gives a token for each patch can be judged by them: another tower, or
one in which tokens were merged and spread out again. Places are patches; what is asked of a pixel is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tokenry.tokens.errors import InputError


class TaskHeadsConfig(PretrainedConfig):
    """Sizes of the heads, and what they tell apart.

    Attributes:
        hidden_size: width of the features.
        intermediate_size: width inside the heads on patches.
        prefix: tokens of no place that come first: [CLS], registers.
        classes: what a place can show.
        categories: what a picture as a whole can be.
    """

    model_type = "tokenry-task-heads"

    def __init__(
        self,
        hidden_size: int = 384,
        intermediate_size: int = 256,
        prefix: int = 1,
        classes: Sequence[str] = ("nothing", "something"),
        categories: Sequence[str] = ("one", "other"),
        **kwargs: Any,
    ) -> None:
        self.hidden_size, self.intermediate_size, self.prefix = hidden_size, intermediate_size, prefix
        self.classes, self.categories = list(classes), list(categories)
        super().__init__(**kwargs)


class TaskHeads(PreTrainedModel):
    """Segmentation and depth from each patch token by itself, the category from [CLS] and the mean of the patches.

    A patch is judged by its own token alone: what it says of its surroundings is what the tower put into it.
    """

    config_class = TaskHeadsConfig
    config: TaskHeadsConfig

    def __init__(self, config: TaskHeadsConfig) -> None:
        super().__init__(config)
        self.segmentation = _mlp(config, len(config.classes))
        self.height = _mlp(config, 1)
        pooled = config.hidden_size * (2 if config.prefix else 1)
        self.category = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, len(config.categories)))
        self.post_init()

    def segment(
        self, features: Float[Tensor, "b n d"], side: int | None = None, grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Logits of the classes at each patch, or at each pixel of a square picture of `side`.

        Args:
            features: of all tokens, those of no place first.
            side: pixels that the patches are interpolated to.
            grid: rows and columns of the patches; by default as many of both.

        Raises:
            InputError: features of another width, or no grid of that many patches.
        """
        return _enlarged(self._map(self.segmentation, features, grid), side)

    def depth(
        self, features: Float[Tensor, "b n d"], side: int | None = None, grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b h w"]:
        """How high each patch, or each pixel, lies (`tokenry.data.pixel_depth`); arguments as of `segment`."""
        return _enlarged(self._map(self.height, features, grid), side)[:, 0]

    def classify(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Logits of the categories.

        Raises:
            InputError: features of another width.
        """
        return self.categorise(self.pool(features))

    def pool(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b p"]:
        """What a category is told from: the first token, if it has no place, and the mean of the patches."""
        features = self._checked(features)
        mean = features[:, self.config.prefix :].mean(1)
        return torch.cat([features[:, 0], mean], -1) if self.config.prefix else mean

    def categorise(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        """Logits of the categories from what `pool` gives."""
        logits: Tensor = self.category(pooled)
        return logits

    def _map(
        self, head: nn.Module, features: Float[Tensor, "b n d"], grid: tuple[int, int] | None
    ) -> Float[Tensor, "b c h w"]:
        patches = self._checked(features)[:, self.config.prefix :]
        rows, columns = grid or (round(patches.shape[1] ** 0.5),) * 2
        if rows * columns != patches.shape[1]:
            raise InputError(
                f"{patches.shape[1]} patch tokens (behind {self.config.prefix} of no place) do not make {rows} x "
                f"{columns}: give the rows and columns of the patches as `grid`."
            )
        return head(patches).transpose(1, 2).unflatten(2, (rows, columns))

    def _checked(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if features.ndim != 3 or features.shape[2] != self.config.hidden_size:
            raise InputError(
                f"These heads read features [pictures, tokens, {self.config.hidden_size}], got "
                f"{list(features.shape)}: they belong to another tower."
            )
        return features.to(self.dtype)


@dataclass(frozen=True, eq=False)
class HeadedEncoder:
    """An encoder of pictures with heads on it: pictures in; what each pixel shows, how high it lies, what it is, out.

    Pictures are seen square, and maps are square.

    Attributes:
        encode: gives the features of pictures, a token for each patch: `FrozenTower`, or one that runs on fewer tokens
            and spreads them out again.
        heads: what reads them.
        side: pixels of a side of the maps.
    """

    encode: Callable[[Sequence[Image.Image]], Float[Tensor, "b n d"]]
    heads: TaskHeads
    side: int

    @torch.no_grad()
    def segment(self, images: Sequence[Image.Image]) -> Int[Tensor, "b h w"]:
        """The class of each pixel, by its position in `heads.config.classes`."""
        return self.heads.segment(self.encode(images), self.side).argmax(1)

    @torch.no_grad()
    def depth(self, images: Sequence[Image.Image]) -> Float[Tensor, "b h w"]:
        """How high each pixel lies: 0 the background, 1 what lies on it, 2 what lies on that."""
        return self.heads.depth(self.encode(images), self.side)

    @torch.no_grad()
    def classify(self, images: Sequence[Image.Image]) -> list[str]:
        """The most likely category of each picture."""
        best = self.heads.classify(self.encode(images)).argmax(1)
        return [self.heads.config.categories[i] for i in best.tolist()]


def _mlp(config: TaskHeadsConfig, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(config.hidden_size),
        nn.Linear(config.hidden_size, config.intermediate_size),
        nn.GELU(),
        nn.Linear(config.intermediate_size, outputs),
    )


def _enlarged(maps: Float[Tensor, "b c h w"], side: int | None) -> Float[Tensor, "b c y x"]:
    if side is None:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
