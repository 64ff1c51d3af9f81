"""The three phases in which Adaptive Computation Modules (arXiv 2312.10193) are trained.

1. `ModuleDistillation`: each module's learners imitate the layer it stands for, with any number of them running.
2. `GatePretraining`: gates learn to say how many learners are worth running, from the errors of phase 1.
3. `EndToEnd`: the whole model learns its task while the gates keep to a budget.

All three are objectives for `tokenry.train.loop`; their batches are keyword arguments of the model's own call, with
``labels`` for the third (``input_ids`` are the labels of a language model that is given none). Phases 1 and 2 train
and checkpoint the modules only; their settings in the paper are AdamW with 1e-3 and 1e-2 and gradients clipped at 1,
those of phase 3 AdamW with 1e-4. Its mixup and cutmix are the business of the batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.models.adaptive.acm.conversion import Converted
from tokenry.models.adaptive.acm.layer import ACM, LearnerGate
from tokenry.models.adaptive.conditional import absolute_budget_loss, budget_fraction
from tokenry.tokens.errors import InputError
from tokenry.tokens.pooling import mean_pool
from tokenry.train.loop import Batch, Figures, Objective

__all__ = [
    "EndToEnd",
    "EndToEndWeights",
    "GatePretraining",
    "ModuleDistillation",
    "diversity_loss",
    "entropy_loss",
    "gate_labels",
]

_TINY = 1e-20
_IGNORE = -100  # what transformers leaves out of a loss


class ModuleDistillation(Objective):
    """Phase 1: the mean squared error of every prefix sum, from none of the learners to all, against the layer.

    The inputs are those that the layers get in the model as it was; modules do not see each other's errors. The loss
    is the mean over k = 0..N (the empty sum has an error too, and no gradient), tokens, and modules.

    Args:
        converted: the model; only its modules are trained.
        detach: let each learner learn only what it adds to those before it.
        relative: divide each module's error by the mean square of what its layer returns (ours), so that layers with
            large outputs, which language models have, do not drown the others.
    """

    def __init__(self, converted: Converted, *, detach: bool = False, relative: bool = False) -> None:
        super().__init__()
        self.acms = nn.ModuleList(converted.acms.values())
        self.detach, self.relative = detach, relative
        self.converted = converted
        self.frozen(host=converted.model)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the loss, and the relative error with all learners."""
        recorded = _recorded(self.converted, batch)
        losses, left = [], []
        for acm, (x, y) in recorded:
            error = (acm.prefixes(x, detach=self.detach).float() - y[:, None].float()).square().mean((0, 2))
            power = y.detach().float().square().mean()
            losses.append(error.mean() / power if self.relative else error.mean())
            left.append(error[-1].detach() / power)
        return torch.stack(losses).mean(), {"relative error": torch.stack(left).mean()}


def gate_labels(
    errors: Float[Tensor, "*t c"], *, ratio: float = 1.2, minimum: int = 0, as_coded: bool = False
) -> Int[Tensor, "*t"]:
    """Return how many learners each token should run: as few as possible, while the next one would help little.

    The label is the first k whose error is less than `ratio` times that of k + 1, or N if there is none. The published
    code returns one more than that, and N where the rule says 0: a token that needs no learner gets all of them.

    Args:
        errors: of the prefix sums 0 to N: the distance to what the layer returned.
        ratio: how much smaller an error has to become for a learner to be worth running.
        minimum: the lowest label.
        as_coded: label as the published code does (which has no minimum).

    Raises:
        InputError: if there are no two errors to compare, or the ratio is below 1.
    """
    n = errors.shape[-1] - 1
    if n < 1 or not 0 <= minimum <= n or ratio < 1:
        raise InputError(
            f"Labels need the errors of at least one learner and none, a minimum among them and a ratio of at least 1, "
            f"got {n + 1} errors, {minimum} and {ratio}."
        )
    now, then = errors[..., :-1], errors[..., 1:]
    little = (now < ratio * then) | (now == 0)  # 0 against 0: nothing is left to gain
    little[..., :minimum] = False
    first = torch.where(little.any(-1), little.to(torch.uint8).argmax(-1), n)
    return torch.where((first == 0) | (first == n), n, first + 1) if as_coded else first


