"""A reduction of N source tokens to M outputs, as a batch of sparse M x N matrices.

Pruning, merging, pooling, clustering, leaving half way: each sends a source token to at most one output with a weight.
Every method returns one of these and nothing else; applying it, undoing it, composing it, drawing it and accounting
for it are written once, here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import ReductionError
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)


@dataclass(frozen=True, eq=False)
class Reduction:
    """A batch of reductions, one row per item; rows may differ in sources (`length`) and in outputs (`count`).

    Attributes:
        group: output slot that each source flows into; -1 = dropped, or padding beyond `length`.
        weight: the share with which it flows (a kept token: 1; a mean merge of k tokens: 1/k each; else: 0).
        count: outputs per item. An item may have none: exit methods drop everything.
        anchor: the source whose position an output takes; -1 = padding beyond `count`.
        length: sources per item. Real tokens come first, padding after them.

    Use the constructors `identity`, `select`, `from_mask`, `top` and `merge`: they validate. The plain constructor
    checks shapes only.
    """

    group: Int[Tensor, "b n"]
    weight: Float[Tensor, "b n"]
    count: Int[Tensor, " b"]
    anchor: Int[Tensor, "b m"]
    length: Int[Tensor, " b"]

    def __post_init__(self) -> None:
        b, n = self.group.shape
        if (
            self.weight.shape != (b, n)
            or self.anchor.shape[0] != b
            or self.count.shape != (b,)
            or self.length.shape != (b,)
        ):
            raise ReductionError(
                f"A reduction's parts disagree: group {tuple(self.group.shape)}, weight {tuple(self.weight.shape)}, "
                f"count {tuple(self.count.shape)}, anchor {tuple(self.anchor.shape)}, "
                f"length {tuple(self.length.shape)}."
            )

    # --- constructors -------------------------------------------------------------------------------------------

    @classmethod
    def identity(cls, length: Int[Tensor, " b"], width: int | None = None) -> Reduction:
        """Keep everything: item i keeps its `length[i]` tokens in place; rows are padded to `width` sources."""
        width = _width(length) if width is None else width
        return cls.from_mask(prefix_mask(length, width), length)

    @classmethod
    def from_mask(cls, keep: Bool[Tensor, "b n"], length: Int[Tensor, " b"] | None = None) -> Reduction:
        """Keep the marked tokens, in raster order.

        Raises:
            ReductionError: a token beyond an item's length is marked, or a length beyond the row.
        """
        b, n = keep.shape
        length = _lengths(n if length is None else length, b, n, keep.device)
        if bool((beyond := keep & ~prefix_mask(length, n)).any()):
            raise ReductionError(
                f"A mask keeps padding: (item, position) {beyond.nonzero().tolist()} for lengths {length.tolist()}."
            )
        count = keep.sum(1)
        slot = keep.cumsum(1) - 1
        # Kept columns first, each part still in raster order: a stable sort on "is dropped".
        anchor = torch.argsort(~keep, dim=1, stable=True)[:, : _width(count)]
        anchor = anchor.masked_fill(~prefix_mask(count, anchor.shape[1]), -1)
        return cls(slot.masked_fill(~keep, -1), keep.float(), count, anchor, length)

    @classmethod
    def select(
        cls, indices: Int[Tensor, "b k"], n: int | Int[Tensor, " b"], *, width: int | None = None
    ) -> Reduction:
        """Keep the given sources, outputs in the order given. -1 pads short rows (at the end of the row).

        Args:
            indices: source index of each output.
            n: sources per item, one number or one per item.
            width: padded source width; the largest length by default.

        Raises:
            ReductionError: an index outside 0..n-1, an index given twice, padding before an index.
        """
        if width is None:
            width = _width(n) if isinstance(n, Tensor) else n
        length = _lengths(n, len(indices), width, indices.device)
        used = indices >= 0
        count = used.sum(1)
        if bool((indices < -1).any() | (indices >= length[:, None]).any()):
            raise ReductionError(
                f"Selected indices must lie in 0..n-1 (or be -1 = padding); got {indices.tolist()} for n = "
                f"{length.tolist()}."
            )
        if bool((used != prefix_mask(count, indices.shape[1])).any()):
            raise ReductionError(f"Padding (-1) must come after a row's indices; got {indices.tolist()}.")
        slots = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
        # Column `width` collects the padding, and is cut off again.
        group = indices.new_full((len(indices), width + 1), -1)
        group.scatter_(1, indices.masked_fill(~used, width), slots)
        group = group[:, :width]
        if bool(((group >= 0).sum(1) != count).any()):
            raise ReductionError(f"The same token is selected twice: {indices.tolist()}.")
        return cls(group, (group >= 0).float(), count, indices[:, : _width(count)], length)

    @classmethod
    def top(
        cls, scores: Float[Tensor, "b n"], keep: Int[Tensor, " b"], length: Int[Tensor, " b"] | None = None
    ) -> Reduction:
        """Keep the `keep[i]` highest-scored tokens of item i, in raster order; equal scores: the earlier token wins.

        Raises:
            ReductionError: a score is not a number, or an item is asked to keep more than it has.
        """
        b, n = scores.shape
        length = _lengths(n if length is None else length, b, n, scores.device)
        valid = prefix_mask(length, n)
        if bool((nan := scores.isnan() & valid).any()):
            raise ReductionError(
                f"Tokens of items {nan.any(1).nonzero()[:, 0].tolist()} are scored NaN; check what the method reads "
                "for NaN or infinite values."
            )
        if keep.shape != (b,) or bool(((keep > length) | (keep < 0)).any()):
            raise ReductionError(f"Cannot keep {keep.tolist()} tokens of {length.tolist()}.")
        return cls.from_mask(top_mask(scores, valid, keep), length)

    @classmethod
    def merge(
        cls,
        groups: Int[Tensor, "b n"],
        *,
        weight: Float[Tensor, "b n"] | None = None,
        anchor: Int[Tensor, "b m"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> Reduction:
        """Merge tokens that share a group number (0..count-1 per item, -1 = dropped).

        Args:
            groups: output slot of each source.
            weight: share of each source in its output; the plain mean by default.
            anchor: whose position each output takes; by default its first source.
            length: sources per item; all by default.

        Raises:
            ReductionError: an empty group, a group on padding, an anchor outside its group, a weight that is not a
                number.
        """
        b, n = groups.shape
        length = _lengths(n if length is None else length, b, n, groups.device)
        used = groups >= 0
        if bool((used & ~prefix_mask(length, n)).any() | (groups < -1).any()):
            raise ReductionError(
                f"Groups are 0..count-1 on an item's tokens and -1 for dropped tokens and padding; got "
                f"{groups.tolist()} for items of {length.tolist()} tokens."
            )
        count = groups.max(1).values + 1 if n else torch.zeros_like(length)
        m = _width(count)
        sizes = _segment_sum(used.float(), groups, m)
        if bool(((sizes == 0) & prefix_mask(count, m)).any()):
            raise ReductionError(f"A merge leaves an output without a source; group sizes {sizes.tolist()}.")
        if weight is None:
            weight = _spread(1 / sizes.clamp(min=1), groups, 0.0)
        elif weight.shape != groups.shape or not bool(weight[used].isfinite().all()):
            raise ReductionError(f"Weights are finite, one per token of {(b, n)}; got {weight.tolist()}.")
        if anchor is None:
            columns = torch.arange(n, device=groups.device).expand_as(groups)
            first = groups.new_full((b, m + 1), n)
            first.scatter_reduce_(1, groups.masked_fill(~used, m), columns, "amin")
            anchor = first[:, :m].masked_fill(~prefix_mask(count, m), -1)
        slots = torch.arange(m, device=groups.device).expand(b, m)
        slots = slots.masked_fill(~prefix_mask(count, m), -1)
        # An anchor beyond the row would be an index error: it is looked up nowhere instead.
        if anchor.shape != (b, m) or bool(
            (_spread(groups, anchor.masked_fill(anchor >= n, -1), -1) != slots).any()
        ):
            raise ReductionError(
                f"An output's anchor must be one of its own sources (padding: -1); got {anchor.tolist()} for groups "
                f"{groups.tolist()}."
            )
        return cls(groups, weight.float().masked_fill(~used, 0), count, anchor, length)

    # --- what a reduction does ----------------------------------------------------------------------------------

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The outputs: a gather where nothing is merged, a weighted sum in float32 otherwise. Padding is zero."""
        if x.shape[:2] != self.group.shape:
            raise ReductionError(
                f"Tokens {tuple(x.shape)} do not fit a reduction of {tuple(self.group.shape)}."
            )
        if self.is_selection:
            return gather_rows(x, self.anchor)
        total = _segment_sum(x.float() * self.weight[..., None], self.group, self.width)
        return total.to(x.dtype)

    def expand(self, y: Float[Tensor, "b m d"], fill: float = 0.0) -> Float[Tensor, "b n d"]:
        """Un-merge: every source gets its output's value, dropped sources and padding get `fill`."""
        if y.shape[:2] != self.anchor.shape:
            raise ReductionError(
                f"Outputs {tuple(y.shape)} do not fit a reduction to {tuple(self.anchor.shape)}."
            )
        return gather_rows(y, self.group, fill)

    @overload
    def compose(self, then: Reduction) -> Reduction: ...

    @overload
    def compose(self, then: DenseReduction) -> DenseReduction: ...

    def compose(self, then: Reduction | DenseReduction) -> Reduction | DenseReduction:
        """This reduction followed by `then`, as one: ``a.compose(b).apply(x) == b.apply(a.apply(x))``."""
        if isinstance(then, DenseReduction):
            return DenseReduction(self.to_dense(), self.count, self.anchor, self.length).compose(then)
        _check_joint(self.anchor, self.count, then.group.shape, then.length)
        return Reduction(
            group=_spread(then.group, self.group, -1),
            weight=self.weight * _spread(then.weight, self.group, 0.0),
            count=then.count,
            anchor=_spread(self.anchor, then.anchor, -1),
            length=self.length,
        )

    def carry(self, amount: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """Totals over the sources of each output of an amount per source, such as how many tokens it stands for."""
        return _segment_sum(amount.float(), self.group, self.width)

    def among(
        self, sources: Bool[Tensor, "b n"], kept: Bool[Tensor, "b n"], length: Int[Tensor, " b"]
    ) -> Reduction:
        """This reduction as one of longer rows, in raster order: some of their tokens are its sources, others stay.

        Args:
            sources: which tokens of the longer rows this reduction's are, in order.
            kept: tokens that stay themselves; what is neither is dropped.
            length: tokens of the longer rows.

        Raises:
            ReductionError: this reduction has other sources than are marked, or a token is marked twice.
        """
        b, n = kept.shape
        if not sources.sum(1).equal(self.length) or bool((sources & kept).any()):
            raise ReductionError(
                f"A reduction of {self.length.tolist()} tokens does not fit among rows of {length.tolist()}, of which "
                f"{sources.sum(1).tolist()} are its sources and {kept.sum(1).tolist()} stay."
            )
        whole = Reduction.from_mask(sources, length).compose(self)
        own = torch.arange(n, device=kept.device).expand(b, n)
        target = torch.where(kept, own, _spread(whole.anchor, whole.group, -1))
        anchors = target == own
        group = (anchors.cumsum(1) - 1).gather(1, target.clamp(min=0)).masked_fill(target < 0, -1)
        weight = torch.where(kept, 1.0, whole.weight)
        return Reduction(group, weight, anchors.sum(1), Reduction.from_mask(anchors, length).anchor, length)

    def gated(self, gate: Float[Tensor, "b n"]) -> Reduction:
        """The same reduction, whose weights hand gradients on to a gate (straight-through): values stay what they are.

        Args:
            gate: how much each source should weigh, such as a sigmoid of its score. Its gradient is that of the weight.
        """
        through = gate.float() - gate.float().detach()
        weight = (self.weight * (1 + through)).masked_fill(~self.kept, 0)
        return replace(self, weight=weight)

    # --- what it looks like -------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Outputs of the longest item (m)."""
        return self.anchor.shape[1]

    @property
    def kept(self) -> Bool[Tensor, "b n"]:
        """Whether a source reaches an output, alone or merged."""
        return self.group >= 0

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """Whether an output is real, not padding."""
        return prefix_mask(self.count, self.width)

    @property
    def sizes(self) -> Int[Tensor, "b m"]:
        """Sources behind each output."""
        return _segment_sum(self.kept.long(), self.group, self.width)

    @property
    def ratio(self) -> Float[Tensor, " b"]:
        """Share of the tokens that is left, per item (an item without tokens: 1)."""
        return torch.where(self.length > 0, self.count / self.length.clamp(min=1), 1.0)

    @cached_property
    def is_selection(self) -> bool:
        """Whether nothing is merged, scaled or learned through: every output is one source, unchanged."""
        kept = self.kept
        if self.weight.requires_grad:
            return False
        return bool((kept.sum(1) == self.count).all()) and bool((self.weight[kept] == 1).all())

    @cached_property
    def is_identity(self) -> bool:
        """Whether every token stays itself, in place."""
        raster = torch.arange(self.width, device=self.anchor.device).expand_as(self.anchor)
        same = (self.anchor == raster) | ~self.mask
        return self.is_selection and bool((self.count == self.length).all()) and bool(same.all())

    def to_dense(self) -> Float[Tensor, "b m n"]:
        """The explicit matrices (for tests and small inputs)."""
        dense = self.weight.new_zeros(len(self.group), self.width + 1, self.group.shape[1])
        slot = self.group.masked_fill(~self.kept, self.width)
        return dense.scatter_(1, slot[:, None, :], self.weight[:, None, :])[:, : self.width]

    def to(self, device: torch.device | str) -> Reduction:
        """The same reduction on another device."""
        parts = (self.group, self.weight, self.count, self.anchor, self.length)
        return Reduction(*(part.to(device) for part in parts))

    def item(self, i: int) -> Reduction:
        """Item i alone, without padding (a batch of one)."""
        n, m = int(self.length[i]), int(self.count[i])
        row = slice(i % len(self.length), i % len(self.length) + 1)  # -1 is the last item
        return Reduction(
            self.group[row, :n], self.weight[row, :n], self.count[row], self.anchor[row, :m], self.length[row]
        )


@dataclass(frozen=True, eq=False)
class DenseReduction:
    """A reduction whose outputs mix any sources with any weights (learned queries, overlapping pools).

    Same protocol as `Reduction`.

    Attributes:
        matrix: weight of each source in each output; rows beyond `count` and columns beyond `length` are zero.
        count: outputs per item.
        anchor: the source whose position an output takes; -1 = padding.
        length: sources per item.
    """

    matrix: Float[Tensor, "b m n"]
    count: Int[Tensor, " b"]
    anchor: Int[Tensor, "b m"]
    length: Int[Tensor, " b"]

    def __post_init__(self) -> None:
        b, m, n = self.matrix.shape
        if self.anchor.shape != (b, m) or self.count.shape != (b,) or self.length.shape != (b,):
            raise ReductionError(
                f"A dense reduction's parts disagree: matrix {tuple(self.matrix.shape)}, anchor "
                f"{tuple(self.anchor.shape)}, count {tuple(self.count.shape)}, length {tuple(self.length.shape)}."
            )
        outside = ~(prefix_mask(self.count, m)[:, :, None] & prefix_mask(self.length, n)[:, None, :])
        if bool(((self.matrix != 0) & outside).any()) or bool(self.matrix.isnan().any()):
            raise ReductionError(
                "A dense reduction is not a number, or has weight on padding rows or columns."
            )
        if bool((self.anchor >= self.length[:, None]).any() | ((self.anchor < 0) & self.mask).any()):
            raise ReductionError(
                f"Anchors must be source indices (or -1 on padding); got {self.anchor.tolist()}."
            )

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The outputs, mixed in float32. Padding is zero."""
        if x.shape[:2] != self.kept.shape:
            raise ReductionError(
                f"Tokens {tuple(x.shape)} do not fit a reduction of {tuple(self.kept.shape)}."
            )
        # 0 * NaN is NaN: what no output uses must not be multiplied at all.
        return (self.matrix.float() @ x.float().masked_fill(~self.kept[..., None], 0)).to(x.dtype)

    def expand(self, y: Float[Tensor, "b m d"], fill: float = 0.0) -> Float[Tensor, "b n d"]:
        """Every source gets the mean of the outputs it feeds, by its weights in them; unused sources get `fill`."""
        if y.shape[:2] != self.anchor.shape:
            raise ReductionError(
                f"Outputs {tuple(y.shape)} do not fit a reduction to {tuple(self.anchor.shape)}."
            )
        share = self.matrix.abs().float()
        total = share.sum(1)
        real = y.float().masked_fill(~self.mask[..., None], 0)  # as in `apply`: padding may hold anything
        back = (share.mT @ real) / total.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        return torch.where((total > 0)[..., None], back, fill).to(y.dtype)

    def compose(self, then: Reduction | DenseReduction) -> DenseReduction:
        """This reduction followed by `then`, as one."""
        second = then.to_dense()
        _check_joint(self.anchor, self.count, (len(second), second.shape[2]), then.length)
        return DenseReduction(
            second @ self.matrix, then.count, _spread(self.anchor, then.anchor, -1), self.length
        )

    def carry(self, amount: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """An amount per source dealt out to the outputs that it feeds, by its share in each."""
        share = self.matrix.abs().float()
        share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return (share @ amount.float()[..., None])[..., 0]

    @property
    def width(self) -> int:
        """Outputs of the longest item (m)."""
        return self.anchor.shape[1]

    @property
    def kept(self) -> Bool[Tensor, "b n"]:
        """Whether a source reaches any output."""
        return (self.matrix != 0).any(1)

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """Whether an output is real, not padding."""
        return prefix_mask(self.count, self.width)

    @property
    def sizes(self) -> Float[Tensor, "b m"]:
        """Sources behind each output, a source that feeds several counted by its share in each."""
        return self.carry(torch.ones_like(self.kept, dtype=torch.float32))

    @property
    def ratio(self) -> Float[Tensor, " b"]:
        """Share of the tokens that is left, per item (an item without tokens: 1)."""
        return torch.where(self.length > 0, self.count / self.length.clamp(min=1), 1.0)

    @property
    def is_selection(self) -> bool:
        """Always False: a dense reduction is applied as a matrix."""
        return False

    @property
    def is_identity(self) -> bool:
        """Whether every matrix is the identity on its item's tokens."""
        m, n = self.matrix.shape[1:]
        eye = torch.eye(m, n, device=self.matrix.device) * self.mask[..., None]
        return bool((self.count == self.length).all()) and bool((self.matrix == eye).all())

    def to_dense(self) -> Float[Tensor, "b m n"]:
        """The matrices themselves."""
        return self.matrix

    def to(self, device: torch.device | str) -> DenseReduction:
        """The same reduction on another device."""
        parts = (self.matrix, self.count, self.anchor, self.length)
        return DenseReduction(*(part.to(device) for part in parts))

    def item(self, i: int) -> DenseReduction:
        """Item i alone, without padding (a batch of one)."""
        n, m = int(self.length[i]), int(self.count[i])
        row = slice(i % len(self.length), i % len(self.length) + 1)  # -1 is the last item
        return DenseReduction(
            self.matrix[row, :m, :n], self.count[row], self.anchor[row, :m], self.length[row]
        )


def prefix_mask(length: Int[Tensor, " b"], width: int) -> Bool[Tensor, "b width"]:
    """True on the first `length[i]` columns of row i."""
    return torch.arange(width, device=length.device) < length[:, None]


def top_mask(
    scores: Float[Tensor, "b n"], member: Bool[Tensor, "b n"], number: Int[Tensor, " b"]
) -> Bool[Tensor, "b n"]:
    """The `number[i]` best-scored members of row i (all of them, if it has fewer); equal scores: the earlier."""
    # torch.topk breaks ties arbitrarily; a stable descending sort does not.
    order = torch.argsort(scores.float(), dim=1, descending=True, stable=True)
    # Members first, even where a member scores -inf itself.
    order = order.gather(1, torch.argsort(~member.gather(1, order), dim=1, stable=True))
    column = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, column)
    return (rank < number[:, None]) & member


