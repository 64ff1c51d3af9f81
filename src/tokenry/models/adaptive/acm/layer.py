"""Adaptive Computation Modules (arXiv 2312.10193): a layer split into learners; a token runs as many as it needs.

An ACM stands in the place of a feed-forward layer or of a linear projection of a trained transformer. Its N learners
together cost what the layer cost; learner i refines what the first i - 1 have computed, and a gate of a few hundred
weights says for every token how many of them to run. Computation that a token did not choose is not executed.
`tokenry.models.adaptive.acm.conversion.convert` puts ACMs into a model; `tokenry.models.adaptive.acm.training` trains
them in the paper's phases.

Where paper and published code differ, and what is done here:

- the loop of the code leaves out its upper bound, so that tokens with the highest choice of a batch miss their last
  learner; here they run it,
- the code runs the skipping loop in training too, where gates have no gradient from the task and learn from the
  auxiliary losses alone; here training computes ``y = sum_k g_k S_k`` with straight-through gates,
- the code's gate is a product of matrices without anything between them; here GELU stands between them.

``AcmConfig(as_coded=True)`` has the code's behaviour in all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.models.adaptive.conditional import ModuleCost, gumbel_st
from tokenry.tokens.errors import InputError

__all__ = [
    "ACM",
    "AcmConfig",
    "FixedLearnerGate",
    "LearnerGate",
    "LearnerSize",
    "RandomLearnerGate",
    "ThresholdGate",
]


@dataclass(frozen=True, kw_only=True)
class AcmConfig:
    """How layers become ACMs.

    Attributes:
        learners: N, the number of learners of a module; a token chooses from 0 to N.
        gate_width: width of the gate's two hidden layers.
        tau: temperature of the Gumbel-softmax with which gates choose in training.
        ffn_minimum: fewest learners of a token in a feed-forward layer; the residual stream carries it past 0.
        linear_minimum: fewest learners of a token in a projection.
        form: of the learners. "mlp" is the paper's: two matrices with the layer's activation between them (none for a
            projection). "layer" (ours) gives the learners of a gated feed-forward layer (SwiGLU) its three matrices.
        start: of the learners' weights. "random" is the paper's. "slices" (ours, for feed-forward layers) deals the
            neurons of the layer out to the learners, the ones with the largest weights first, so that all learners
            together compute what the layer did (up to a bias of its output); gated layers need ``form="layer"``.
        as_coded: follow the published code where it differs from the paper, see the module's text.
    """

    learners: int = 4
    gate_width: int = 16
    tau: float = 0.8
    ffn_minimum: int = 0
    linear_minimum: int = 1
    form: str = "mlp"
    start: str = "random"
    as_coded: bool = False

    def __post_init__(self) -> None:
        if self.learners < 1:
            raise InputError(f"An ACM has at least 1 learner, got learners={self.learners}.")
        if self.gate_width < 1 or not self.tau > 0:
            raise InputError(
                f"gate_width must be at least 1 and tau above 0, got {self.gate_width} and {self.tau}."
            )
        for name in ("ffn_minimum", "linear_minimum"):
            if not 0 <= getattr(self, name) <= self.learners:
                raise InputError(
                    f"{name} must lie between 0 and the {self.learners} learners, got {getattr(self, name)}."
                )
        if self.form not in ("mlp", "layer") or self.start not in ("random", "slices"):
            raise InputError(
                f'Form is "mlp" or "layer" and start is "random" or "slices", got {self.form!r} and {self.start!r}.'
            )


@dataclass(frozen=True)
class LearnerSize:
    """The shape of one learner.

    Attributes:
        width: of what it reads and writes, D.
        hidden: neurons, h.
        multiplies: whether it has a third matrix, whose product with the input multiplies the activations (GLU).
        bias: whether its neurons have a bias. Its output never has one: the empty sum has to be 0.
    """

    width: int
    hidden: int
    multiplies: bool = False
    bias: bool = True

    @property
    def cost(self) -> int:
        """Multiply-adds per token, one for each weight."""
        return self.hidden * ((3 if self.multiplies else 2) * self.width + self.bias)

    @classmethod
    def dividing(cls, cost: int, learners: int, width: int, *, multiplies: bool, bias: bool) -> LearnerSize:
        """The size at which that many learners cost together what is given (within the rounding of a neuron each).

        Args:
            cost: multiply-adds of the layer to be split: 768 x 3072 of a ViT-B makes 4 learners of 768 neurons, a
                projection 768 x 768 makes 4 of 96.
            learners: N.
            width: D.
            multiplies: see `LearnerSize`.
            bias: see `LearnerSize`.

        Raises:
            InputError: if the layer is too small to be split so finely.
        """
        neuron = cls(width, 1, multiplies, bias).cost
        hidden = round(cost / (learners * neuron))
        if hidden < 1:
            raise InputError(
                f"A layer of {cost} weights cannot be split into {learners} learners of width {width}: "
                "take fewer learners."
            )
        return cls(width, hidden, multiplies, bias)


class LearnerGate(nn.Module):
    """Choose for each token how many learners it runs: an MLP of two narrow hidden layers over the choices.

    In training choices are drawn (straight-through Gumbel-softmax); in evaluation the likeliest is taken.

    Args:
        width: of the tokens.
        learners: N.
        minimum: the lowest choice that there is.
        hidden: width of the hidden layers.
        tau: of the Gumbel-softmax.
        linear: leave the activations out, as the published code does.
    """

    def __init__(
        self,
        width: int,
        learners: int,
        *,
        minimum: int = 0,
        hidden: int = 16,
        tau: float = 0.8,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.minimum, self.tau = minimum, tau
        between: type[nn.Module] = nn.Identity if linear else nn.GELU
        self.net = nn.Sequential(
            nn.Linear(width, hidden),
            between(),
            nn.Linear(hidden, hidden),
            between(),
            nn.Linear(hidden, learners + 1 - minimum),
        )

    @property
    def cost(self) -> int:
        """Multiply-adds per token."""
        return sum(p.numel() for p in self.parameters())

    def logits(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t c"]:
        """Return scores of the choices from `minimum` to N."""
        scores: Tensor = self.net(x)
        return scores

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t c"]:
        """Return one-hot choices over 0 to N, with a gradient for the logits in training."""
        logits = self.logits(x)
        if self.training:
            drawn = gumbel_st(logits, self.tau)
        else:
            drawn = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        return F.pad(drawn, (self.minimum, 0))


class FixedLearnerGate(nn.Module):
    """The same choice for every token, whatever it is: what an ACM has to beat.

    Args:
        choice: learners to run.
        learners: N.

    Raises:
        InputError: if there are not that many.
    """

    def __init__(self, choice: int, learners: int) -> None:
        super().__init__()
        _check_choice(choice, learners)
        self.choice, self.learners = choice, learners

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t c"]:
        """Return the same one-hot row everywhere."""
        gates = x.new_zeros(*x.shape[:-1], self.learners + 1)
        gates[..., self.choice] = 1
        return gates


class RandomLearnerGate(nn.Module):
    """Choices drawn at random, with given frequencies: shows what choosing well is worth.

    Args:
        frequencies: of the choices 0 to N.
        seed: of the draws.
    """

    def __init__(self, frequencies: Float[Tensor, " c"], seed: int = 0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t c"]:
        """Draw one-hot rows."""
        tokens = x.shape[:-1]
        drawn = torch.multinomial(
            self.frequencies, tokens.numel(), replacement=True, generator=self._generator
        )
        return F.one_hot(drawn, len(self.frequencies)).to(x).view(*tokens, -1)


class ThresholdGate(nn.Module):
    """The fewest learners that a gate finds enough with at least this probability: one trained model, many budgets.

    Ours; the paper trains a model for each budget. At a half it is the median of what the gate believes.

    Args:
        gate: a trained gate.
        threshold: from 0 (always the minimum) to 1.

    Raises:
        InputError: if the threshold is no probability.
    """

    def __init__(self, gate: LearnerGate, threshold: float) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise InputError(f"A threshold is a probability from 0 to 1, got {threshold}.")
        self.gate, self.threshold = gate, threshold

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t c"]:
        """Return one-hot choices over 0 to N."""
        logits = self.gate.logits(x)
        believed = (
            logits.float().softmax(-1).cumsum(-1)[..., :-1]
        )  # the last would be 1, which is always enough
        choice = (believed < self.threshold).sum(-1)
        return F.pad(F.one_hot(choice, logits.shape[-1]).to(logits.dtype), (self.gate.minimum, 0))


class ACM(nn.Module):
    """N learners and a gate in the place of one layer (arXiv 2312.10193).

    Learner i is ``l_i(x) = act(x W_i + b_i) V_i``, and ``S_k = l_1 + ... + l_k`` what a token gets that runs k of them
    (``S_0 = 0``). The weights of all learners lie in one tensor each, a learner's rows together, so that the first k
    learners are one layer of k times the width.

    Args:
        size: of a learner.
        config: see `AcmConfig`; what it says of the conversion is not read here.
        act: the activation.
        minimum: fewest learners of a token.
    """

    w_mul: Tensor | None
    b_in: Tensor | None
    gate: nn.Module

    def __init__(
        self,
        size: LearnerSize,
        config: AcmConfig | None = None,
        *,
        act: nn.Module | None = None,
        minimum: int = 0,
    ) -> None:
        super().__init__()
        config = AcmConfig() if config is None else config
        self.size, self.learners, self.minimum, self.as_coded = (
            size,
            config.learners,
            minimum,
            config.as_coded,
        )
        self.act = nn.GELU() if act is None else act
        rows = config.learners * size.hidden
        self.w_in = nn.Parameter(torch.empty(rows, size.width))
        self.w_out = nn.Parameter(torch.empty(rows, size.width))
        self.w_mul = nn.Parameter(torch.empty(rows, size.width)) if size.multiplies else None
        self.b_in = nn.Parameter(torch.empty(rows)) if size.bias else None
        self.gate = LearnerGate(
            size.width,
            config.learners,
            minimum=minimum,
            hidden=config.gate_width,
            tau=config.tau,
            linear=config.as_coded,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learners' weights as `nn.Linear` does, each learner being a layer of its own."""
        for tensor, fan_in in (
            (self.w_in, self.size.width),
            (self.w_mul, self.size.width),
            (self.b_in, self.size.width),
            (self.w_out, self.size.hidden),
        ):
            if tensor is not None:
                nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5)

    def cost(self, full: int) -> ModuleCost:
        """What each choice costs a token.

        Args:
            full: multiply-adds of the layer in whose place this one stands.
        """
        gate = sum(p.numel() for p in self.gate.parameters())
        return ModuleCost(tuple(k * self.size.cost for k in range(self.learners + 1)), full, gate)

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t d"]:
        """Let the gate choose, and run what it chose; in training all learners run and the gate gets a gradient."""
        gates: Tensor = self.gate(x)
        if self.training and not self.as_coded:
            return self.mixed(x, gates)
        choices = gates.argmax(-1)
        if self.as_coded and choices.numel():
            choices = choices.clamp(max=max(0, int(choices.max()) - 1))
        return self.chosen(x, choices)

    def prefix(self, x: Float[Tensor, "*t d"], k: int) -> Float[Tensor, "*t d"]:
        """Run the first k learners on all tokens: ``S_k``.

        Raises:
            InputError: if there are not that many learners.
        """
        _check_choice(k, self.learners)
        if k == 0:
            return torch.zeros_like(x)
        return self._neurons(x, 0, k) @ self.w_out[: k * self.size.hidden]

    def prefixes(self, x: Float[Tensor, "*t d"], *, detach: bool = False) -> Float[Tensor, "*t c d"]:
        """Return ``S_0`` to ``S_N``.

        Args:
            x: tokens.
            detach: let each learner learn only its own increment: no gradient flows into those before it.
        """
        hidden = self._neurons(x, 0, self.learners).unflatten(-1, (self.learners, self.size.hidden))
        parts = torch.einsum(
            "...nh,nhd->...nd", hidden, self.w_out.unflatten(0, (self.learners, self.size.hidden))
        )
        parts = F.pad(parts, (0, 0, 1, 0))
        sums = parts.cumsum(-2)
        return parts + (sums - parts).detach() if detach else sums

    def mixed(self, x: Float[Tensor, "*t d"], gates: Float[Tensor, "*t c"]) -> Float[Tensor, "*t d"]:
        """Return ``sum_k g_k S_k``, with gradients for learners and gates; every learner runs on every token.

        Learner i takes part in ``S_i`` and all later sums, so its weight is ``g_i + ... + g_N``: one layer of the full
        width whose neurons are weighted, as cheap as the layer it replaces.
        """
        taking_part = gates[..., 1:].flip(-1).cumsum(-1).flip(-1)
        hidden = self._neurons(x, 0, self.learners)
        weighted = hidden.unflatten(-1, (self.learners, self.size.hidden)) * taking_part.to(hidden)[..., None]
        return weighted.flatten(-2) @ self.w_out

    def chosen(self, x: Float[Tensor, "*t d"], choices: Int[Tensor, "*t"]) -> Float[Tensor, "*t d"]:
        """Run on each token the learners that it chose, and nothing else.

        Tokens are sorted by their choice, so that learner i runs on a leading part of them without gathering again.

        Args:
            x: tokens.
            choices: number of learners for each.

        Raises:
            InputError: if a token chose more learners than there are.
        """
        flat = x.flatten(0, -2)
        if not len(flat):
            return torch.zeros_like(x)
        # one more place in front, for what is below 0: all is known after one transfer from the device
        below, *counts = torch.bincount(
            choices.flatten().clamp(min=-1) + 1, minlength=self.learners + 2
        ).tolist()
        if below or len(counts) > self.learners + 1:
            _check_choice(int(choices.min() if below else choices.max()), self.learners)
        if max(counts) == len(flat):  # a single token, for one: no need to sort
            return self.prefix(x, counts.index(max(counts)))
        order = choices.flatten().argsort(descending=True)[: len(flat) - counts[0]]
        ordered, total = flat[order], None
        for i in range(self.learners):
            size = sum(counts[i + 1 :])
            if not size:
                break
            rows = slice(i * self.size.hidden, (i + 1) * self.size.hidden)
            part = self._neurons(ordered[:size], i, i + 1) @ self.w_out[rows]
            if total is None:
                total = part
            else:
                total[:size] += part
        assert total is not None  # some token chose more than 0, or all would have made the same choice
        return total.new_zeros(flat.shape).index_copy(0, order, total).view(x.shape)

    def _neurons(self, x: Float[Tensor, "*t d"], begin: int, end: int) -> Float[Tensor, "*t h"]:
        """Activations of the neurons of learners `begin` to `end` - 1."""
        rows = slice(begin * self.size.hidden, end * self.size.hidden)
        hidden: Tensor = self.act(
            F.linear(x, self.w_in[rows], None if self.b_in is None else self.b_in[rows])
        )
        return hidden if self.w_mul is None else hidden * F.linear(x, self.w_mul[rows])

    @torch.no_grad()
    def importance(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
        """Return how much each neuron adds to the output: its mean activation times the norm of its weights."""
        use = self._neurons(x, 0, self.learners).float().abs().mean(0)
        return use * self.w_out.float().norm(dim=-1)

    @torch.no_grad()
    def reorder(self, order: Int[Tensor, " m"]) -> None:
        """Deal the neurons out to the learners anew: the first learner gets the first ones.

        With all learners running nothing changes, up to the order of sums.
        """
        for tensor in (self.w_in, self.w_mul, self.b_in, self.w_out):
            if tensor is not None:
                tensor.copy_(tensor[order])

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return (
            f"width={self.size.width}, learners={self.learners} of {self.size.hidden}, minimum={self.minimum}"
        )


def _check_choice(choice: int, learners: int) -> None:
    if not 0 <= choice <= learners:
        raise InputError(f"A token can run from 0 to {learners} learners here, got {choice}.")
