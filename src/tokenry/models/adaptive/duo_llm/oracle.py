"""The oracle of Duo-LLM (arXiv 2410.10846): of all routings of a token, the one that predicts the next token best.

For each token the routings of this token are tried, while the tokens before it keep the keys and values that a stated
policy gave them. Routings are walked as a tree: those that begin alike share their first layers, so that all 2^L of
them cost 2 (2^L - 1) feed-forward runs a token and not L 2^L. The states of a level of the tree, of all tokens of a
text, are the rows of one pass; a level that is too wide is cut into pieces that are walked one after the other.

An oracle knows the token that it is to predict: it says what routing could gain, and nothing that can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.hosts.masks import additive
from tokenry.hosts.upstream import (
    attention_kernel,
    cache_of,
    last_norm_of,
    layer_kinds,
    layers_of,
    rotary_of,
    sliding_window,
    with_cache,
)
from tokenry.models.adaptive.duo_llm.model import DuoFeedForward, DuoForCausalLM
from tokenry.models.adaptive.duo_llm.routing import LIMIT, Choice, Mix, Routing, every_routing
from tokenry.tokens.errors import InputError, UnsupportedError

__all__ = ["OracleResult", "oracle"]


@dataclass(frozen=True)
class OracleResult:
    """What every routing of every token would have cost.

    Attributes:
        routings: the routings, one `Choice` a layer.
        losses: nats of the next token, by token and routing.
        tokens: row and column of each token in the ids.
    """

    routings: Int[Tensor, "r l"]
    losses: Float[Tensor, "n r"]
    tokens: Int[Tensor, "n 2"]

    @property
    def bigs(self) -> Int[Tensor, " r"]:
        """How many layers of each routing are big."""
        return (self.routings == Choice.BIG).sum(1)

    def exactly(self, bigs: int) -> Float[Tensor, " n"]:
        """The loss of each token under its best routing with this number of big layers."""
        return self.losses.gather(1, self.best(bigs)[:, None]).squeeze(1)

    def at_most(self, bigs: int) -> Float[Tensor, " n"]:
        """The loss of each token under its best routing with this number of big layers or fewer."""
        return self._among(self.bigs <= bigs, f"at most {bigs}").amin(1)

    def best(self, bigs: int | None = None) -> Int[Tensor, " n"]:
        """Which routing is best for each token: of those with this number of big layers, or of all."""
        wanted = torch.ones_like(self.bigs, dtype=torch.bool) if bigs is None else self.bigs == bigs
        return self._among(wanted, f"exactly {bigs}").argmin(1)

    def layer_use(self, bigs: int) -> Float[Tensor, " l"]:
        """For what share of the tokens each layer is big in the best routing with this number of big layers."""
        return (self.routings[self.best(bigs)] == Choice.BIG).double().mean(0).float()

    @property
    def difficulty(self) -> Float[Tensor, " n"]:
        """What each token could gain: its loss with all layers small, minus that of its best routing."""
        return self.of([Choice.SMALL] * self.routings.shape[1]) - self.losses.amin(1)

    def of(self, routing: Sequence[int]) -> Float[Tensor, " n"]:
        """The loss of each token under one routing.

        Raises:
            InputError: If the routing was not tried.
        """
        wanted = tuple(int(choice) for choice in routing)
        match = (self.routings == self.routings.new_tensor(wanted)).all(1).nonzero()
        if not len(match):
            raise InputError(f"The routing {wanted} is not among the {len(self.routings)} tried.")
        return self.losses[:, int(match[0])]

    def _among(self, wanted: Bool[Tensor, " r"], what: str) -> Float[Tensor, "n r"]:
        if not wanted.any():
            raise InputError(
                f"No routing with {what} big layers was tried; there are some with {self.bigs.unique().tolist()}"
            )
        return self.losses.masked_fill(~wanted, torch.inf)


@torch.no_grad()
def oracle(
    duo: DuoForCausalLM,
    ids: Int[Tensor, "b s"],
    *,
    attention_mask: Int[Tensor, "b s"] | None = None,
    routings: Int[Tensor, "r l"] | None = None,
    groups: int | None = None,
    prefix: Routing = "big",
    limit: int = LIMIT,
    rows: int = 512,
) -> OracleResult:
    """Try the routings of every token that has a next one (arXiv 2410.10846, section on oracles).

    Args:
        duo: The conversion, in evaluation mode. What it is routed by stays as it is.
        ids: Texts.
        attention_mask: 0 at padding, left or right; padding is neither seen nor scored.
        routings: Which routings to try; all of them by default.
        groups: Of the default, see `every_routing`.
        prefix: How the tokens before the one that is tried were routed; see `DuoForCausalLM.route`.
        limit: More routings than this are refused.
        rows: States that go through a layer at once: memory is bounded by about `rows` rows of logits, and of keys and
            values of one text.

    Raises:
        InputError: If there are too many routings, if no token has a next one, or in training mode.
        UnsupportedError: If the layers of the model cannot be run one by one as they run in it.
    """
    if duo.training:
        raise InputError("The oracle measures, and this model is in training mode: call eval() first.")
    if isinstance(prefix, Mix) or (isinstance(prefix, str) and prefix == "soft"):
        raise InputError("The tokens of the prefix must have made choices: route it by anything but a mix.")
    if routings is None:
        routings = every_routing(len(duo.feed_forwards), duo.choices, groups, limit)
    _check(duo, routings, limit)
    mask = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    tree, inverse = _tree(routings.to(ids.device))
    found: list[Tensor] = []
    where: list[Tensor] = []
    for row in range(len(ids)):
        columns = mask[row].nonzero().squeeze(1)
        if len(columns) < 2:
            continue
        text = _text(duo, ids[row, columns], _part(prefix, row, columns), rows)
        if not found:
            text.check()
        found.append(text.walk(tree, torch.arange(len(columns) - 1, device=ids.device))[:, inverse])
        where.append(F.pad(columns[:-1, None], (1, 0), value=row))
    if not found:
        raise InputError("No token of these texts has a next token to predict.")
    return OracleResult(routings.to(ids.device), torch.cat(found), torch.cat(where))


def _check(duo: DuoForCausalLM, routings: Int[Tensor, "r l"], limit: int) -> None:
    """Refuse routings that are none of this model's, and too many of them."""
    layers = len(duo.feed_forwards)
    if not len(routings) or routings.shape[1] != layers:
        raise InputError(
            f"Routings have one choice for each of {layers} layers, got shape {tuple(routings.shape)}"
        )
    if len(routings) > limit:
        raise InputError(f"{len(routings)} routings are more than {limit}: try fewer, or raise the limit.")
    if not 0 <= int(routings.min()) <= int(routings.max()) < duo.choices:
        raise InputError(
            f"This model has choices 0 to {duo.choices - 1}, got {int(routings.min())} to {int(routings.max())}"
        )


