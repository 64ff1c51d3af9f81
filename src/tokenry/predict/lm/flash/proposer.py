"""FLASH: drafts for vision-language models from their own hidden states (arXiv 2505.12728).

`Flash` guesses several tokens in one pass of its drafter, `ChainDrafts`, the paper's baseline, one token a pass. The
drafters are those of `tokenry.predict.lm.flash.drafter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from typing import Final, Self, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts.upstream import DynamicCache, placeholder_of
from tokenry.predict.lm.flash.drafter import Drafter, visual_span
from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError

__all__ = ["ChainDrafts", "Flash", "likeliest_tree", "static_tree"]

_LEAST: Final = 1e-12  # of a probability: any number of different guesses can be drawn
_CHILDREN: Final = {
    "": 4, "0": 3, "1": 2, "2": 2, "3": 1, "00": 3, "01": 2, "02": 2, "10": 1, "000": 3, "0000": 2,
}  # fmt: skip
"""The paper's tree for a drafter of one token a pass: how many guesses follow each path of ranks."""


@cache
def static_tree(depth: int = 5) -> DraftTree:
    """The tree of 25 guesses, 4, 8, 8, 3 and 2 of them at depths 1 to 5, or its first levels.

    Raises:
        InputError: a depth that it does not have.
    """
    if not 1 <= depth <= 5:
        raise InputError(f"The static tree has 1 to 5 levels, got {depth}.")
    return DraftTree.from_paths(
        [*map(int, path), rank]
        for path, children in _CHILDREN.items()
        if len(path) < depth
        for rank in range(children)
    )


def likeliest_tree(
    probability: Float[np.ndarray, "k w"], nodes: int
) -> tuple[DraftTree, Float[np.ndarray, " n"]]:
    """The tree of the best guesses where each depth has its own distribution, the same behind every parent.

    A node is worth the product of the probabilities on its way; the best node comes first.

    Args:
        probability: of the candidates at each depth, in falling order.
        nodes: how many beside the root; fewer if there are no more.

    Returns:
        The tree, and what each node is worth; 1 for the root.
    """
    depths, width = probability.shape
    cost = -np.log(probability.astype(np.float64))
    parents, ranks, costs = [-1], [0], [0.0]
    # The next child of a parent, the best one first: (cost, depth, parent, rank).
    open_: list[tuple[float, int, int, int]] = [(cost[0, 0], 0, 0, 0)]
    while open_ and len(parents) <= nodes:
        worth, depth, parent, rank = heappop(open_)
        node = len(parents)
        parents.append(parent)
        ranks.append(rank)
        costs.append(worth)
        if rank + 1 < width:
            heappush(open_, (costs[parent] + cost[depth, rank + 1], depth, parent, rank + 1))
        if depth + 1 < depths:
            heappush(open_, (worth + cost[depth + 1, 0], depth + 1, node, 0))
    return DraftTree(np.array(parents), np.array(ranks)), np.exp(-np.array(costs))


@dataclass(eq=False)
class _Text:
    """What the drafter knows of one text.

    Attributes:
        span: where its picture lies among the hidden states.
        cache: the drafter's keys and values of what is verified and read.
        unread: hidden states that it has not read yet.
    """

    span: tuple[int, int]
    unread: list[Float[Tensor, "_ d"]]
    cache: DynamicCache = field(default_factory=DynamicCache)


