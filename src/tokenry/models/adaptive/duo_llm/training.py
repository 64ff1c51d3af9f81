"""Training of Duo-LLM (arXiv 2410.10846): both feed-forward layers under random routing, then the routers.

The paper's stage 2 between these is no training: it is the oracle of `tokenry.models.adaptive.duo_llm.oracle`. What
the paper leaves open and is ours: both choices (or all three with skip) are as likely in stage 1, the temperature of
the routers falls geometrically, and `fit_budget` moves routers that were trained towards a budget onto it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.hosts.host import evaluating
from tokenry.models.adaptive.conditional import CostTable, ModuleCost, budget_fraction, squared_budget_loss
from tokenry.models.adaptive.duo_llm.model import Choice, DuoForCausalLM, Mix
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective

__all__ = ["RandomRouting", "RouterTraining", "annealed", "fit_budget"]


class _Partial(Objective):
    """An objective that trains, and checkpoints, some modules of a conversion; the rest is frozen.

    Args:
        duo: the conversion.
        learning: what learns; None: everything.
    """

    duo: DuoForCausalLM

    def __init__(self, duo: DuoForCausalLM, learning: Sequence[nn.Module] | None) -> None:
        super().__init__()
        self.learning = duo if learning is None else nn.ModuleList(learning)
        self.learning.requires_grad_(True)
        self.frozen(duo=duo)  # all that is not learning


class RandomRouting(_Partial):
    """Stage 1: tokens choose at random in every layer, so that both feed-forward layers serve in all contexts.

    Batches hold `input_ids`, int64 [b, s], and may hold `labels` (-100: not learnt) and `attention_mask`.

    Args:
        duo: The conversion.
        learn: "all" where the model is trained from scratch; "small" trains the small feed-forward layers of a model
            that is trained already, and leaves everything else as it is.
        lm: Weight of the loss of the language model. With 0 nothing is propagated back through the layers.
        distil: Weight of the distance of each small layer's output from the big one's for the same input, as a share of
            the big one's squared length.
        probabilities: Of the choices small, big (and skip); alike by default.

    Raises:
        InputError: If there is nothing to learn from, or the probabilities are none.
    """

    def __init__(
        self,
        duo: DuoForCausalLM,
        *,
        learn: str = "all",
        lm: float = 1.0,
        distil: float = 0.0,
        probabilities: Sequence[float] | None = None,
    ) -> None:
        if learn not in ("all", "small"):
            raise InputError(f'Learn is "all" or "small", got {learn!r}')
        if lm < 0 or distil < 0 or lm + distil == 0:
            raise InputError(
                f"The weights of the losses are 0 or more, and not both 0; got lm={lm}, distil={distil}"
            )
        p = [1.0] * duo.choices if probabilities is None else list(probabilities)
        if len(p) != duo.choices or min(p) < 0 or sum(p) <= 0:
            raise InputError(
                f"This model has {duo.choices} choices, each of a probability of 0 or more; got {p}"
            )
        super().__init__(duo, None if learn == "all" else [part.small for part in duo.feed_forwards])
        self.lm, self.distil, self.probabilities = lm, distil, tuple(p)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the loss; the figures are bits per token under random routing, and the distance."""
        ids, duo = batch["input_ids"], self.duo
        choices = self._draw(ids, len(duo.feed_forwards))
        with duo.routed(choices), _inputs(duo) as inputs, torch.set_grad_enabled(self.lm > 0):
            out = duo(
                input_ids=ids,
                attention_mask=batch.get("attention_mask"),
                labels=batch.get("labels", ids),
                use_cache=False,
            )
        figures = {"bits_per_token": out.loss.detach() / math.log(2)}
        loss = self.lm * out.loss
        if self.distil:
            distance = self._distance(inputs, batch.get("attention_mask"))
            figures["distance"] = distance.detach()
            loss = loss + self.distil * distance
        return loss, figures

    def _draw(self, ids: Int[Tensor, "b s"], layers: int) -> Int[Tensor, "b s l"]:
        weights = torch.tensor(self.probabilities, dtype=torch.float32, device=ids.device)
        return torch.multinomial(weights, ids.numel() * layers, replacement=True).view(*ids.shape, layers)

    def _distance(
        self, inputs: Sequence[Float[Tensor, "b s d"]], mask: Int[Tensor, "b s"] | None
    ) -> Float[Tensor, ""]:
        """Mean over the layers of the squared distance, as a share of the squared length."""
        found = []
        for part, x in zip(self.duo.feed_forwards, inputs, strict=True):
            x = x.detach() if mask is None else x.detach()[mask.bool()]
            with torch.no_grad():
                wanted = part.big(x).float()
            found.append((part.small(x).float() - wanted).square().sum() / wanted.square().sum())
        return torch.stack(found).mean()