# ---------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True)
class _Level:
    """The children of the nodes of one level: consecutive numbers in the next one.

    Attributes:
        first: number of each node's first child.
        count: how many children it has.
        choice: what each child chooses.
    """

    first: Int[Tensor, " nodes"]
    count: Int[Tensor, " nodes"]
    choice: Int[Tensor, " children"]


def _tree(routings: Int[Tensor, "r l"]) -> tuple[list[_Level], Int[Tensor, " r"]]:
    """Join routings that begin alike; the leaf of each routing comes with it."""
    unique, inverse = routings.unique(dim=0, return_inverse=True)  # in lexicographic order
    node, levels = routings.new_zeros(len(unique)), []
    for layer in range(routings.shape[1]):
        new = (unique[1:, : layer + 1] != unique[:-1, : layer + 1]).any(1)
        begins = F.pad(new, (1, 0), value=True)
        parents = node[begins]
        count = torch.bincount(parents)
        levels.append(_Level(count.cumsum(0) - count, count, unique[begins, layer]))
        node = begins.long().cumsum(0) - 1
    return levels, inverse


class _Recorder(nn.Module):
    """Stands in for the feed-forward part of a layer: keeps what comes in, and adds nothing to the stream."""

    seen: Tensor

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        self.seen = x
        return torch.zeros_like(x)


