"""What a session did to each picture of the last prompt: for looking at, drawing and accounting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw
from torch import Tensor

from tokenry.tokens import DenseReduction, InputError, Reduction, UnsupportedError


@dataclass(frozen=True, eq=False)
class ItemTrace:
    """One picture's way through the decoder.

    Attributes:
        row: its sequence in the batch.
        index: its number among all pictures of the batch, in order of appearance.
        grid: (frames, height, width) of its tokens; (1, 1, n) if they form no grid.
        n: tokens that the encoder delivered.
        layers: layers of the decoder.
        steps: (decoder layer, what was done before it), each a batch of one; layer 0 is the way in.
    """

    row: int
    index: int
    grid: tuple[int, int, int]
    n: int
    layers: int
    steps: tuple[tuple[int, Reduction | DenseReduction], ...]

    def reduction(self, layer: int | None = None) -> Reduction | DenseReduction:
        """The steps up to and including those before `layer` as one reduction of the delivered tokens; all by default.

        Raises:
            InputError: there is no such layer.
        """
        if layer is not None and not 0 <= layer < self.layers:
            raise InputError(f"Layer {layer} does not exist; this decoder has layers 0 to {self.layers - 1}.")
        whole: Reduction | DenseReduction = Reduction.identity(torch.tensor([self.n]))
        for at, step in self.steps:
            if layer is None or at <= layer:
                whole = whole.compose(step)
        return whole

    def kept_at(self, layer: int) -> Bool[Tensor, " n"]:
        """Which delivered tokens take part, alone or merged, in a decoder layer (0: what enters the language model)."""
        return self.reduction(layer).kept[0]

    @property
    def kept(self) -> Bool[Tensor, " n"]:
        """Which delivered tokens are left, alone or merged, after the last cut; `kept_at` tells of earlier ones."""
        return self.reduction().kept[0]

    @property
    def cuts(self) -> list[int]:
        """Decoder layers before which something was decided, ascending: where `kept_at` may change."""
        return sorted({at for at, _ in self.steps})

    @property
    def counts(self) -> list[int]:
        """Visual tokens of this picture in each decoder layer."""
        after = {at: int(step.count[0]) for at, step in self.steps}
        counts, now = [], self.n
        for layer in range(self.layers):
            now = after.get(layer, now)
            counts.append(now)
        return counts

    def draw(self, image: Image.Image, layer: int | None = None, frame: int = 0) -> Image.Image:
        """The picture with dropped tokens dimmed and merged tokens outlined as one area.

        Args:
            image: the picture, or the frame of the video, as the encoder saw it.
            layer: which decoder layer's tokens to show; by default what is left after the last cut.
            frame: which frame of a video it is.

        Raises:
            UnsupportedError: the tokens form no grid (tiles with newlines between rows), so they have no place on it.
            InputError: there is no such frame or layer.
        """
        canvas = image.convert("RGB").copy()
        frames, h, w = self.grid
        if (h, w) == (1, self.n) and self.n > 1:
            raise UnsupportedError(
                f"The {self.n} tokens of this item form no grid, so they cannot be drawn on its picture. "
                "`kept_at` lists which of them stayed."
            )
        if not 0 <= frame < frames:
            raise InputError(f"Frame {frame} does not exist; this item has {frames}.")
        group = self.reduction(layer).to_dense()[0].abs()
        owner = torch.where(group.sum(0) > 0, group.argmax(0), -1).view(-1, h, w)[frame].tolist()
        shade = Image.new("L", canvas.size, 0)
        pen = ImageDraw.Draw(shade)
        xs = [round(x * canvas.width / w) for x in range(w + 1)]
        ys = [round(y * canvas.height / h) for y in range(h + 1)]
        for y in range(h):
            for x in range(w):
                if owner[y][x] < 0:
                    pen.rectangle((xs[x], ys[y], xs[x + 1] - 1, ys[y + 1] - 1), fill=190)
        canvas = Image.composite(Image.new("RGB", canvas.size, (24, 26, 32)), canvas, shade)
        pen = ImageDraw.Draw(canvas)
        for y in range(h):
            for x in range(w):
                if x + 1 < w and owner[y][x] != owner[y][x + 1]:
                    pen.line((xs[x + 1], ys[y], xs[x + 1], ys[y + 1]), fill=(255, 255, 255))
                if y + 1 < h and owner[y][x] != owner[y + 1][x]:
                    pen.line((xs[x], ys[y + 1], xs[x + 1], ys[y + 1]), fill=(255, 255, 255))
        return canvas