class RouterTraining(_Partial):
    """Stage 3: the routers learn which tokens need a big layer, within one budget for all layers and tokens.

    The loss is that of the language model plus ``weight (mean probability of big - target)^2``: no layer has a budget
    of its own. Batches hold `input_ids`, and may hold `labels`, `attention_mask` and a `temperature` (see `annealed`).

    Args:
        duo: The conversion, after stage 1.
        target: Share of big layers among all choices of all tokens.
        weight: Of the budget.
        gumbel: Draw choices, with the gradient of the mix, where the default mixes both feed-forward layers.
        learn: "routers", or "all" to let the network adapt.

    Raises:
        InputError: If the target is not a share, or the weight is negative.
    """

    def __init__(
        self,
        duo: DuoForCausalLM,
        target: float,
        *,
        weight: float = 10.0,
        gumbel: bool = False,
        learn: str = "routers",
    ) -> None:
        if not 0 <= target <= 1 or weight < 0:
            raise InputError(
                f"The target is a share from 0 to 1 and the weight 0 or more, got {target} and {weight}"
            )
        if learn not in ("routers", "all"):
            raise InputError(f'Learn is "routers" or "all", got {learn!r}')
        super().__init__(duo, None if learn == "all" else [part.router for part in duo.feed_forwards])
        self.target, self.weight, self.gumbel = target, weight, gumbel

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the loss; the figures are bits per token and the mean probability of a big layer."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        temperature = float(batch["temperature"]) if "temperature" in batch else 1.0
        with self.duo.routed(Mix(temperature, self.gumbel)), self.duo.traced() as trace:
            loss = self.duo(
                input_ids=ids, attention_mask=mask, labels=batch.get("labels", ids), use_cache=False
            ).loss
        share = big_share(trace.probabilities, mask)
        figures = {"bits_per_token": loss.detach() / math.log(2), "big": share.detach()}
        return loss + self.weight * squared_budget_loss(share, self.target), figures


def big_share(
    probabilities: Float[Tensor, "b s l c"], mask: Int[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean probability of the big choice over layers and tokens that are no padding.

    Args:
        probabilities: Of the choices; see `tokenry.models.adaptive.duo_llm.model.Trace`.
        mask: 0 at padding.
    """
    layers, choices = probabilities.shape[2:]
    counted = [int(c == Choice.BIG) for c in range(choices)]
    table = CostTable({str(layer): ModuleCost(tuple(counted)) for layer in range(layers)})
    gates = {str(layer): probabilities[:, :, layer] for layer in range(layers)}
    return budget_fraction(gates, table, None if mask is None else mask.bool())


def annealed(
    batches: Callable[[int], Batch], steps: int, start: float = 1.0, end: float = 0.1
) -> Callable[[int], Batch]:
    """Add the temperature of the routers to batches; it falls geometrically, as a function of the step.

    Raises:
        InputError: If a temperature or the number of steps is not positive.
    """
    if not (start > 0 and end > 0 and steps > 0):
        raise InputError(f"Temperatures and steps are above 0, got {start}, {end} and {steps}")

    def make(step: int) -> Batch:
        done = min(1.0, step / max(1, steps - 1))
        return batches(step) | {"temperature": torch.tensor(start * (end / start) ** done)}

    return make


@torch.no_grad()
def fit_budget(
    duo: DuoForCausalLM,
    ids: Int[Tensor, "b s"],
    target: float,
    *,
    attention_mask: Int[Tensor, "b s"] | None = None,
    rounds: int = 16,
) -> float:
    """Shift the routers' logits of big, all by one number, until the share of big layers is the target.

    Routers learn a mean probability; which side of one half a token is on can still put hard choices off the budget.

    Args:
        duo: The conversion; its routers' biases change. It is left in the mode that it was in.
        ids: Texts to measure on, not those of the test.
        target: Share of big layers among all choices of all tokens.
        attention_mask: 0 at padding.
        rounds: Halvings of the interval in which the shift is sought, each a pass over the texts.

    Returns:
        The share on these texts.

    Raises:
        InputError: If the target is not a share.
    """
    if not 0 <= target <= 1:
        raise InputError(f"The target is a share of big layers from 0 to 1, got {target}")
    biases = [part.router.bias for part in duo.feed_forwards]
    start = [float(bias[Choice.BIG]) for bias in biases]
    counted = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()

    def share(shift: float) -> float:
        for bias, value in zip(biases, start, strict=True):
            bias[Choice.BIG] = value + shift
        with duo.routed("router"), duo.traced() as trace:
            duo(input_ids=ids, attention_mask=attention_mask, use_cache=False)
        return float((trace.choices[counted] == Choice.BIG).float().mean())

    with evaluating(duo):
        low, high = -32.0, 32.0  # logits of a trained router are a few units
        tried = {0.0: share(0.0)}
        for _ in range(rounds):
            middle = (low + high) / 2
            tried[middle] = share(middle)
            low, high = (middle, high) if tried[middle] < target else (low, middle)
        return share(min(tried, key=lambda shift: abs(tried[shift] - target)))


@contextmanager
def _inputs(duo: DuoForCausalLM) -> Iterator[list[Tensor]]:
    """Inside, keep what goes into the feed-forward part of each layer."""
    seen: list[Tensor] = []
    handles = [
        part.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for part in duo.feed_forwards
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