def gather_rows(
    x: Float[Tensor, "b n d"], index: Int[Tensor, "b m"], fill: float = 0.0
) -> Float[Tensor, "b m d"]:
    """``x[i, index[i, j]]``, with `fill` where the index is -1. Works for an x without columns."""
    missing = (index < 0)[..., None]
    if x.shape[1] == 0:
        return x.new_full((*index.shape, x.shape[2]), fill)
    # Indexing copies whole token vectors; gather would look up every number of them.
    taken = x[torch.arange(len(index), device=index.device)[:, None], index.clamp(min=0)]
    return taken.masked_fill(missing, fill)


def _spread(values: Tensor, index: Int[Tensor, "b k"], fill: float) -> Tensor:
    """``values[i, index[i, j]]`` for 2-D values, `fill` where the index is -1."""
    if values.shape[1] == 0:
        return values.new_full(index.shape, fill)
    return values.gather(1, index.clamp(min=0)).masked_fill(index < 0, fill)


def _segment_sum(x: Tensor, group: Int[Tensor, "b n"], m: int) -> Tensor:
    """Sum the rows of x (b n [d]) into the m slots that `group` names; -1 goes nowhere."""
    slot = group.masked_fill(group < 0, m)
    index = slot if x.ndim == 2 else slot[..., None].expand_as(x)
    total = x.new_zeros(x.shape[0], m + 1, *x.shape[2:])
    return total.scatter_add_(1, index, x)[:, :m]


def _width(count: Int[Tensor, " b"]) -> int:
    return int(count.max()) if len(count) else 0


def _lengths(length: int | Int[Tensor, " b"], b: int, width: int, device: torch.device) -> Int[Tensor, " b"]:
    """Sources per item, checked: one number for each of b items, none beyond the width of a row."""
    if isinstance(length, int):
        length = torch.full((b,), length, device=device)
    if length.shape != (b,) or bool(((length < 0) | (length > width)).any()):
        raise ReductionError(
            f"Lengths are one per item, each in 0..{width} (the width of a row); got {length.tolist()} for {b} items."
        )
    return length


def _check_joint(
    anchor: Int[Tensor, "b m"], count: Int[Tensor, " b"], shape: tuple[int, ...], length: Int[Tensor, " b2"]
) -> None:
    """The outputs of one reduction must be the sources of the next."""
    if tuple(shape) != tuple(anchor.shape) or bool((length != count).any()):
        raise ReductionError(
            f"Cannot compose: the first leaves {count.tolist()} tokens per item of {anchor.shape[1]}, the second "
            f"expects {length.tolist()} of {shape[1]}."
        )
