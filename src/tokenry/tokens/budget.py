"""How many tokens to keep: a count, a share, a schedule over depth, or a range the method chooses from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.tokens.errors import BudgetError

BudgetLike: TypeAlias = (
    "Budget | int | float | str | Mapping[float, int | float] | Sequence[int | float | str | Budget]"
)

_TOTAL = "total:"

HALF = 0.5 + 1e-9
"""What rounding half up adds before it floors. 29 % of 50 is 14.5, but 0.29 * 50 is 14.499999999999998 in float64: a
product within 1e-9 of a half counts as the half it was meant to be."""


@dataclass(frozen=True)
class Budget:
    """A token budget per item (a picture with all its crops, a video segment), or for all items of a prompt.

    Exactly one of the six forms is set; use `Budget.of` rather than the constructor:

    - ``Budget.of(64)``: 64 tokens per item. An item that has fewer keeps all it has (a count is a ceiling).
    - ``Budget.of(0.25)``, ``Budget.of("25%")``: a share of the tokens the method is given.
    - ``Budget.of({0.25: 0.5, 0.5: 0.25})``: a schedule; keys are decoder layers (int) or shares of depth (float in
      [0, 1)), values are counts or shares of the tokens the method was first given. In text: ``"0.25:50%,0.5:25%"``.
    - ``Budget.between(8, 0.5)``: the method decides, per item, within these bounds.
    - ``Budget.total(256)``, ``"total:256"``: 256 tokens for all items of a prompt together, shared out in proportion to
      their tokens: by largest remainders (equal ones: the earlier item), exactly 256 or all there are, each at least
      one.
    - ``Budget.of([64, 0.25])``, ``"64,25%"``: a count or share for each item, in order of appearance in its prompt.

    The one rounding rule: a share s of n tokens is ``floor(s * n + 1/2)``, at least 1 and at most n. Some published
    scripts floor instead; a common rule is what makes two methods at "25 %" comparable, token for token.
    """

    count: int | None = None
    share: float | None = None
    schedule: tuple[tuple[float, Budget], ...] | None = None
    bounds: tuple[Budget, Budget] | None = None
    together: int | None = None
    each: tuple[Budget, ...] | None = None

    def __post_init__(self) -> None:
        forms = [f for f in vars(self).values() if f is not None]
        if len(forms) != 1:
            raise BudgetError(
                f"A budget has exactly one form, got {len(forms)}: {self!r}. Use Budget.of(...)."
            )
        if self.count is not None:
            _check_count(self.count)
        if self.share is not None:
            _check_share(self.share)
        if self.together is not None:
            _check_count(self.together)

    @classmethod
    def of(cls, value: BudgetLike) -> Budget:
        """Read a budget from an int, a float share, text such as ``"64"`` or ``"25%"``, a mapping layer -> budget, or a
        list with a count or share for each picture.

        Raises:
            BudgetError: zero, negative, not a number, a share above 100 %, or something that is no budget at all.
        """
        match value:
            case Budget():
                return value
            case bool():
                raise BudgetError(f"A budget is a token count or a share, not {value!r}.")
            case int():
                return cls(count=value)
            case float():
                return cls(share=value)
            case str():
                return _parse(value)
            case Mapping():
                return cls._of_schedule(value.items())
            case list() | tuple():
                return cls._of_each(value)
        raise BudgetError(
            f"A budget is an int (tokens per picture), a float in (0, 1] (a share), text such as '25%', a mapping "
            f"layer -> budget, or a list with one for each picture; got {value!r} of type {type(value).__name__}."
        )

    @classmethod
    def total(cls, tokens: int) -> Budget:
        """So many tokens for all pictures of a prompt together, shared out in proportion to what each has."""
        return cls(together=tokens)

    @classmethod
    def _of_each(cls, value: Sequence[Any]) -> Budget:
        inner = tuple(cls.of(item) for item in value)
        odd = next((b for b in inner if b.count is None and b.share is None), None)
        if odd is not None:
            raise BudgetError(
                f"A list of budgets holds a count or a share for each picture, got {odd} in it."
            )
        if not inner:
            raise BudgetError(
                "An empty list of budgets keeps nothing; give one count or share for each picture."
            )
        return cls(each=inner)

    @classmethod
    def between(cls, low: int | float | Budget, high: int | float | Budget) -> Budget:
        """Let the method choose per item, but never below `low` or above `high` (counts or shares)."""
        bounds = (cls.of(low), cls.of(high))
        if any(b.count is None and b.share is None for b in bounds):
            raise BudgetError(
                "The bounds of an adaptive budget are counts or shares, not schedules, ranges, totals or lists."
            )
        (low_count, low_share), (high_count, high_share) = ((b.count, b.share) for b in bounds)
        if (low_count or 0) > (high_count or math.inf) or (low_share or 0) > (high_share or math.inf):
            raise BudgetError(
                f"The lower bound {bounds[0]} of an adaptive budget is above the upper, {bounds[1]}."
            )
        return cls(bounds=bounds)

    @classmethod
    def _of_schedule(cls, value: Iterable[tuple[Any, Any]]) -> Budget:
        steps: list[tuple[float, Budget]] = []
        for layer, step in value:
            if isinstance(layer, bool) or not isinstance(layer, (int, float)) or not math.isfinite(layer):
                raise BudgetError(
                    f"A schedule's keys are layers (int) or shares of depth (float), got {layer!r}."
                )
            if layer < 0 or (isinstance(layer, float) and layer >= 1):
                raise BudgetError(
                    f"A schedule's layer must be >= 0 (or a share of depth in [0, 1)), got {layer!r}."
                )
            inner = cls.of(step)
            if inner.count is None and inner.share is None:
                raise BudgetError(
                    f"A schedule's values are counts or shares, got {step!r} at layer {layer!r}."
                )
            if layer in dict(steps):
                raise BudgetError(f"A schedule has two steps at {layer!r}: {dict(steps)[layer]} and {inner}.")
            steps.append((layer, inner))
        if not steps:
            raise BudgetError("An empty schedule keeps nothing anywhere; give at least one layer: budget.")
        if len({isinstance(layer, float) for layer, _ in steps}) > 1:
            raise BudgetError(
                f"A schedule's keys are all layers or all shares of depth, got {[layer for layer, _ in steps]!r}."
            )
        return cls(schedule=tuple(sorted(steps, key=lambda s: s[0])))

    @property
    def adaptive(self) -> bool:
        """Whether the method chooses the number of tokens itself."""
        return self.bounds is not None

    def resolve(
        self, n: Int[Tensor, " items"], row: Int[Tensor, " items"] | None = None
    ) -> Int[Tensor, " items"]:
        """The exact number of tokens each item keeps (for an adaptive budget: its upper bound).

        Args:
            n: tokens each item has.
            row: the prompt each item belongs to; by default all belong to one.

        Raises:
            BudgetError: for a schedule, which has no single number (use `cuts`); a list of another length than there
                are items; a total that is less than one token for each item.
        """
        if self.schedule is not None:
            raise BudgetError(
                "A schedule has one number per layer; this method wants a single budget (64, 0.25)."
            )
        if self.bounds is not None:
            return self.bounds[1].resolve(n)
        if self.together is not None:
            return self._shared_out(n, row)
        if self.each is not None:
            return self._one_each(n, row)
        if self.count is not None:
            return n.clamp(max=min(self.count, torch.iinfo(n.dtype).max))
        wanted = torch.floor(n.double() * float(self.share or 0) + HALF).to(n.dtype)
        return wanted.clamp(min=1).minimum(n)

    def _shared_out(
        self, n: Int[Tensor, " items"], row: Int[Tensor, " items"] | None
    ) -> Int[Tensor, " items"]:
        """The total, in proportion to the items of each prompt, by largest remainders."""
        kept = n.clone()
        for items in _by_prompt(n, row):
            have = n[items].tolist()
            real = [i for i, tokens in enumerate(have) if tokens]
            if len(real) > (self.together or 0):
                raise BudgetError(
                    f"A total of {self.together} tokens is less than one for each of the {len(real)} pictures of a "
                    "prompt. Give more, or fewer pictures."
                )
            shares = apportioned(min(self.together or 0, sum(have)), have)
            kept[items] = torch.tensor(shares, dtype=n.dtype, device=n.device)
        return kept

    def _one_each(self, n: Int[Tensor, " items"], row: Int[Tensor, " items"] | None) -> Int[Tensor, " items"]:
        """Each prompt's items by the list, in order; a list for all items of a batch is taken as such."""
        limits = self.each or ()
        prompts = _by_prompt(n, row)
        if len(limits) == len(n) and any(len(items) != len(limits) for items in prompts):
            prompts = [torch.arange(len(n), device=n.device)]
        kept = n.clone()
        for items in prompts:
            if len(items) != len(limits):
                raise BudgetError(
                    f"This list of budgets is for {len(limits)} pictures, the prompt has {len(items)}. Give one count "
                    "or share for each, in order of appearance."
                )
            parts = [limit.resolve(n[i : i + 1]) for limit, i in zip(limits, items.tolist(), strict=True)]
            kept[items] = torch.cat(parts)
        return kept

    def minimum(
        self, n: Int[Tensor, " items"], row: Int[Tensor, " items"] | None = None
    ) -> Int[Tensor, " items"]:
        """The fewest tokens each item may be left with; equals `resolve` unless the budget is adaptive.

        Where a small item's bounds cross (``8..50%`` of 10 tokens), the upper one holds.
        """
        most = self.resolve(n, row)
        return most if self.bounds is None else self.bounds[0].resolve(n).minimum(most)

    def cuts(self, depth: int) -> tuple[tuple[int, Budget], ...]:
        """A schedule's steps as (decoder layer, budget), shares of depth turned into layers of a `depth`-layer decoder.

        Raises:
            BudgetError: not a schedule, a layer beyond the decoder, or two steps that fall on the same layer.
        """
        if self.schedule is None:
            raise BudgetError(f"{self} is not a schedule over layers.")
        steps = tuple(
            (math.floor(layer * depth + HALF) if isinstance(layer, float) else layer, step)
            for layer, step in self.schedule
        )
        layers = [layer for layer, _ in steps]
        if layers[-1] >= depth or len(set(layers)) < len(layers):
            raise BudgetError(f"The schedule {self} gives layers {layers} in a decoder of {depth} layers.")
        return steps

    def to_json(self) -> int | float | list[Any] | dict[str, Any]:
        """A JSON value that `from_json` reads back to an equal budget."""
        if self.count is not None:
            return self.count
        if self.share is not None:
            return self.share
        if self.bounds is not None:
            return {"between": [b.to_json() for b in self.bounds]}
        if self.together is not None:
            return {"total": self.together}
        if self.each is not None:
            return [b.to_json() for b in self.each]
        return {"schedule": [[layer, step.to_json()] for layer, step in self.schedule or ()]}

    @classmethod
    def from_json(cls, value: Budget | int | float | str | list[Any] | dict[str, Any]) -> Budget:
        """The inverse of `to_json`; reads what people write into a configuration, such as "25%", as well.

        Raises:
            BudgetError: anything that `to_json` does not write.
        """
        match value:
            case {"between": [low, high], **rest} if not rest:
                return cls.between(low, high)
            case {"schedule": [*steps], **rest} if not rest and all(_is_pair(step) for step in steps):
                return cls._of_schedule((layer, step) for layer, step in steps)
            case {"total": int() as tokens, **rest} if not rest:
                return cls.total(tokens)
            case dict():
                raise BudgetError(
                    f"Cannot read {value!r} as a budget; write {{'between': [low, high]}}, {{'total': tokens}} or "
                    f"{{'schedule': [[layer, budget], ...]}}."
                )
        return cls.of(value)

    def __str__(self) -> str:
        if self.count is not None:
            return str(self.count)
        if self.share is not None:
            return f"{100 * self.share:g}%"
        if self.bounds is not None:
            return f"{self.bounds[0]}..{self.bounds[1]}"
        if self.together is not None:
            return f"total:{self.together}"
        if self.each is not None:
            return ",".join(map(str, self.each)) + ("," if len(self.each) == 1 else "")
        return ",".join(f"{layer:g}:{step}" for layer, step in self.schedule or ())

    def __copy__(self) -> Self:
        return self


