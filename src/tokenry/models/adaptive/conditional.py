"""Conditional computation: what systems share that let a token choose how much of a network it runs through.

A *gate* is a row of weights over the choices of a module, one-hot where the choice is made; a *choice* is its index.
Costs are multiply-adds per token, one for each weight that a token meets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError

__all__ = [
    "CostTable",
    "ModuleCost",
    "absolute_budget_loss",
    "budget_fraction",
    "compute_map",
    "gather_run_scatter",
    "gumbel_st",
    "squared_budget_loss",
]


@dataclass(frozen=True)
class ModuleCost:
    """What one module costs a token, in multiply-adds.

    Attributes:
        choices: Of each choice.
        full: Of the module in whose place this one stands; the highest choice if it stands in nobody's.
        overhead: Of the gate or router, paid whatever it chooses.
    """

    choices: tuple[int, ...]
    full: int | None = None
    overhead: int = 0

    def __post_init__(self) -> None:
        if not self.choices or min(self.choices) < 0 or max(self.choices) == 0:
            raise InputError(
                f"A module needs choices that cost 0 or more, at least one of them more, got {self.choices}."
            )
        if self.overhead < 0 or (self.full is not None and self.full < 1):
            raise InputError(
                f"A module costs at least 1 multiply-add and its gate at least 0, got {self.full} and {self.overhead}."
            )

    @property
    def highest(self) -> int:
        """Multiply-adds of the dearest choice."""
        return max(self.choices)


@dataclass(frozen=True)
class CostTable:
    """What the modules of a network cost a token, by name.

    Attributes:
        modules: Name -> cost.
    """

    modules: Mapping[str, ModuleCost]

    def __post_init__(self) -> None:
        if not self.modules:
            raise InputError("A table of costs needs at least one module, got none.")
        object.__setattr__(self, "modules", dict(self.modules))  # ours, whatever becomes of theirs

    @property
    def full(self) -> int:
        """Multiply-adds of the original modules, all together."""
        return sum(m.highest if m.full is None else m.full for m in self.modules.values())

    @property
    def highest(self) -> int:
        """Multiply-adds with the dearest choice everywhere, without gates: what budgets are shares of."""
        return sum(m.highest for m in self.modules.values())

    @property
    def overhead(self) -> int:
        """Multiply-adds of all gates."""
        return sum(m.overhead for m in self.modules.values())

    def executed(self, choices: Mapping[str, Int[Tensor, "*tokens"]]) -> Float[Tensor, "*tokens"]:
        """Return the multiply-adds that each token has cost, gates included, in float64.

        Args:
            choices: Module -> choice of each token.

        Raises:
            InputError: If a module is missing or unknown, or has no such choice.
        """
        self._check(choices)
        parts = [self._price(name, chosen) for name, chosen in choices.items()]
        return torch.stack(parts).sum(0) + self.overhead

    def _price(self, name: str, chosen: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens"]:
        prices = torch.tensor(self.modules[name].choices, dtype=torch.float64, device=chosen.device)
        if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(prices):
            raise InputError(
                f"{name} has choices 0 to {len(prices) - 1}, "
                f"got {int(chosen.min())} to {int(chosen.max())} among those of the tokens."
            )
        return prices[chosen]

    def _check(self, named: Mapping[str, Tensor]) -> None:
        if named.keys() != self.modules.keys():
            wrong = sorted(named.keys() ^ self.modules.keys())[0]
            what = "is not in the table of costs" if wrong in named else "is in the table but made no choice"
            raise InputError(f"{wrong!r} {what}: hand in the choices of exactly the modules of the table.")


def compute_map(choices: Mapping[str, Int[Tensor, "*tokens"]], table: CostTable) -> Float[Tensor, "*tokens"]:
    """Return the share of the dearest computation that each token took, from 0 to 1: a picture of where work goes.

    Args:
        choices: Module -> choice of each token.
        table: Costs; gates are left out, as in `budget_fraction`.

    Raises:
        InputError: See `CostTable.executed`.
    """
    return ((table.executed(choices) - table.overhead) / table.highest).float()


def budget_fraction(
    gates: Mapping[str, Float[Tensor, "... _"]],
    table: CostTable,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean share of the dearest computation that the tokens took; it has a gradient for the gates.

    A table whose choices cost ``(0, 1)`` makes this the mean probability of the second choice.

    Args:
        gates: Module -> weights of the choices, summing to 1 for each token.
        table: Costs.
        mask: False leaves a token out (padding).

    Raises:
        InputError: If a module is missing, unknown or has another number of choices, or if no token is left.
    """
    table._check(gates)
    if mask is not None and not mask.any():
        raise InputError("The mask leaves no token to average over.")
    spent = []
    for name, gate in gates.items():
        prices = gate.new_tensor(table.modules[name].choices, dtype=torch.float32)
        if gate.shape[-1] != len(prices):
            raise InputError(
                f"{name} has {len(prices)} choices in the table, got gates over {gate.shape[-1]}."
            )
        cost = gate.float() @ (
            prices / table.highest
        )  # divided first: costs of large models overflow nothing
        spent.append((cost if mask is None else cost[mask]).mean())
    return torch.stack(spent).sum()


