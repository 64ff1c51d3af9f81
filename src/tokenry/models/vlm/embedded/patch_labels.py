"""Per-patch objectives: every visual token must say what its own patch shows, and where it is.

Keeps the information of a vision tower local, so that dropping the wrong tokens costs something. With a global loss
alone late patch tokens all carry the answer, and a random selection is as good as any.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class PatchLabels(nn.Module):
    """A linear classifier on patch tokens with cross-entropy; background patches count less, there are so many.

    Args:
        width: width of the tokens.
        classes: number of classes; class 0 is background.
        background: weight of background patches.
    """

    weight: Tensor

    def __init__(self, width: int, classes: int, background: float = 0.2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        weight = torch.ones(classes)
        weight[0] = background
        self.register_buffer("weight", weight, persistent=False)

    def forward(
        self, tokens: Float[Tensor, "b n width"], labels: Int[Tensor, "b n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the accuracy on patches that are not background."""
        logits = self.head(self.norm(tokens)).float().flatten(0, 1)
        target = labels.flatten()
        loss = F.cross_entropy(logits, target, weight=self.weight)
        shown = target > 0
        accuracy = (logits.argmax(1) == target)[shown].float().mean()
        return loss, accuracy


class PatchPlaces(nn.Module):
    """Two linear classifiers on patch tokens: row and column of the patch.

    Without it a tower that is asked for the content of each patch alone forgets where the patch was, and a language
    model, whose attention knows distances only, cannot say where it found something.

    Args:
        width: width of the tokens.
        grid: rows and columns of patches.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(grid))

    def forward(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, ""]:
        """Mean of the two cross-entropies."""
        rows, columns = self.grid
        logits = self.head(self.norm(tokens)).float().flatten(0, 1)
        index = torch.arange(rows * columns, device=tokens.device).repeat(len(tokens))
        return 0.5 * (
            F.cross_entropy(logits[:, :rows], index // columns)
            + F.cross_entropy(logits[:, rows:], index % columns)
        )