@dataclass(eq=False)
class _FromHidden:
    """What proposers from hidden states share: reading what is verified, and the distributions of guesses.

    Attributes:
        drafter: guesses hidden states.
        model: whose text is drafted; its token embeddings and output layer are used.
        image_token: the id that stands for a visual position; by default the one that the model's configuration
            names.
        sample: draw the guesses, for `Rejection` and so for generation with `do_sample`; if False, the likeliest are
            taken, which is best for greedy decoding (either is exact with either).
        temperature: of the distributions that guesses are drawn from.
        generator: of the draws; torch's own if None.
    """

    drafter: Drafter
    model: PreTrainedModel
    image_token: int | None = None
    sample: bool = False
    temperature: float = 1.0
    generator: torch.Generator | None = None
    hidden: bool = field(init=False, repr=False, default=True)
    _texts: list[_Text] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                f"Guesses are drawn at a temperature above 0, got {self.temperature}; sample=False takes the likeliest."
            )
        embedding = cast(nn.Embedding, self.model.get_input_embeddings())
        if embedding.weight.shape[1] != self.drafter.config.width:
            raise InputError(
                f"The drafter reads hidden states of width {self.drafter.config.width}, "
                f"{type(self.model).__name__} has {embedding.weight.shape[1]}: it was trained for another model."
            )
        if self.image_token is None:
            self.image_token = placeholder_of(self.model.config, "image")
        self._embedding, self._head = embedding, cast(nn.Module, self.model.get_output_embeddings())

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Float[Tensor, "_ d"]] | None) -> None:
        """See `Proposer.begin`.

        Raises:
            InputError: no hidden states, or not one a token.
        """
        if hidden is None:
            raise InputError(f"{type(self).__name__} drafts from hidden states, and was given none.")
        self._texts = []
        for prompt, states in zip(prompts, hidden, strict=True):
            if len(states) != len(prompt):
                raise InputError(f"A prompt of {len(prompt)} tokens came with {len(states)} hidden states.")
            self._texts.append(_Text(visual_span(prompt, self.image_token), [states]))

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        if verified.hidden is None:
            raise InputError(f"{type(self).__name__} drafts from hidden states, and was given none.")
        self._texts[row].unread.append(verified.hidden[list(verified.accepted.path)])

    def _guess(self, row: int, text: Sequence[int]) -> Float[Tensor, "k d"]:
        """Read what was verified since the last time; the hidden states that come after the text's last one."""
        known = self._texts[row]
        like = self.drafter.fc.weight
        hidden = torch.cat(known.unread).to(like)
        known.unread.clear()
        if known.cache.get_seq_length():
            entered = self.drafter.pair(hidden, self._embed(text[-len(hidden) :]))[None]
        else:
            behind = len(hidden) - known.span[1]
            entered = self.drafter.enter(hidden[None], self._embed(text[-behind:])[None], known.span)
        return self.drafter.predict(self.drafter.read(entered, known.cache)[0, -1])

    def _embed(self, tokens: Sequence[int] | Int[np.ndarray, " m"]) -> Float[Tensor, "m d"]:
        like = self.drafter.fc.weight
        ids = torch.as_tensor(np.asarray(tokens), device=self._embedding.weight.device)
        return self._embedding(ids).to(like)

    def _distributions(self, states: Float[Tensor, "m d"]) -> Float[Tensor, "m v"]:
        """What the model's output layer makes of guessed states.

        Raises:
            TokenryError: they are not numbers, and nothing can be drawn from them.
        """
        logits = self._head(states.to(self._embedding.weight)).float()
        q = (logits / self.temperature if self.sample else logits).softmax(-1).clamp(min=_LEAST)
        if not bool(q.isfinite().all()):
            raise TokenryError(
                f"The {type(self.drafter).__name__} guesses hidden states that are not numbers: its training diverged, "
                f"or its precision ({self.drafter.fc.weight.dtype}) is too low."
            )
        return q / q.sum(-1, keepdim=True)

    def _candidates(self, q: Float[Tensor, "m v"], number: int) -> Int[np.ndarray, "m w"]:
        """Tokens from each distribution: the likeliest, or draws one after the other without replacement."""
        number = min(number, q.shape[1])
        if self.sample:  # the order in which exponential clocks of these rates ring is that of such draws
            q = q / torch.empty_like(q).exponential_(generator=self.generator)
        return q.topk(number, dim=-1).indices.cpu().numpy()


@dataclass(eq=False)
class Flash(_FromHidden):
    """Guess the next k tokens in one pass, and judge the likeliest combinations.

    Source: FLASH: Latent-Aware Semi-Autoregressive Speculative Decoding for Multimodal Tasks, arXiv 2505.12728. The
    drafter reads the model's hidden states (a picture's through a few latents), keeps keys and values of verified
    tokens alone, and gives one distribution for each of the k positions behind the root. They do not depend on each
    other, so siblings' children have the same distribution; the tree holds the `nodes` best paths by the product of
    their probabilities. (Published code evaluates with the other drafter and leaves this tree open.)

    With `sample` the shape of the tree depends on the distributions alone, never on what is drawn, and each position's
    draws serve all parents of that depth: only one of those can be reached, and it is reached independently of them,
    so `Rejection` stays lossless. (Published code draws the token behind a fully accepted path from unprocessed logits,
    which is not.)

    Attributes:
        nodes: most guesses in a tree.
    """

    nodes: int = 25

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """See `NamedProposer.for_model`.

        Raises:
            UnsupportedError: any model: drafters are trained for one, and tokenry ships none.
        """
        raise UnsupportedError(
            f"No drafter comes with tokenry, for {type(model).__name__} or another model. Train one "
            "(tokenry.predict.lm.flash.training), and pass Flash(load_drafter(folder), model)."
        )

    @torch.no_grad()
    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        most = min(limit, self.nodes)
        if most < 1:
            return Draft.of(text[-1], [])
        q = self._distributions(self._guess(row, text))
        tree, chance = likeliest_tree(q.topk(min(most, q.shape[1]), dim=-1).values.cpu().numpy(), most)
        tokens = self._candidates(q, int(tree.rank.max()) + 1)[tree.depth - 1, tree.rank]
        tokens[0] = text[-1]
        if not self.sample:
            return Draft(tree, tokens, chance=chance)
        # Nodes at the last depth have no children; their distribution is not looked at.
        return Draft(tree, tokens, proposal=q[np.minimum(tree.depth, len(q) - 1)], chance=chance)


