"""Laws of codes and latents: nothing gets lost on the way to a language model, to a file, or in a prefix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.strategies import laws, lengths, noise, seeds, widest
from tokenry.tokens.codes import Codes, Grid, Latents


@st.composite
def parts(draw: st.DrawFn) -> dict[str, Any]:
    """What ragged codes are made of, padded further than they need: any number of groups, on grids, in scales, or
    neither."""
    length = draw(lengths())
    sizes = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    width = widest(length) + draw(st.integers(0, 2))
    random = torch.Generator().manual_seed(draw(seeds))
    ids = torch.stack([torch.randint(k, (len(length), width), generator=random) for k in sizes], 2)
    ids = ids.masked_fill((torch.arange(width) >= length[:, None])[..., None], -1)
    grid, scales = draw(layouts(length))
    return dict(ids=ids, length=length, sizes=sizes, grid=grid, scales=scales, codec="made-up")


@st.composite
def layouts(draw: st.DrawFn, length: torch.Tensor) -> tuple[torch.Tensor | None, tuple[Grid, ...] | None]:
    """A grid or scales with a place for every token, or neither."""
    kind = draw(st.sampled_from(["grid", "scales", "neither"]))
    if kind == "neither":
        return None, None
    if kind == "grid":
        return torch.stack([torch.ones_like(length), length, torch.full_like(length, 2)], 1), None
    return None, ((1, 1, 1), (1, 2, 2), (1, 2, widest(length)))


def same(a: Codes, b: Codes) -> bool:
    """Whether two are equal, apart from how far they are padded."""
    n = min(a.width, b.width)
    grids = a.grid is b.grid is None or (a.grid is not None and b.grid is not None and a.grid.equal(b.grid))
    rest = bool((a.ids[:, n:] == -1).all()) and bool((b.ids[:, n:] == -1).all())
    parts = a.ids[:, :n].equal(b.ids[:, :n]) and a.length.equal(b.length)
    return parts and rest and grids and (a.sizes, a.scales, a.codec) == (b.sizes, b.scales, b.codec)


@laws
@given(parts(), st.integers(0, 50))
def test_flat_and_back(part: dict[str, Any], offset: int) -> None:
    made = Codes(**part)
    flat = made.flat(offset)
    assert same(
        Codes.of_flat(flat, made.sizes, made.codec, offset=offset, grid=made.grid, scales=made.scales), made
    )
    real = flat[flat >= 0]
    assert len(real) == int(made.length.sum()) * len(made.sizes)
    assert bool(((real >= offset) & (real < offset + sum(made.sizes))).all())


@laws
@given(parts(), st.integers(0, 9), st.integers(0, 9))
def test_prefixes_nest(part: dict[str, Any], n: int, m: int) -> None:
    made = Codes(**part)
    assert same(made.prefix(n).prefix(m), made.prefix(min(n, m)))
    assert made.prefix(n).length.tolist() == [min(n, k) for k in made.length.tolist()]
    assert same(made.prefix(made.width), made)


@laws
@given(parts())
def test_bits_are_tokens_times_the_bits_of_a_token(part: dict[str, Any]) -> None:
    made = Codes(**part)
    each = math.log2(math.prod(made.sizes))
    torch.testing.assert_close(made.bits(), made.length.double() * each)


@laws
@given(part=parts())
def test_a_file_holds_them_all(tmp_path: Path, part: dict[str, Any]) -> None:
    made = Codes(**part)
    made.to_safetensors(tmp_path / "codes.safetensors")
    read = Codes.from_safetensors(tmp_path / "codes.safetensors")
    assert same(read, made)
    assert read.width == made.width


@laws
@given(length=lengths(), seed=seeds)
def test_latents_have_prefixes_and_files_too(tmp_path: Path, length: torch.Tensor, seed: int) -> None:
    values = noise(len(length), widest(length), 3, seed=seed)
    made, path = Latents(values, length, None, "made-up"), tmp_path / "latents.safetensors"
    made.to_safetensors(path)
    read = Latents.from_safetensors(path)
    assert read.values.equal(values)
    assert read.length.equal(length)
    assert (read.grid, read.codec) == (None, "made-up")
    short = made.prefix(2)
    assert short.values.equal(values[:, :2])
    assert short.length.tolist() == [min(2, n) for n in length.tolist()]