@dataclass(frozen=True)
class _Beside:
    """A cache that shows a layer the keys and values of the text before its own, and keeps none."""

    keys: Float[Tensor, "1 h p k"]
    values: Float[Tensor, "1 h p k"]

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)


@dataclass(frozen=True)
class _Text:
    """One text after the pass under the policy of the prefix.

    Attributes:
        duo: the model.
        ids: tokens of the text.
        keys, values: of all tokens, by layer.
        choices: of all tokens, by the policy.
        last: the loss of the last token that has a next one, as the model itself has it.
        rows: states that go through a layer at once.
    """

    duo: DuoForCausalLM
    ids: Int[Tensor, " n"]
    keys: tuple[Float[Tensor, "1 h n k"], ...]
    values: tuple[Float[Tensor, "1 h n k"], ...]
    choices: Int[Tensor, "n l"]
    last: Float[Tensor, ""]
    rows: int

    def walk(self, tree: list[_Level], columns: Int[Tensor, " m"]) -> Float[Tensor, "m r"]:
        """The losses of some tokens under all routings of a tree, in the order of its leaves."""
        parts = self.duo.feed_forwards
        hidden = self.duo.get_input_embeddings()(self.ids[columns])
        with _branching(self.duo) as recorders:
            found = self._descend(tree, parts, recorders, 0, hidden, columns, torch.zeros_like(columns))
        return found.view(len(columns), -1)

    def _descend(
        self,
        tree: list[_Level],
        parts: list[DuoFeedForward],
        recorders: list[_Recorder],
        layer: int,
        hidden: Float[Tensor, "m d"],
        columns: Int[Tensor, " m"],
        nodes: Int[Tensor, " m"],
    ) -> Float[Tensor, " leaves"]:
        """The losses of everything below some states, which are at nodes of one level."""
        if len(hidden) > self.rows:
            pieces = zip(
                hidden.split(self.rows), columns.split(self.rows), nodes.split(self.rows), strict=True
            )
            return torch.cat([self._descend(tree, parts, recorders, layer, *piece) for piece in pieces])
        if layer == len(tree):
            return self._losses(hidden, columns)
        attended = self._attend(layer, hidden, columns)
        level, normed = tree[layer], recorders[layer].seen[0]
        count = level.count[nodes]
        parent = torch.arange(len(nodes), device=nodes.device).repeat_interleave(count)
        before = (count.cumsum(0) - count)[parent]
        child = level.first[nodes][parent] + torch.arange(len(parent), device=nodes.device) - before
        choice = level.choice[child]
        out = attended[parent]
        for kind in (Choice.SMALL, Choice.BIG):
            chosen = (choice == kind).nonzero().squeeze(1)
            if len(chosen):
                out = out.index_add(0, chosen, parts[layer].run(normed[parent[chosen]], kind))
        return self._descend(tree, parts, recorders, layer + 1, out, columns[parent], child)

    def _attend(
        self, layer: int, hidden: Float[Tensor, "m d"], columns: Int[Tensor, " m"]
    ) -> Float[Tensor, "m d"]:
        """Run a layer without its feed-forward part: each state sees the text before its token, and itself."""
        decoder: Any = self.duo.model.get_decoder()
        rotary: Any = rotary_of(decoder)
        past, m = int(columns.max()), len(hidden)
        sees = torch.cat(
            [
                torch.arange(past, device=columns.device) < columns[:, None],
                torch.eye(m, dtype=torch.bool, device=columns.device),
            ],
            1,
        )
        before = _Beside(self.keys[layer][:, :, :past], self.values[layer][:, :, :past])
        out: Tensor = decoder.layers[layer](
            hidden[None],
            attention_mask=additive(sees[None, None], hidden.dtype),
            position_ids=columns[None],
            **with_cache(decoder.layers[layer], before),
            use_cache=True,
            position_embeddings=rotary(hidden[None], columns[None]),
        )
        return out[0]

    def _losses(self, hidden: Float[Tensor, "m d"], columns: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        host: Any = self.duo.model
        norm: Any = last_norm_of(host.get_decoder())
        logits = host.get_output_embeddings()(norm(hidden))
        return F.cross_entropy(logits.float(), self.ids[columns + 1], reduction="none")

    def check(self) -> None:
        """Compare a walk under the policy's own routing with what the model said.

        Raises:
            UnsupportedError: If they differ: the model does something between its layers that the walk does not know.
        """
        column = len(self.ids) - 2
        tree, _ = _tree(self.choices[column : column + 1])
        mine = float(self.walk(tree, torch.tensor([column], device=self.ids.device)))
        exact = self.keys[0].dtype in (torch.float32, torch.float64)
        if not abs(mine - float(self.last)) <= (1e-3 if exact else 0.1) * max(1.0, abs(float(self.last))):
            raise UnsupportedError(
                f"The layers of {type(self.duo.model).__name__}, run one by one, predict a token with {mine:.4f} nats "
                f"and the model itself with {float(self.last):.4f}: the oracle does not know what this model does."
            )


def _text(duo: DuoForCausalLM, ids: Int[Tensor, " n"], prefix: Routing, rows: int) -> _Text:
    """Run one text under the policy of the prefix."""
    decoder, config = duo.model.get_decoder(), duo.model.config
    name = type(duo.model).__name__
    parts = {"list of layers": layers_of, "norm": last_norm_of, "rotary position embedding": rotary_of}
    missing = next((what for what, find in parts.items() if find(decoder) is None), None)
    if missing is not None:
        raise UnsupportedError(
            f"The decoder of {name} has no {missing}: the oracle runs models built like Llama."
        )
    if attention_kernel(config) not in ("sdpa", "eager"):
        raise UnsupportedError(
            f"The oracle needs sdpa or eager attention, which take masks; {name} has {attention_kernel(config)!r}"
        )
    window = sliding_window(config)
    kinds = set(layer_kinds(config) or ("sliding_attention" if window else "full_attention",))
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise UnsupportedError(
            f"{name} has layers with {sorted(unknown)[0]}: the oracle walks full attention only."
        )
    if "sliding_attention" in kinds and window is not None and len(ids) >= window:
        # its cache lets go of the first token one token before its attention does
        raise UnsupportedError(
            f"{name} attends to {window} tokens and the text has {len(ids)}: hand in texts that are shorter."
        )
    with duo.routed(prefix), duo.traced() as trace:
        out = duo.model(input_ids=ids[None], use_cache=True)
    logits, cache = out.logits[0, -2].float(), cache_of(out)
    return _Text(
        duo,
        ids,
        tuple(layer.keys for layer in cache.layers),
        tuple(layer.values for layer in cache.layers),
        trace.choices[0],
        F.cross_entropy(logits, ids[-1]),
        rows,
    )


def _part(prefix: Routing, row: int, columns: Int[Tensor, " n"]) -> Routing:
    """What a policy says of the tokens of one text, without its padding."""
    if not isinstance(prefix, Tensor) or prefix.ndim != 3:
        return prefix
    if int(columns[-1]) >= prefix.shape[1] or (len(prefix) > 1 and row >= len(prefix)):
        raise InputError(
            f"The routing of the prefix has shape {tuple(prefix.shape)}, too small for these texts."
        )
    return prefix[row if len(prefix) > 1 else 0, columns.to(prefix.device)][None]


@contextmanager
def _branching(duo: DuoForCausalLM) -> Iterator[list[_Recorder]]:
    """Inside, layers end before their feed-forward part, and its input is kept."""
    layers, parts = duo.model.get_decoder().layers, duo.feed_forwards
    recorders = [_Recorder() for _ in parts]
    try:
        for layer, recorder in zip(layers, recorders, strict=True):
            layer.mlp = recorder
        yield recorders
    finally:
        for layer, part in zip(layers, parts, strict=True):
            layer.mlp = part
