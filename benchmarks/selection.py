"""What choosing costs: every method's own time, against the prefill it shortens, and how it grows with the tokens."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

import tokenry as tk
from benchmarks.common import TEXT, VISUAL, interleave, llava, prompt, write
from tokenry.hosts.reducing.attention import ProbedAttention
from tokenry.tokens import Depth, TokenView

PICTURES, WIDTH, KEEP = 8, 1024, 64
DEPTH = Depth(encoder=24, decoder=4)
SIZES = (576, 2304, 9216)


def run(console: Console, rounds: int) -> None:
    """Selecting 64 of 576 tokens in 8 pictures, 1,024 wide, by every method; DivPrune and its double loop; growth."""
    model = llava()
    inputs = prompt(model, rows=PICTURES)

    def prefill() -> None:
        with torch.no_grad():
            model(
                **inputs | {"mm_encoder_outputs": dict(inputs["mm_encoder_outputs"])},
                logits_to_keep=1,
                use_cache=True,
            )

    methods = {slug: _at(cls) for slug, cls in tk.reducers().items()}
    views = {slug: _views(m) for slug, m in methods.items()}
    ways: dict[str, Any] = {"prefill": prefill}
    for slug, method in methods.items():
        ways[slug] = partial(_select, method, views[slug])
    picture = views["divprune"][0].features[0]
    ways["divprune, double loop"] = partial(_double_loop, picture, KEEP)
    timed = interleave(ways, max(3, rounds // 3), warm_up=1)
    rows = []
    for slug, method in methods.items():
        share = timed[slug].over(timed["prefill"])
        grown = _growth(method) if method.cuts(DEPTH) == (0,) else {}
        rows.append(
            {"method": slug, "ms for 8 pictures": 1e3 * timed[slug].median, "share of prefill": share} | grown
        )
    loop = timed["divprune, double loop"]
    rows.append(
        {
            "method": "divprune, plain double loop (one picture)",
            "ms for 8 pictures": 8e3 * loop.median,
            "times slower than ours": PICTURES * loop.over(timed["divprune"]),
        }
    )
    write("selection", rows, {"share of prefill": "<= 0.05", "times slower than ours": ">= 10"}, console)


def _at(cls: type[tk.Reducer]) -> tk.Reducer:
    return cls(budget=KEEP)


def _select(method: tk.Reducer, views: list[TokenView]) -> None:
    for view in views:
        method.apply(view)


def _views(method: tk.Reducer) -> list[TokenView]:
    """What a method is shown at each of its cuts: at the later ones, what the earlier ones left."""
    views, n = [], VISUAL
    for cut in method.cuts(DEPTH):
        views.append(_view(method, cut, n, PICTURES))
        n = int(method.apply(views[-1]).count.max())
    return views


def _growth(method: tk.Reducer) -> dict[str, float]:
    """Seconds per picture at 576, 2,304 and 9,216 tokens, and the exponent of growth between the last two."""
    views = {n: _view(method, 0, n, 1) for n in SIZES}
    timed = interleave({str(n): partial(_select, method, [view]) for n, view in views.items()}, 3, warm_up=1)
    ms = {n: 1e3 * timed[str(n)].median for n in SIZES}
    exponent = math.log(ms[SIZES[2]] / ms[SIZES[1]]) / math.log(SIZES[2] / SIZES[1])
    return {f"ms at {n}": ms[n] for n in SIZES} | {"exponent": exponent}


def _view(method: tk.Reducer, cut: int, n: int, items: int) -> TokenView:
    """Random tokens, as a method meets them at one of its cuts."""
    generator = torch.Generator().manual_seed(0)
    t = n + TEXT
    slot = torch.arange(8, 8 + n).expand(items, n)
    columns = torch.full((items, t), 2)
    columns[:, :8] = 0
    columns[:, 8 : 8 + n] = 1
    attention = None
    if method.needs(cut, DEPTH).attention:
        q, k = torch.randn(2, items, 12, t, 64, generator=generator)
        attention = ProbedAttention(q, k, None, torch.ones(items, t, dtype=torch.bool), 0.125)
    side = math.isqrt(n)
    return TokenView.of(
        torch.randn(items, n, WIDTH, generator=generator),
        grid=torch.tensor([1, side, side]).expand(items, 3),
        entry=torch.full((items,), VISUAL if cut else n),
        layer=cut,
        depth=DEPTH,
        slot=slot,
        columns=columns,
        key=torch.arange(items),
        text=torch.randn(items, 32, WIDTH, generator=generator),
        text_length=torch.full((items,), 32),
        cls_rows={i: torch.rand(items, 16, n, generator=generator) / n for i in range(DEPTH.encoder)},
        attention=attention,
    )


def _double_loop(x: Float[Tensor, "n d"], k: int) -> list[int]:
    """DivPrune as its definition reads: for every pick, every candidate, the nearest of all chosen."""
    x = torch.nn.functional.normalize(x, dim=1)
    distance = 1 - x @ x.T
    nearest = [min(float(distance[i, j]) for i in range(len(x)) if i != j) for j in range(len(x))]
    chosen = [max(range(len(x)), key=nearest.__getitem__)]
    while len(chosen) < k:
        best, where = -1.0, -1
        for j in range(len(x)):
            if j in chosen:
                continue
            gap = float(distance[chosen, j].min())
            if gap > best:
                best, where = gap, j
        chosen.append(where)
    return sorted(chosen)
