"""Fine-tuning an encoder to classify texts, and a linear probe of what it knows without."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.tokens.errors import InputError
from tokenry.tokens.pooling import Pooling, pool
from tokenry.train.loop import Batch, Figures, Objective
from tokenry.train.masked_lm import hidden_states


class TextClassification(Objective):
    """Cross-entropy of a linear layer on one vector a text; the encoder learns too.

    Args:
        encoder: of the BERT kind, without a head.
        classes: number of labels.
        pooling: which vector.
        dropout: on that vector.
    """

    def __init__(self, encoder: Any, classes: int, *, pooling: Pooling = "cls", dropout: float = 0.1) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"Classification needs at least two classes, got {classes}")
        self.encoder = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def features(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The vectors that are classified."""
        hidden = hidden_states(self.encoder, batch["input_ids"], batch)
        return pool(hidden, batch["attention_mask"], self.pooling)

    def logits(self, batch: Batch) -> Float[Tensor, "b c"]:
        """One logit a class."""
        return self.classifier(self.dropout(self.features(batch))).float()

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, and the share of texts that were classified rightly.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``labels`` [b].
        """
        logits = self.logits(batch)
        loss = F.cross_entropy(logits, batch["labels"])
        return loss, {"right": (logits.argmax(-1) == batch["labels"]).float().mean()}


def linear_probe(
    features: Float[Tensor, "b d"],
    labels: Int[Tensor, "b"],
    tested: Float[Tensor, "t d"],
    *,
    penalty: float = 1e-2,
) -> Int[Tensor, "t"]:
    """Logistic regression on standardised features (L2, to convergence by L-BFGS).

    Args:
        features, labels: to fit.
        tested: to label.
        penalty: half its product with the squared weights is added to the mean cross-entropy.

    Returns:
        The most likely label of each row of ``tested``.
    """
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    known, unknown = ((x.double() - mean) / scale for x in (features, tested))
    classes = int(labels.max()) + 1
    weight = torch.zeros(known.shape[1], classes, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(known @ weight + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return (unknown @ weight + bias).detach().argmax(1)
