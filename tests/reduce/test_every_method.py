"""What every method of this package keeps to, at each of its cuts: exact counts, shares that sum to one, no peeking."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.reduce.explicit import AFTER, BEFORE, PADDING, VISUAL, ExplicitAttention
from tokenry.reduce.aim import AIM
from tokenry.reduce.base import Reducer
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.reduce.todre import ToDRE
from tokenry.reduce.vtc_cls import VtcCls
from tokenry.tokens import Depth, Reduction, TokenView

DEPTH = Depth(encoder=4, decoder=16)
LENGTHS = (24, 9, 1, 17)
METHODS = [
    RandomTokens,
    Pool,
    FastV,
    FasterVLM,
    VtcCls,
    DivPrune,
    ToDRE,
    PyramidDrop,
    AIM,
    RecoverableCompression,
]
VARIANTS: list[Reducer] = [
    *(method() for method in METHODS),
    *(method(budget=budget) for method in METHODS for budget in (5, 0.4)),
    VtcCls(ensemble="max"),
    ToDRE(rule="kcenter"),
    ToDRE(pivot="random", tau=0.3),
    PyramidDrop(budget={4: 0.5, 9: 3}),
    AIM(budget=9, start=3, end=6, damping=0.1),
]


@dataclass(frozen=True)
class Sequence:
    """One sequence with one item, before it is padded into a batch."""

    features: Tensor
    rows: Tensor
    logits: Tensor
    columns: list[int]
    tile: Tensor
    grid: tuple[int, int, int]
    text: Tensor
    key: int


def sequence(seed: int, n: int, kind: str = "random") -> Sequence:
    """A random item of n tokens; "ties": small whole numbers, so that many things are equal."""
    g = torch.Generator().manual_seed(1000 * seed + n)
    columns = [BEFORE] * (seed % 3) + [VISUAL] * n + [AFTER] * (1 + seed % 4)
    draw = {"random": torch.randn, "ties": lambda *s, generator: torch.randint(0, 2, s, generator=generator)}[
        kind
    ]
    tiles = 3 if n % 3 == 0 else 1
    return Sequence(
        features=draw(n, 8, generator=g).float(),
        rows=draw(DEPTH.encoder, 2, n, generator=g).float().softmax(-1),
        logits=draw(2, len(columns), len(columns), generator=g).float() * 0.3,
        columns=columns,
        tile=torch.arange(tiles).repeat_interleave(n // tiles),
        grid=(tiles, 1, n // tiles),
        text=draw(3, 8, generator=g).float(),
        key=seed * 7919 + n,
    )


def batch(
    sequences: list[Sequence], layer: int, *, wider: int = 0, dtype: torch.dtype = torch.float32
) -> TokenView:
    """Sequences as one view, `wider` more columns and tokens of padding than needed, garbage in the padding."""
    b = len(sequences)
    n = max(len(s.features) for s in sequences) + wider
    t = max(len(s.columns) for s in sequences) + wider
    garbage = torch.Generator().manual_seed(wider)
    x = 9 * torch.randn(b, n, 8, generator=garbage)
    rows = torch.zeros(DEPTH.encoder, b, 2, n)
    logits = torch.randn(b, 2, t, t, generator=garbage)
    columns = torch.full((b, t), PADDING)
    tile, slot = torch.full((b, n), -1), torch.full((b, n), -1)
    for i, s in enumerate(sequences):
        k, left = len(s.features), t - len(s.columns)
        x[i, :k], rows[:, i, :, :k], tile[i, :k] = s.features, s.rows, s.tile
        logits[i, :, left:, left:] = s.logits
        columns[i, left:] = torch.tensor(s.columns)
        slot[i, :k] = columns[i].eq(VISUAL).nonzero()[:, 0]
    return TokenView.of(
        x.to(dtype),
        length=torch.tensor([len(s.features) for s in sequences]),
        grid=torch.tensor([s.grid for s in sequences]),
        layer=layer,
        depth=DEPTH,
        tile=tile,
        slot=slot,
        columns=columns,
        key=torch.tensor([s.key for s in sequences]),
        text=torch.stack([s.text for s in sequences]),
        text_length=torch.full((b,), 3),
        cls_rows=dict(enumerate(rows)),
        attention=ExplicitAttention(logits, columns),
    )


def at_every_cut(method: Reducer, sequences: list[Sequence], **options) -> list[tuple[TokenView, Reduction]]:
    views = [batch(sequences, layer, **options) for layer in method.cuts(DEPTH)]
    return [(view, method.apply(view)) for view in views]


def same(a: Reduction, b: Reduction) -> bool:
    return a.group.equal(b.group) and a.anchor.equal(b.anchor) and torch.allclose(a.weight, b.weight)


@pytest.fixture(params=VARIANTS, ids=lambda m: f"{m.slug}-{VARIANTS.index(m)}")
def method(request: pytest.FixtureRequest) -> Reducer:
    return request.param


@pytest.mark.parametrize("kind", ["random", "ties"])
def test_counts_are_exact_and_shares_sum_to_one(method: Reducer, kind: str) -> None:
    for view, reduction in at_every_cut(method, [sequence(i, n, kind) for i, n in enumerate(LENGTHS)]):
        keep = method.keep(view)
        if method.slug == "pool" or method.limit.adaptive:
            assert (reduction.count <= keep).all()
            assert (reduction.count >= 1).all()
        else:
            assert reduction.count.equal(keep)
        sums = reduction.to_dense().sum(2)[reduction.mask]
        assert torch.allclose(sums, torch.ones_like(sums))
        for anchor, count, n in zip(reduction.anchor, reduction.count, LENGTHS, strict=True):
            assert anchor[:count].diff().gt(0).all()  # raster order, hence distinct
            assert bool(((anchor[:count] >= 0) & (anchor[:count] < n)).all())


@pytest.mark.parametrize("kind", ["random", "ties"])
def test_an_item_sees_neither_its_neighbours_nor_padding(method: Reducer, kind: str) -> None:
    sequences = [sequence(i, n, kind) for i, n in enumerate(LENGTHS)]
    together = at_every_cut(method, sequences, wider=5)
    again = at_every_cut(method, sequences, wider=5)
    for i, s in enumerate(sequences):
        for (_, big), (_, repeated), (_, small) in zip(
            together, again, at_every_cut(method, [s]), strict=True
        ):
            assert same(big.item(i), small)
            assert same(big, repeated)


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("budget", [1.0, "100%"])
def test_everything_is_the_identity(cls: type[Reducer], budget: float | str) -> None:
    for _, reduction in at_every_cut(cls(budget=budget), [sequence(i, n) for i, n in enumerate(LENGTHS)]):
        assert reduction.is_identity


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(method: Reducer, dtype: torch.dtype) -> None:
    """Features that half precision holds exactly give exactly what float32 gives."""
    sequences = [sequence(i, n) for i, n in enumerate(LENGTHS)]
    sequences = [replace(s, features=s.features.bfloat16().float().clamp(-4, 4)) for s in sequences]
    sequences = [replace(s, features=(s.features * 16).round() / 16) for s in sequences]
    half, full = (at_every_cut(method, sequences, dtype=d) for d in (dtype, torch.float32))
    for (_, a), (_, b) in zip(half, full, strict=True):
        assert same(a, b)


def test_configurations_survive_json(method: Reducer) -> None:
    assert type(method).from_json(method.to_json()) == method


@pytest.mark.parametrize("cls", METHODS)
def test_documents_its_paper(cls: type[Reducer]) -> None:
    assert cls.slug in ("random", "pool") or "arXiv" in " ".join((cls.__doc__ or "").split())
