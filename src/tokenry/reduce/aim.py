"""AIM: merge similar tokens before the language model, then prune layer by layer by PageRank."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenry.reduce.base import Reducer, layer_at
from tokenry.reduce.shared.matching import bipartite_match, merge_onto
from tokenry.tokens import BudgetLike, Depth, Needs, ReadAttention, Reduction, Stage, TokenryError, TokenView


@dataclass(frozen=True, kw_only=True)
class AIM(Reducer):
    """Merge the visual tokens of each frame down to the budget; inside the model, prune the rest linearly to none.

    *AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning*, arXiv 2412.03248. On the way in, each
    frame (or tile) is halved again and again by bipartite matching of its own embeddings (cosine): n/2 tokens merge,
    then n/4, ..., the last round only as many as the budget asks; outputs are unweighted means of means, as in the
    code. After decoder layer `start` and each one up to `end`, tokens are ranked by PageRank on that layer's attention
    graph, ``p <- (1 - damping) p softmax(logits / temperature) + damping / T`` from a uniform p over all T tokens, root
    mean square over heads; the visual tokens left fall linearly, to none after layer `end`. Cost: the similarities of
    half the tokens to the other half, and `iterations` attention passes with one extra column per pruning layer.

    The authors give the schedule as (first layer, slope): (14, 0.125) for 28 layers, (13, 0.125) for 32. That is
    ``start=14, end=21`` and ``start=13, end=20``: the slope is 1 / (end - start + 1). Here the default is half to three
    quarters of depth, the first of the two. Counts are floored, as in the code, of the tokens that merging left.

    Paper and code agree on the mathematics; the code, however, only *masks* pruned tokens. For a given kept set text
    rows are the same, but its PageRank also starts from masked rows and from padding, which spread their share of the
    initial mass. Here dropped tokens are gone and padding never counts, so that a result does not depend on the batch;
    kept sets can differ from the code's from the second pruning layer on. Also: the code ranks all visual tokens of a
    sequence together, here each picture keeps its own share; merged outputs come in raster order.

    A budget of 100 % is the identity: pruning is off. For pruning alone give a count that no picture exceeds.

    Attributes:
        budget: tokens that merging leaves per picture or video (paper: 25 % of a video, 12.5 % of an image).
        start: first layer after which tokens are pruned (a number or a share of depth); None: merge only.
        end: the layer after which no visual token is left.
        temperature: of the attention graph's softmax.
        iterations: PageRank steps.
        damping: share of the uniform distribution in the result of every step.
    """

    slug: ClassVar[str] = "aim"
    stage: ClassVar[Stage] = Stage.LAYER

    budget: BudgetLike = 0.25
    start: int | float | None = 0.5
    end: int | float = 0.75
    temperature: float = 0.1
    iterations: int = 5
    damping: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or self.iterations < 0 or not 0 <= self.damping <= 1:
            raise TokenryError(
                f"aim: temperature is above 0, iterations at least 0 and damping in [0, 1]; got {self.temperature!r}, "
                f"{self.iterations!r}, {self.damping!r}."
            )

    def retention(self, layer: int, depth: Depth) -> tuple[int, int]:
        """The share of merged tokens left *after* decoder layer `layer`, as an exact fraction."""
        if self.start is None or self.limit.share == 1:
            return 1, 1
        start, end = layer_at(self.start, depth.decoder), layer_at(self.end, depth.decoder)
        if start > end:
            raise TokenryError(
                f"aim prunes from layer `start` to `end`; {self.start}..{self.end} is {start}..{end}."
            )
        steps = end - start + 1
        return min(max(end - layer, 0), steps), steps

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """The way in, and after every layer at which tokens leave."""
        shares = [self.retention(layer, depth)[0] for layer in range(-1, depth.decoder - 1)]
        return (0, *(i + 1 for i in range(len(shares) - 1) if shares[i + 1] < shares[i]))

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The attention of the layer just executed, unless nothing or everything leaves."""
        read = layer > 0 and self.retention(layer - 1, depth)[0] > 0
        return Needs(attention=ReadAttention.PREVIOUS) if read else Needs()

    def keep(self, view: TokenView) -> Int[Tensor, " items"]:
        """The budget on the way in; later the schedule's share of what merging left, rounded down."""
        merged = self.limit.resolve(view.entry, view.row)
        if view.layer == 0:
            return merged.minimum(view.length)
        left, steps = self.retention(view.layer - 1, view.depth)
        return (merged * left // steps).minimum(view.length)

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Merge on the way in, prune by PageRank later."""
        if view.layer == 0:
            return self.merge(view, keep)
        read = self.needs(view.layer, view.depth).attention is not None
        score = view.of_columns(self.importance(view)) if read else torch.zeros_like(view.features[..., 0])
        return Reduction.top(score, keep, view.length)

    def merge(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Halve every frame until the budget is met."""
        items, n = view.tile.shape
        if bool((keep == view.length).all()):
            return Reduction.identity(view.length, n)
        index, owner, wanted = _frames(view, keep)
        size = (index >= 0).sum(1)
        x = view.features[owner[:, None], index.clamp(min=0)].float()
        done = Reduction.identity(size)
        round_ = 0
        while bool((done.count > wanted).any()):
            round_ += 1
            # The code takes r from the frame's first count; an odd count may need one more merge than that gives.
            r = (size >> round_).clamp(min=1).minimum(done.count // 2).minimum(done.count - wanted)
            step = bipartite_match(x, done.count, r).reduction
            x, done = step.apply(x), done.compose(step)

        real = index >= 0
        place = (owner[:, None].expand_as(index)[real], index[real])
        target = torch.full_like(view.source, -1)
        target[place] = index.gather(1, done.anchor.gather(1, done.group.clamp(min=0)))[real]
        weight = torch.zeros(items, n, device=index.device)
        weight[place] = done.weight[real]
        return merge_onto(target, view.length, weight)

    def importance(self, view: TokenView) -> Float[Tensor, "rows t"]:
        """PageRank of every column on the layer's attention graph: root mean square over heads."""
        real = view.columns >= 0
        # A row of attention says how many heads there are.
        uniform = (real / real.sum(1, keepdim=True).clamp(min=1))[:, None].expand_as(view.attention.row())
        p = uniform
        for _ in range(self.iterations):
            received = view.attention.propagate(p, self.temperature)
            p = (1 - self.damping) * received + self.damping * uniform
        return p.square().mean(1).sqrt()


def _frames(
    view: TokenView, keep: Int[Tensor, " items"]
) -> tuple[Int[Tensor, "frames w"], Int[Tensor, " frames"], Int[Tensor, " frames"]]:
    """The tokens of every frame (or tile) of every item, the item it belongs to, and how many tokens it keeps.

    Tokens of no tile (newlines) are a frame of their own. An item that keeps less than one token per frame is treated
    as a single frame: merging within frames could not get there.
    """
    index: list[Tensor] = []
    owner: list[int] = []
    wanted: list[int] = []
    for i, (n, k) in enumerate(zip(view.length.tolist(), keep.tolist(), strict=True)):  # frames, not tokens
        tile = view.tile[i, :n]
        labels = tile.unique()
        tile = torch.zeros_like(tile) if k < len(labels) else tile
        frames = [(tile == label).nonzero()[:, 0] for label in tile.unique()]
        index += frames
        owner += [i] * len(frames)
        wanted += _split(k, [len(frame) for frame in frames])
    padded = pad_sequence(index, batch_first=True, padding_value=-1)
    return padded, torch.tensor(owner, device=padded.device), torch.tensor(wanted, device=padded.device)


def _split(keep: int, sizes: list[int]) -> list[int]:
    """Split a count over frames in proportion to their sizes, at least 1 each, adding up exactly."""
    spare, extra = keep - len(sizes), sum(sizes) - len(sizes)
    # Rounding the running total, not each share, makes the parts add up.
    until = [
        (2 * spare * (total - i) + extra) // (2 * extra or 1) for i, total in enumerate(accumulate(sizes), 1)
    ]
    return [1 + b - a for a, b in pairwise([0, *until])]