class GatePretraining(Objective):
    """Phase 2: gates learn the labels that the errors of the learners give (`gate_labels`), by cross-entropy.

    The cross-entropy is that of the gate's logits. The published code takes the logarithm of the hard choice that was
    drawn, which ``AcmConfig(as_coded=True)`` does here too, with its labels.

    Args:
        converted: the model, after phase 1; only its gates are trained.
        ratio: see `gate_labels`.

    Raises:
        InputError: if gates have been replaced by such that cannot learn.
    """

    def __init__(self, converted: Converted, *, ratio: float = 1.2) -> None:
        super().__init__()
        gates = [acm.gate for acm in converted.acms.values()]
        if not all(isinstance(gate, LearnerGate) for gate in gates):
            raise InputError("Other gates stand in the place of those that learn: leave `with_gates` first.")
        self.gates = nn.ModuleList(gates)
        self.ratio, self.converted = ratio, converted
        self.frozen(host=converted.model)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the cross-entropy in nats a token and module, and how often the likeliest choice is the label."""
        recorded = _recorded(self.converted, batch)
        losses, right, wanted = [], [], []
        for acm, (x, y) in recorded:
            gate = acm.gate
            assert isinstance(gate, LearnerGate)  # checked when this was made
            with torch.no_grad():
                errors = (acm.prefixes(x).float() - y[:, None].float()).norm(dim=-1)
                labels = gate_labels(errors, ratio=self.ratio, minimum=acm.minimum, as_coded=acm.as_coded)
            logits = gate.logits(x).float()
            if acm.as_coded:
                losses.append(F.cross_entropy((gate(x).float() + _TINY).log(), labels))
            else:
                losses.append(F.cross_entropy(logits, labels - acm.minimum))
            right.append((logits.detach().argmax(-1) + acm.minimum == labels).float().mean())
            wanted.append(labels.float().mean() / acm.learners)
        return torch.stack(losses).mean(), {
            "right": torch.stack(right).mean(),
            "learners wanted": torch.stack(wanted).mean(),
        }


@dataclass(frozen=True, kw_only=True)
class EndToEndWeights:
    """What the parts of the loss of phase 3 count.

    Attributes:
        budget: of the distance between the computation that was chosen and the target.
        entropy: of `entropy_loss`.
        diversity: of `diversity_loss`.
    """

    budget: float = 0.1
    entropy: float = 0.05
    diversity: float = 0.05


class EndToEnd(Objective):
    """Phase 3: the model's own loss, a budget for the gates, and two terms that keep gates from choosing always alike.

    Everything in the model is trained; freeze what should not be with ``LoopSettings.lr_scale``, whose prefixes begin
    with ``model.``.

    Args:
        converted: the model, after phase 2. Its call must return a ``loss`` when it is given labels.
        target: share of the learners' computation that tokens should take on average (the paper's are 0.25 to 0.75).
        weights: of the parts of the loss.

    Raises:
        InputError: if the target is not a share, or less than the fewest learners that tokens must run.
    """

    def __init__(self, converted: Converted, target: float, weights: EndToEndWeights | None = None) -> None:
        super().__init__()
        costs = converted.costs.modules
        fewest = sum(costs[name].choices[acm.minimum] for name, acm in converted.acms.items())
        least = fewest / converted.costs.highest
        if not least <= target <= 1:
            raise InputError(
                f"The target is a share of the learners' computation, here from {least:.3g} to 1, got {target}."
            )
        self.model = converted.model
        self.target, self.weights = target, weights or EndToEndWeights()
        self.converted = converted

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the sum of the parts; shown are the task's loss and the share of computation."""
        converted = self.converted
        inputs: dict[str, Any] = dict(batch)
        if "labels" not in inputs and "input_ids" in inputs:
            padding = _mask(batch, inputs["input_ids"].shape)
            ids = inputs["input_ids"]
            inputs["labels"] = ids if padding is None else ids.masked_fill(~padding, _IGNORE)
        with converted.watch() as watched:
            task = self.model(**inputs).loss
        gates = watched.gates
        mask = _mask(batch, next(iter(gates.values())).shape[:-1])
        fraction = budget_fraction(gates, converted.costs, mask)
        loss = (
            task
            + self.weights.budget * absolute_budget_loss(fraction, self.target)
            + self.weights.entropy * entropy_loss(gates, mask)
            + self.weights.diversity * diversity_loss(gates, mask)
        )
        return loss, {"task": task.detach(), "computation": fraction.detach()}


def entropy_loss(
    gates: Mapping[str, Float[Tensor, "b s _"]], mask: Bool[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Return minus the normalised entropy of the choices within a sequence, averaged over sequences and modules.

    It is -1 where every sequence uses all choices of a module equally often, 0 where a module always chooses alike.

    Args:
        gates: module -> weights of the choices of each token.
        mask: False leaves a token out.
    """
    entropies = []
    for gate in gates.values():
        used = _sequence_means(gate, mask)
        entropies.append(-(used * (used + _TINY).log()).sum(-1) / math.log(gate.shape[-1]))
    return -torch.stack(entropies).mean()


def diversity_loss(
    gates: Mapping[str, Float[Tensor, "b s _"]], mask: Bool[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Return minus twice the mean distance between what two sequences of the batch have chosen on average.

    A sequence's average is over its tokens and modules and, as in the published code, divided by the number of choices
    and not of learners; all pairs count, those of a sequence with itself too.

    Args:
        gates: module -> weights of the choices of each token.
        mask: False leaves a token out.
    """
    means = []
    for gate in gates.values():
        choices = torch.arange(gate.shape[-1], device=gate.device) / gate.shape[-1]
        means.append(_sequence_means(gate, mask) @ choices)
    mean = torch.stack(means).mean(0)
    return -2 * (mean[:, None] - mean[None]).abs().mean()


def _sequence_means(gate: Float[Tensor, "b s c"], mask: Bool[Tensor, "b s"] | None) -> Float[Tensor, "b c"]:
    gate = gate.float()
    return gate.mean(1) if mask is None else mean_pool(gate, mask)


def _recorded(
    converted: Converted, batch: Batch
) -> list[tuple[ACM, tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]]]:
    """Each module with what its layer got and returned, tokens in a row, without padding."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    found = []
    for name, (x, y) in converted.recorded(**inputs).items():
        mask = _mask(batch, x.shape[:-1])
        x, y = (x.flatten(0, -2), y.flatten(0, -2)) if mask is None else (x[mask], y[mask])
        found.append((converted.acms[name], (x, y)))
    return found


def _mask(batch: Batch, tokens: torch.Size) -> Bool[Tensor, "..."] | None:
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None and mask.shape == tokens else None
