"""Training with Future Token Prediction (arXiv 2410.18160), and how smooth its states are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenry.models.language.ftp.model import FTPForCausalLM
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective

__all__ = ["FutureTokenPrediction", "adjacent_cosine", "with_positions"]


def with_positions(
    batches: Callable[[int], Batch], share: float = 0.25, seed: int = 0
) -> Callable[[int], Batch]:
    """Choose the states that each sequence of a step is trained on: a function of the step, as its tokens are.

    Args:
        batches: step -> {"input_ids"}.
        share: of the positions that have a next token; at least one.
        seed: another choice for another training.

    Raises:
        InputError: a share that is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"The share of positions must be above 0 and at most 1, got {share}.")

    def make(step: int) -> Batch:
        batch = batches(step)
        rows, length = batch["input_ids"].shape
        order = np.random.default_rng((seed, step)).random((rows, length - 1)).argsort(1)
        chosen = np.sort(order[:, : max(1, round(share * (length - 1)))], 1)
        return batch | {"positions": torch.from_numpy(chosen)}

    return make


class FutureTokenPrediction(Objective):
    """Cross-entropy of the next N tokens from single states.

    Batches hold ``input_ids`` [b, n], and may hold ``labels`` (-100 at the first token of a document keeps states from
    predicting across it) and ``positions`` [b, s], the states that are asked (see `with_positions`; all by default).

    Args:
        model: the network to train.
    """

    def __init__(self, model: FTPForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss in nats, and the mean cosine of adjacent states."""
        ids = batch["input_ids"]
        states = self.model.encoder(input_ids=ids, use_cache=False).last_hidden_state
        loss = self.model.future_loss(states, ids, batch.get("labels", ids), batch.get("positions"))
        return loss, {"adjacent": adjacent_cosine(states.detach())}


def adjacent_cosine(states: Float[Tensor, "b n d"]) -> Float[Tensor, ""]:
    """The mean cosine of the states of two positions next to each other."""
    return F.cosine_similarity(states[:, 1:].float(), states[:, :-1].float(), dim=-1).mean()
