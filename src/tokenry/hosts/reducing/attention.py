"""Exact quantities of one decoder layer's attention, from its queries and keys, without keeping its matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens import AttentionView
from tokenry.tokens.precision import without_autocast

_CHUNK_ELEMENTS = 1 << 24
"""Largest slice of the attention matrix held at once (float32: 64 MiB)."""


@dataclass(frozen=True, eq=False)
class ProbedAttention(AttentionView):
    """One layer's attention over its own tokens at prefill.

    Attributes:
        query: after RoPE.
        key: after RoPE, one per key-value head.
        mask: what attends to what, or None for plain causality.
        real: which columns are tokens, not padding.
        scale: factor on the logits.
    """

    query: Float[Tensor, "rows heads t d"]
    key: Float[Tensor, "rows kv t d"]
    mask: Bool[Tensor, "rows 1 t t"] | None
    real: Bool[Tensor, "rows t"]
    scale: float

    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads t"]:
        """Attention probabilities of one query per row, by default the last real token."""
        t = self.query.shape[2]
        if query is None:
            query = torch.where(self.real, torch.arange(t, device=self.real.device), -1).max(1).values
        picked = self.query.gather(
            2, query[:, None, None, None].expand(-1, self.query.shape[1], 1, self.query.shape[3])
        )
        return self._softmax(picked, query[:, None], 1.0)[:, :, 0]

    def rows(self, queries: Int[Tensor, "rows k"]) -> Float[Tensor, "rows heads k t"]:
        """Attention probabilities of several queries per row; those of a query -1 are zero."""
        rows, heads, _, d = self.query.shape
        index = queries.clamp(min=0)
        picked = self.query.gather(2, index[:, None, :, None].expand(rows, heads, -1, d))
        return self._softmax(picked, index, 1.0).masked_fill((queries < 0)[:, None, :, None], 0)

    def keys(self) -> Float[Tensor, "rows kv t d"]:
        """The keys, rotated; padding is zero."""
        return self.key.float().masked_fill(~self.real[:, None, :, None], 0)

    def mass(self, group: Bool[Tensor, "rows t"]) -> Float[Tensor, "rows heads t"]:
        """Probability mass that each query puts on a group of columns."""
        group = group.float()[:, None, :, None]
        return torch.cat([(p @ group)[..., 0] for _, p in self._chunks(1.0)], dim=2)

    def propagate(
        self, p: Float[Tensor, "rows heads t"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads t"]:
        """One step of ``p <- p @ softmax(logits / temperature)``."""
        total = torch.zeros_like(p)
        for queries, probabilities in self._chunks(temperature):
            total += (p[:, :, None, queries] @ probabilities)[:, :, 0]
        return total

    def _chunks(self, temperature: float) -> Iterator[tuple[slice, Float[Tensor, "rows heads c t"]]]:
        """The attention matrix in runs of queries. Padding queries attend to nothing."""
        rows, heads, t, _ = self.query.shape
        step = max(1, _CHUNK_ELEMENTS // max(1, rows * heads * t))
        index = torch.arange(t, device=self.query.device)
        for start in range(0, t, step):
            queries = slice(start, min(start + step, t))
            picked = self._softmax(
                self.query[:, :, queries], index[None, queries].expand(rows, -1), temperature
            )
            # Not a product: what padding computes may be NaN, and 0 * NaN is NaN.
            yield queries, torch.where(self.real[:, None, queries, None], picked, 0)

    def _softmax(
        self, query: Float[Tensor, "rows heads q d"], index: Int[Tensor, "rows q"], temperature: float
    ) -> Float[Tensor, "rows heads q t"]:
        rows, heads, q, d = query.shape
        kv, t = self.key.shape[1:3]
        # Query head h reads key-value head h // (heads / kv): fold the group into the query axis, copy no keys.
        folded = query.float().reshape(rows, kv, heads // kv * q, d)
        logits = (folded @ self.key.float().transpose(2, 3)).view(rows, heads, q, t) * (
            self.scale / temperature
        )
        if self.mask is None:
            allowed = torch.arange(t, device=index.device) <= index[..., None]
        else:
            allowed = self.mask[:, 0].gather(1, index[..., None].expand(-1, -1, t))
        allowed = allowed & self.real[:, None, :]
        return logits.masked_fill(~allowed[:, None], torch.finfo(torch.float32).min).softmax(-1)


@dataclass(frozen=True, eq=False)
class AttentionOfSome(AttentionView):
    """The attention of a layer as it was executed, shown over those of its tokens that are left.

    Attributes:
        executed: over all tokens that the layer ran on.
        index: where each token that is left stood among them; -1 = padding.
        width: how many tokens the layer ran on.
    """

    executed: AttentionView
    index: Int[Tensor, "rows m"]
    width: int

    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads m"]:
        """Attention probabilities of one query per row, by default the last real token."""
        if query is not None:
            query = self.index.gather(1, query[:, None])[:, 0]
        return self._of_left(self.executed.row(query))

    def rows(self, queries: Int[Tensor, "rows k"]) -> Float[Tensor, "rows heads k m"]:
        """Attention probabilities of several queries per row; those of a query -1 are zero."""
        among = self.index.gather(1, queries.clamp(min=0)).masked_fill(queries < 0, -1)
        return self._of_left(self.executed.rows(among).flatten(1, 2)).unflatten(1, (-1, queries.shape[1]))

    def keys(self) -> Float[Tensor, "rows kv m d"]:
        """The keys of the tokens that are left."""
        keys = self.executed.keys()
        index = self.index[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        return keys.gather(2, index.clamp(min=0)).masked_fill(index < 0, 0)

    def mass(self, group: Bool[Tensor, "rows m"]) -> Float[Tensor, "rows heads m"]:
        """Probability mass that each query puts on a group of columns."""
        whole = self._among_all(group[:, None].float())[:, 0] > 0
        return self._of_left(self.executed.mass(whole))

    def propagate(
        self, p: Float[Tensor, "rows heads m"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads m"]:
        """One step of ``p <- p @ softmax(logits / temperature)``; what goes to tokens that left is lost."""
        return self._of_left(self.executed.propagate(self._among_all(p), temperature))

    def _of_left(self, values: Float[Tensor, "rows heads t"]) -> Float[Tensor, "rows heads m"]:
        index = self.index[:, None].expand(-1, values.shape[1], -1)
        return values.gather(2, index.clamp(min=0)).masked_fill(index < 0, 0)

    def _among_all(self, values: Float[Tensor, "rows heads m"]) -> Float[Tensor, "rows heads t"]:
        slots = self.index.masked_fill(self.index < 0, self.width)
        slots = slots[:, None].expand_as(values)
        return values.new_zeros(*values.shape[:2], self.width + 1).scatter(2, slots, values)[
            ..., : self.width
        ]


def cls_logits(query: Tensor, key: Tensor, scale: float) -> Float[Tensor, "tiles heads k"]:
    """What [CLS], the first token of an encoder block, makes of all keys, itself included, in float32."""
    with without_autocast(query):
        first = query[:, :, :1].float() @ key.float().transpose(2, 3)
        return first[:, :, 0] * scale
