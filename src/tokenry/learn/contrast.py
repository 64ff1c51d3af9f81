"""Picture-caption contrast: what makes the [CLS] token of a vision tower mean the picture.

The symmetric InfoNCE loss of CLIP (arXiv:2103.00020), with one hard negative caption for each picture in which one
word is exchanged (after NegCLIP, arXiv:2210.01936): telling those apart takes every object of the picture.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class CaptionContrast(nn.Module):
    """A bag-of-words text tower, two projections and the contrastive loss.

    Args:
        vocabulary: number of word ids; id 0 is padding.
        width: width of the picture's [CLS] vector.
        dimension: width of the shared space.
    """

    def __init__(self, vocabulary: int, width: int, dimension: int = 128) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.text = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, dimension))
        self.picture = nn.Linear(width, dimension, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, starts at 10

    def captions(self, words: Int[Tensor, "n words"]) -> Float[Tensor, "n dimension"]:
        """Unit vectors of captions: the sum of their words, so that repetition counts, through an MLP."""
        return F.normalize(self.text(self.word_embedding(words).sum(1)).float(), dim=-1)

    def forward(
        self,
        cls: Float[Tensor, "b width"],
        words: Int[Tensor, "b words"],
        negatives: Int[Tensor, "b words"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the share of pictures whose own caption scores highest of the 2b captions."""
        pictures = F.normalize(self.picture(cls).float(), dim=-1)
        captions = self.captions(torch.cat([words, negatives]))
        logits = self.scale.clamp(max=4.6).exp() * pictures @ captions.T
        target = torch.arange(len(cls), device=cls.device)
        to_text = F.cross_entropy(logits, target)
        to_picture = F.cross_entropy(logits[:, : len(cls)].T, target)
        accuracy = (logits.argmax(1) == target).float().mean()
        return 0.5 * (to_text + to_picture), accuracy