@dataclass(eq=False)
class ChainDrafts(_FromHidden):
    """Guess one token a pass, along a tree of fixed shape: the baseline of FLASH (arXiv 2505.12728), as in EAGLE.

    Each level of the tree is one pass of the drafter, which reads its own guesses in place of the model's hidden
    states. Their keys and values are thrown away afterwards.

    Works with any drafter of one offset: `ChainDrafter`, or `FlashDrafter` with k = 1.

    Attributes:
        tree: its shape; a smaller limit takes the nodes of the best ranks.
    """

    tree: DraftTree = field(default_factory=static_tree)
    _parts: dict[int, DraftTree] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drafter.offsets != 1:
            raise InputError(f"A chain is drafted one token a pass; this drafter has {self.drafter.offsets}.")
        for below in self.tree.children:
            if [int(self.tree.rank[node]) for node in below] != list(range(len(below))):
                raise InputError(
                    "The children of a node have ranks 0, 1, 2 ... in this order, or draws would be lost."
                )

    @torch.no_grad()
    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        if limit < 1:
            return Draft.of(text[-1], [])
        tree = self._part(min(limit, self.tree.n - 1))
        kv = self._texts[row].cache
        states = {0: self._guess(row, text)[0]}  # what is guessed to follow each inner node
        verified = kv.get_seq_length()
        tokens = np.full(tree.n, text[-1], np.int64)
        proposal: dict[int, Tensor] = {}
        read: list[int] = []
        for depth, level in enumerate(tree.levels):
            parents = np.unique(tree.parent[level]).tolist()
            q = self._distributions(torch.stack([states[p] for p in parents]))
            proposal |= zip(parents, q, strict=True)
            candidates = self._candidates(q, int(tree.rank[level].max()) + 1)
            tokens[level] = candidates[np.searchsorted(parents, tree.parent[level]), tree.rank[level]]
            inner = [int(node) for node in level if tree.children[node]]
            if inner:
                ahead = self._read_level(tree, inner, read, tokens, states, kv, verified + depth)
                states |= zip(inner, ahead, strict=True)
                read += inner
        kv.crop(-len(read))
        if not self.sample:
            return Draft(tree, tokens)
        rows = [proposal.get(node, proposal[0]) for node in range(tree.n)]
        return Draft(tree, tokens, proposal=torch.stack(rows))

    def _read_level(
        self,
        tree: DraftTree,
        inner: list[int],
        read: list[int],
        tokens: Int[np.ndarray, " n"],
        states: dict[int, Tensor],
        kv: DynamicCache,
        position: int,
    ) -> Float[Tensor, "m d"]:
        """One pass over the inner nodes of a level, each of which sees the verified text and its ancestors."""
        before = torch.stack([states[int(tree.parent[node])] for node in inner])
        entered = self.drafter.pair(before, self._embed(tokens[inner]))[None]
        visible = np.ones((len(inner), kv.get_seq_length() + len(inner)), bool)
        drafted = [*read, *inner]
        visible[:, -len(drafted) :] = tree.ancestors[np.ix_(inner, drafted)]
        positions = torch.full((len(inner),), position, device=entered.device)
        seen = self.drafter.read(entered, kv, positions, torch.from_numpy(visible).to(entered.device))
        return self.drafter.predict(seen[0])[:, 0]

    def _part(self, nodes: int) -> DraftTree:
        """The nodes of the best ranks, as a tree."""
        if nodes not in self._parts:
            # Each node half as likely as its parent and as the sibling before it.
            worth = [0.5 ** sum(int(self.tree.rank[i]) + 1 for i in self.tree.path(node)[1:])
                     for node in range(self.tree.n)]  # fmt: skip
            self._parts[nodes] = self.tree.best(nodes, worth)
        return self._parts[nodes]