def apportioned(total: int, have: Sequence[int]) -> list[int]:
    """A number shared out in proportion to `have`, in integers, by largest remainders: the sum is exact, nobody gets
    more than they have, and everybody who has something gets at least one where there is enough.

    Args:
        total: at most the sum of `have`.
        have: what each has.
    """
    whole = sum(have)
    shares = [total * n // whole if whole else 0 for n in have]
    rest = [total * n % whole if whole else 0 for n in have]
    for i in sorted(range(len(have)), key=lambda i: (-rest[i], i))[: total - sum(shares)]:
        shares[i] += 1
    for i, n in enumerate(have):
        if n and not shares[i]:  # one token from whoever has most
            richest = max(range(len(have)), key=lambda j: (shares[j], -j))
            shares[i], shares[richest] = 1, shares[richest] - 1
    return shares


def _by_prompt(n: Int[Tensor, " items"], row: Int[Tensor, " items"] | None) -> list[Int[Tensor, " some"]]:
    """The numbers of each prompt's items."""
    if row is None:
        return [torch.arange(len(n), device=n.device)] if len(n) else []
    return [(row == prompt).nonzero()[:, 0] for prompt in row.unique()]


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BudgetError(f"A budget of {count!r} tokens keeps nothing; give at least 1 token per picture.")


def _check_share(share: float) -> None:
    if (
        isinstance(share, bool)
        or not isinstance(share, (int, float))
        or math.isnan(share)
        or not 0 < share <= 1
    ):
        raise BudgetError(
            f"A share of {share!r} is not in (0, 1]. Shares are floats (0.25 keeps a quarter); counts are ints (64)."
        )


def _parse(text: str) -> Budget:
    """Read the command line's spelling: ``64``, ``25%``, ``0.25``, ``0.5:25%,0.75:10%``, ``8..50%``, ``total:256``,
    ``64,32`` (one for each picture; ``64,`` for one picture)."""
    text = text.strip()
    if text.startswith(_TOTAL):
        number = _number(text.removeprefix(_TOTAL))
        if not isinstance(number, int):
            raise BudgetError(f"A total is a number of tokens, such as total:256; got {text!r}.")
        return Budget.total(number)
    if ":" not in text and "," in text:
        return Budget.of([_parse(item) for item in text.removesuffix(",").split(",")])
    if ":" in text:
        pairs = [step.partition(":") for step in text.split(",")]
        return Budget._of_schedule((_number(layer), _parse(step)) for layer, _, step in pairs)
    if ".." in text:
        low, _, high = text.partition("..")
        return Budget.between(_parse(low), _parse(high))
    if text.endswith("%"):
        return Budget.of(float(_number(text[:-1])) / 100)
    return Budget.of(_number(text))


def _number(text: str) -> int | float:
    text = text.strip()
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise BudgetError(
            f"Cannot read {text!r} as a budget; write 64, 25%, 0.25 or 0.5:25%,0.75:10%."
        ) from None
