"""Keys and values of many token sequences that share beginnings: one cache, grown as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.hosts.treepass import (
    copied_columns,
    plain_cache,
    require_full_attention,
    tree_pass,
)
from tokenry.hosts.upstream import longest_text, parameters
from tokenry.predict.lm.byte_probabilities.validity import ValidityContext
from tokenry.tokens.errors import InputError

_PREFILL = 512  # tokens a forward pass of a prompt


@dataclass(eq=False)
class PrefixNode:
    """A token sequence, as its last token and the sequence before it.

    Attributes:
        token: last token.
        parent: the sequence without it; None at the start.
        position: of the last token in its sequence.
        context: what may follow it.
        visible: slots of the cache that hold this sequence.
        logits: of the next token, until they are used.
    """

    token: int
    parent: PrefixNode | None
    position: int
    context: ValidityContext
    visible: Bool[np.ndarray, " slots"] = field(default_factory=lambda: np.zeros(0, bool))
    logits: Float[Tensor, " v"] | None = None

    def tokens(self) -> tuple[int, ...]:
        """The tokens of the sequence after the start."""
        found: list[int] = []
        node = self
        while node.parent is not None:
            found.append(node.token)
            node = node.parent
        return tuple(reversed(found))


class TokenForest:
    """One key-value cache for the token sequences of several rows, each row a tree.

    Every token is one slot, appended and never overwritten; a sequence is the set of its slots, and attends to nothing
    else (an explicit mask and explicit positions). So a sequence that shares all but its last token with another costs
    one token, and branches cannot disturb one another. `compact` drops what no sequence needs any more.

    Args:
        model: a causal language model whose layers all attend to the whole context.
        rows: number of rows.

    Raises:
        UnsupportedError: a model with layers whose cache holds no single tokens.
    """

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model = model
        self.rows = rows
        self.length = 0
        self._cache = plain_cache(model)
        self._limit = longest_text(model.config)

    def prefill(
        self, sequences: Sequence[Sequence[int]], contexts: Sequence[ValidityContext]
    ) -> list[PrefixNode]:
        """Put one token sequence into every (empty) row.

        Args:
            sequences: tokens of each row, at least one.
            contexts: what may follow each.
        """
        width = max(map(len, sequences))
        lengths = torch.tensor([len(s) for s in sequences])
        ids = torch.zeros(self.rows, width, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, width - len(sequence) :] = torch.tensor(sequence)
        column = torch.arange(width)
        real = column >= width - lengths[:, None]
        positions = (column - (width - lengths[:, None])).clamp(min=0)
        logits = None
        for a in range(0, width, _PREFILL):
            b = min(a + _PREFILL, width)
            seen = (column[:b] <= column[a:b, None]) & real[:, None, :b]
            seen |= torch.eye(b, dtype=torch.bool)[a:b]  # padding sees itself: no row of a softmax is empty
            logits = self._forward(ids[:, a:b], positions[:, a:b], seen, keep=1)
        assert logits is not None
        visible = real.numpy()
        return [
            PrefixNode(sequences[r][-1], None, len(sequences[r]) - 1, contexts[r], visible[r], logits[r, -1])
            for r in range(self.rows)
        ]

    def extend(self, nodes: Sequence[Sequence[PrefixNode]]) -> None:
        """Run the model on new nodes, one forward pass for all rows.

        Args:
            nodes: new nodes of each row, parents before children; gives them their slots and logits.
        """
        width = max(map(len, nodes))
        if not width:
            return
        ids = torch.zeros(self.rows, width, dtype=torch.long)
        positions = torch.zeros(self.rows, width, dtype=torch.long)
        seen = np.zeros((self.rows, width, self.length + width), bool)
        own = np.arange(width)
        seen[:, own, self.length + own] = True
        for row, new in enumerate(nodes):
            for j, node in enumerate(new):
                assert node.parent is not None
                before = node.parent.visible
                seen[row, j, : len(before)] |= before
                node.visible = seen[row, j, : self.length + j + 1].copy()
                ids[row, j] = node.token
                positions[row, j] = node.position
        logits = self._forward(ids, positions, torch.from_numpy(seen), keep=width)
        for row, new in enumerate(nodes):
            for j, node in enumerate(new):
                node.logits = logits[row, j]

    def _forward(self, ids: Tensor, positions: Tensor, seen: Tensor, keep: int) -> Tensor:
        last = int(positions.max()) + 1
        if self._limit is not None and last > self._limit:
            raise InputError(
                f"The text needs {last} positions and the model has {self._limit}; give it less context."
            )
        require_full_attention(self.model, last)
        device = self.model.device
        more = {"logits_to_keep": keep} if _keeps_logits(self.model) else {}
        rows = {"input_ids": ids.to(device)}
        with torch.inference_mode():
            out = tree_pass(self.model, self._cache, rows, seen.to(device), positions.to(device), **more)
        if getattr(out, "logits", None) is None:
            raise InputError(
                f"{type(self.model).__name__} gives no logits: load it with its language-model head "
                "(AutoModelForCausalLM)."
            )
        self.length += ids.shape[1]
        logits: Tensor = out.logits[:, -keep:]
        return logits

    def wasteful(self, live: int) -> bool:
        """Whether the cache holds so much more than needed that copying the rest pays."""
        return self.length > live + 32 + live // 4

    def compact(self, rows: Sequence[int], visible: Sequence[Bool[np.ndarray, " slots"]]) -> Self:
        """A forest with some of the rows, and in each only the slots that are still visible to something.

        Args:
            rows: rows to keep; a new forest's row i is this one's ``rows[i]``.
            visible: slots to keep in each of them.
        """
        kept = type(self)(self.model, len(rows))
        index = self.slots(visible)
        kept._cache = copied_columns(self.model, self._cache, rows, index)
        kept.length = index.shape[1]
        return kept

    @staticmethod
    def slots(visible: Sequence[Bool[np.ndarray, " slots"]]) -> np.ndarray:
        """Indices of the visible slots of each row, padded on the left with slot 0 (which no node sees there)."""
        kept = [np.flatnonzero(v) for v in visible]
        width = max(map(len, kept))
        index = np.zeros((len(kept), width), np.int64)
        for row, slots in enumerate(kept):
            index[row, width - len(slots) :] = slots
        return index


def moved(node: PrefixNode, slots: np.ndarray, count: int) -> PrefixNode:
    """A node's copy in a compacted forest.

    Args:
        node: the node.
        slots: its row of `TokenForest.slots`.
        count: how many of them, at the end, are no padding.
    """
    visible = np.zeros(len(slots), bool)
    real = slots[len(slots) - count :]
    inside = real < len(node.visible)
    visible[len(slots) - count :][inside] = node.visible[real[inside]]
    return PrefixNode(node.token, node.parent, node.position, node.context, visible, node.logits)


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in parameters(model)
