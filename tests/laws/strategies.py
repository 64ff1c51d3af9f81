"""Hypothesis strategies for the core types: ragged batches of tokens, and every kind of reduction of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenry.tokens import Reduction

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

laws = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
"""How long a law is tried. Derandomized: a run that passed passes again."""

seeds = st.integers(0, 2**31 - 1)
dtypes = st.sampled_from(DTYPES)


@dataclass(frozen=True, eq=False)
class Batch:
    """A ragged batch of tokens; its padding holds NaN, so that whatever reads padding is found out."""

    x: Tensor
    length: Tensor


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens(length: Tensor, width: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random tokens [b width 3], NaN beyond each item's length."""
    x = noise(len(length), width, 3, seed=seed, dtype=dtype)
    return x.masked_fill((torch.arange(width) >= length[:, None])[..., None], torch.nan)


@st.composite
def lengths(draw: st.DrawFn, max_items: int = 4, max_length: int = 8) -> Tensor:
    """Tokens per item; items without any, and batches without an item, included."""
    return torch.tensor(
        draw(st.lists(st.integers(0, max_length), max_size=max_items)), dtype=torch.long
    ).reshape(-1)


def widest(counts: Tensor) -> int:
    """The largest of some counts, 0 if there is none."""
    return int(counts.max()) if len(counts) else 0


@st.composite
def _groups(draw: st.DrawFn, n: int) -> list[int]:
    """Groups of n tokens: numbers 0..c-1, each used, in any order; -1 = dropped."""
    raw = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    used = draw(st.permutations(sorted(set(raw) - {-1})))
    return [used.index(g) if g >= 0 else -1 for g in raw]


def _padded(rows: list[list[int]], width: int) -> Tensor:
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), width)


@st.composite
def selections(draw: st.DrawFn, length: Tensor, width: int) -> Reduction:
    """Keep some tokens of each item, in any order."""
    rows = []
    for n in length.tolist():
        order = draw(st.permutations(range(n)))
        rows.append(order[: draw(st.integers(0, n))])
    return Reduction.select(_padded(rows, max(map(len, rows), default=0)), length, width=width)


@st.composite
def masks(draw: st.DrawFn, length: Tensor, width: int) -> Reduction:
    """Keep some tokens of each item, in raster order."""
    rows = [draw(st.lists(st.integers(-1, 0), min_size=n, max_size=n)) for n in length.tolist()]
    return Reduction.from_mask(_padded(rows, width) == 0, length)


@st.composite
def merges(draw: st.DrawFn, length: Tensor, width: int, weighted: bool | None = None) -> Reduction:
    """Merge and drop some tokens of each item: plain means, or any positive weights and any anchors."""
    groups = _padded([draw(_groups(n)) for n in length.tolist()], width)
    if not (draw(st.booleans()) if weighted is None else weighted):
        return Reduction.merge(groups, length=length)
    generator = torch.Generator().manual_seed(draw(seeds))
    m = widest(groups.amax(1) + 1) if width else 0
    anchor = torch.full((len(length), m), -1)
    for row, slots in zip(anchor, groups, strict=True):
        for slot in range(int(slots.max()) + 1 if width else 0):
            members = (slots == slot).nonzero()[:, 0]
            row[slot] = members[torch.randint(len(members), (), generator=generator)]
    weight = torch.rand(groups.shape, generator=generator) + 0.25
    return Reduction.merge(groups, weight=weight, anchor=anchor, length=length)


@st.composite
def reductions(draw: st.DrawFn, length: Tensor, width: int) -> Reduction:
    """Any reduction of a batch."""
    kind = draw(st.sampled_from(["identity", "mask", "select", "merge"]))
    if kind == "identity":
        return Reduction.identity(length, width)
    return draw({"mask": masks, "select": selections, "merge": merges}[kind](length, width))


@st.composite
def reduced_batches(
    draw: st.DrawFn, dtype: torch.dtype | None = None, max_items: int = 4
) -> tuple[Batch, Reduction]:
    """A ragged batch, padded further than it needs, and a reduction of it."""
    length = draw(lengths(max_items))
    width = widest(length) + draw(st.integers(0, 2))
    chosen = draw(dtypes) if dtype is None else dtype
    batch = Batch(tokens(length, width, seed=draw(seeds), dtype=chosen), length)
    return batch, draw(reductions(length, width))


def well_formed(reduction: Reduction) -> None:
    """Assert what holds for every reduction, however it was made."""
    b, n = reduction.group.shape
    m = reduction.width
    real, mask = torch.arange(n) < reduction.length[:, None], torch.arange(m) < reduction.count[:, None]
    assert bool(((reduction.count >= 0) & (reduction.count <= reduction.length)).all())
    assert m == widest(reduction.count)
    assert bool((reduction.group[~real] == -1).all()), "padding reaches an output"
    assert bool((reduction.group < reduction.count[:, None]).all())
    assert bool((reduction.weight[reduction.group < 0] == 0).all()), "a dropped token has weight"
    assert reduction.weight.dtype == torch.float32
    assert bool((reduction.anchor[~mask] == -1).all())
    for i in range(b):
        slots = list(range(int(reduction.count[i])))
        assert sorted(set(reduction.group[i].tolist()) - {-1}) == slots, "an output has no source"
        anchors = reduction.anchor[i, : len(slots)].tolist()
        assert [int(reduction.group[i, a]) for a in anchors] == slots, "an anchor is not of its output"
