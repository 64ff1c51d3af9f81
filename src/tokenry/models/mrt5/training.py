"""Training MrT5 (arXiv 2410.20771): cross-entropy, and a price on what the encoder keeps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.models.mrt5.model import MrT5ForConditionalGeneration
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective
from tokenry.train.rate_control import PIController

__all__ = ["MrT5Objective", "deletion_rate"]


class MrT5Objective(Objective):
    """``CE + alpha * mean(G) + beta * penalty``, with alpha steered toward a deletion rate.

    The mean is over tokens that are no padding; gates are at most 0, so a positive alpha rewards deletion. A controller
    raises alpha while less is deleted than asked for: what it learns from a batch counts from the next step on, as in
    the published code. The penalty (the mean excess of attention scores over 5, behind the gate) keeps a model that is
    trained from scratch from outshouting its gates.

    Batches hold ``input_ids`` and ``labels`` (-100: not learnt), and may hold ``attention_mask``. The controller and
    the count of steps are part of the checkpoint.

    Args:
        model: the network to train. Without a learnt gate there is nothing to steer, and the loss is the cross-entropy.
        target: the deletion rate; None leaves alpha at `alpha`.
        alpha: the fixed weight, where there is no target.
        beta: weight of the penalty; 0.5 in the paper where training is from scratch, 0 where it is not.
        delay: steps before deletion is rewarded.
        clamp: price ``G`` no lower than twice the threshold, so that no gate is pushed beyond what saturates it.
        hard_share: every so manieth step (1 / share) runs with hard deletion.
        controller: gains other than the paper's.
    """

    steps: Tensor

    def __init__(
        self,
        model: MrT5ForConditionalGeneration,
        target: float | None = None,
        *,
        alpha: float = 0.0,
        beta: float = 0.0,
        delay: int = 0,
        clamp: bool = False,
        hard_share: float = 0.0,
        controller: PIController | None = None,
    ) -> None:
        super().__init__()
        if (target is not None and not 0 <= target < 1) or not 0 <= hard_share <= 1 or min(beta, delay) < 0:
            raise InputError(
                "The target is a deletion rate in [0, 1), hard_share a share, beta and delay not negative; got "
                f"{target}, {hard_share}, {beta}, {delay}."
            )
        self.model, self.target, self.alpha = model, target, alpha
        self.beta, self.delay, self.clamp, self.hard_share = beta, delay, clamp, hard_share
        self.controller = controller or PIController()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, and the cross-entropy, deletion rate and alpha to show."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        done = int(self.steps)
        hard = int((done + 1) * self.hard_share) > int(
            done * self.hard_share
        )  # spread evenly, hence resumable
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            labels=batch["labels"],
            deletion="hard" if self.training and hard else None,
            penalise=self.beta > 0,
        )
        loss, figures = output.loss, {"cross-entropy": output.loss.detach()}
        if output.score_penalty is not None:
            loss = loss + self.beta * output.score_penalty
        if output.gates is not None and self.model.config.gate == "learned":
            real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
            config = self.model.config
            gates = output.gates.clamp(min=2 * config.gate_threshold) if self.clamp else output.gates
            alpha = torch.tensor(self.alpha) if self.target is None else self.controller.alpha
            if done >= self.delay:
                loss = loss + alpha.to(gates) * gates[real].mean()
            rate = deletion_rate(output.gates.detach(), real, config.gate_threshold)
            if self.training and self.target is not None and done >= self.delay:
                self.controller.step(self.target, rate)
            figures |= {"deleted": rate, "alpha": alpha}
        if self.training:
            self.steps += 1
        return loss, figures


def deletion_rate(
    gates: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"], threshold: float
) -> Float[Tensor, ""]:
    """The share of tokens, padding aside, whose gate is below the threshold."""
    return (gates[mask] < threshold).float().mean()