def absolute_budget_loss(fraction: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """Return ``|fraction - target|``, which pulls with the same force however far the budget is."""
    return (fraction - _share(target)).abs()


def squared_budget_loss(fraction: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """Return ``(fraction - target)^2``, which hardly pulls near the budget."""
    return (fraction - _share(target)).square()


def _share(target: float) -> float:
    if not 0 <= target <= 1:
        raise InputError(f"A target is a share of the dearest computation, from 0 to 1, got {target}.")
    return target


def gumbel_st(
    logits: Float[Tensor, "*tokens c"],
    tau: float = 1.0,
    *,
    hard: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*tokens c"]:
    """Draw choices from logits so that the logits get a gradient (Gumbel-softmax, arXiv 1611.01144).

    Args:
        logits: Of the choices.
        tau: Temperature of the relaxation: nearer 0 is nearer one-hot, with a gradient of larger variance.
        hard: One-hot rows with the gradient of the relaxed ones (straight-through); else the relaxed ones.
        generator: Where the noise comes from; torch's own by default.

    Returns:
        Rows that sum to 1; computed in float32, returned in the type of the logits.

    Raises:
        InputError: If tau is not positive.
    """
    if not tau > 0:
        raise InputError(f"Tau must be above 0, got {tau}.")
    wide = logits.float()
    noise = -torch.empty_like(wide).exponential_(generator=generator).log()
    soft = ((wide + noise) / tau).softmax(-1)
    if hard:
        chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        # In this order the values are exactly 0 and 1: soft - soft is 0.
        soft = chosen + (soft - soft.detach())
    return soft.to(logits.dtype)


def gather_run_scatter(
    x: Float[Tensor, "*tokens d"],
    mask: Bool[Tensor, "*tokens"],
    fn: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]],
) -> Float[Tensor, "*tokens d"]:
    """Run a function on some of the tokens only; the others get zeros and cost nothing.

    Args:
        x: All tokens.
        mask: True where the function is to run. With none, it is not called at all.
        fn: From the selected tokens, as rows, to as many rows of the same width; it must not mix them.

    Returns:
        Results at the places of the selected tokens, in the type that `fn` returns.

    Raises:
        InputError: If `fn` returns another shape than it was given.
    """
    flat, places = x.flatten(0, -2), mask.flatten().nonzero().squeeze(-1)
    if not len(places):
        return torch.zeros_like(x)
    everything = len(places) == len(flat)
    selected = flat if everything else flat[places]
    result = fn(selected)
    if result.shape != selected.shape:
        raise InputError(
            f"The function that runs on selected tokens returned {tuple(result.shape)} for {tuple(selected.shape)}: "
            "it must keep tokens and width."
        )
    if not everything:
        result = result.new_zeros(flat.shape).index_copy(0, places, result)
    return result.reshape(x.shape)
