"""Picture-caption contrast: what makes the [CLS] token of a vision tower mean the picture.

The symmetric InfoNCE loss of CLIP (arXiv:2103.00020), with one hard negative caption for each picture in which one
word is exchanged (after NegCLIP, arXiv:2210.01936): telling those apart takes every object of the picture.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.models.vlm.embedded.caption_head import CaptionHead


class CaptionContrast(nn.Module):
    """The contrastive loss in the joint space of a caption head.

    Args:
        head: maps pictures and captions into one space.
    """

    def __init__(self, head: CaptionHead) -> None:
        super().__init__()
        self.head = head
        self.scale = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, starts at 10

    def forward(
        self,
        cls: Float[Tensor, "b width"],
        words: Int[Tensor, "b words"],
        negatives: Int[Tensor, "b words"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the share of pictures whose own caption scores highest of the 2b captions."""
        pictures = self.head.pictures(cls)
        captions = self.head.texts(torch.cat([words, negatives]))
        logits = self.scale.clamp(max=4.6).exp() * pictures @ captions.T
        target = torch.arange(len(cls), device=cls.device)
        to_text = F.cross_entropy(logits, target)
        to_picture = F.cross_entropy(logits[:, : len(cls)].T, target)
        accuracy = (logits.argmax(1) == target).float().mean()
        return 0.5 * (to_text + to_picture), accuracy
