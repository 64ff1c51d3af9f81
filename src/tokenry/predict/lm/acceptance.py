"""Which guesses of a draft tree are kept: rules that change nothing about what a model writes, and one that does.

Every rule walks from the root towards a leaf. At a node it has the model's distribution over the next token there,
made by the same logits processors as in ordinary decoding, and decides which child to go to or which token to write
instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError

Scores = Callable[[list[int]], Float[Tensor, " v"]]
"""The processed logits at the last of some nodes, which are a path from the root."""


@dataclass(frozen=True)
class Accepted:
    """The outcome of a walk.

    Attributes:
        path: accepted nodes, the root first.
        token: what comes after the last of them; the next root.
    """

    path: tuple[int, ...]
    token: int


@runtime_checkable
class Rule(Protocol):
    """A way of accepting guesses."""

    @property
    def lossless(self) -> bool:
        """Whether the text is distributed as without drafts."""
        ...

    def walk(self, draft: Draft, scores: Scores) -> Accepted:
        """Accept guesses of a draft.

        Args:
            draft: the guesses.
            scores: the model's processed logits at a node.
        """
        ...


@dataclass(frozen=True)
class Greedy:
    """Follow the likeliest token: the text is that of greedy decoding, token for token.

    Where several siblings carry that token, all are followed and the longest path is kept.
    """

    lossless: ClassVar[bool] = True

    def walk(self, draft: Draft, scores: Scores) -> Accepted:
        """See `Rule.walk`."""
        best = Accepted((0,), int(scores([0]).argmax()))
        open_ = [best]
        while open_:
            here = open_.pop()
            if len(here.path) > len(best.path):
                best = here
            for child in draft.tree.children[here.path[-1]]:
                if draft.tokens[child] == here.token:
                    path = (*here.path, child)
                    open_.append(Accepted(path, int(scores(list(path)).argmax())))
        return best


@dataclass(frozen=True)
class SampleAndMatch:
    """Draw from the model at each node and go on while a child carries what was drawn.

    Every token is a fresh draw from the model's own distribution, so nothing changes, whatever the drafts are. Best
    where drafts are no draws themselves (arXiv 2408.08696, 2405.18628).

    Attributes:
        generator: of the draws; torch's own if None, as in transformers.
    """

    generator: torch.Generator | None = None
    lossless: ClassVar[bool] = True

    def walk(self, draft: Draft, scores: Scores) -> Accepted:
        """See `Rule.walk`."""
        path = [0]
        while True:
            token = _draw(scores(path).softmax(-1), self.generator)
            following = [c for c in draft.tree.children[path[-1]] if draft.tokens[c] == token]
            if not following:
                return Accepted(tuple(path), token)
            path.append(following[0])


@dataclass(frozen=True)
class Rejection:
    """Recursive rejection over siblings that were drawn without replacement (as in EAGLE and FLASH, arXiv 2505.12728).

    A child x is accepted with probability min(1, p(x) / q(x)); if not, p becomes norm(max(p - q, 0)), x is taken out
    of q, and the next sibling is tried; behind the last one the token is drawn from what is left of p. Lossless if
    the children of every node were drawn from q one after the other without replacement. With one child it is
    ordinary speculative sampling.

    Attributes:
        generator: of the draws.
    """

    generator: torch.Generator | None = None
    lossless: ClassVar[bool] = True

    def walk(self, draft: Draft, scores: Scores) -> Accepted:
        """See `Rule.walk`.

        Raises:
            InputError: the draft does not say what its guesses were drawn from.
        """
        if draft.proposal is None and draft.tree.n > 1:
            raise InputError(
                "Rejection needs to know which distribution the guesses were drawn from (`Draft.proposal`); these were "
                "not drawn. SampleAndMatch is lossless for any guesses."
            )
        path = [0]
        while True:
            p = scores(path).softmax(-1)
            accepted = None
            children = draft.tree.children[path[-1]]
            q = p if draft.proposal is None or not children else draft.proposal[path[-1]].to(p)
            for child in children:
                x = int(draft.tokens[child])
                u = torch.rand((), generator=self.generator, device=p.device)
                if bool(u * q[x] < p[x]):
                    accepted = child
                    break
                p = _normalised((p - q).clamp(min=0), p)
                q = _normalised(q.index_fill(0, torch.tensor([x], device=q.device), 0.0), q)
            if accepted is None:
                return Accepted(tuple(path), _draw(p, self.generator))
            path.append(accepted)


@dataclass(frozen=True)
class Typical:
    """Accept what is likely enough: p(x) > min(epsilon, delta * exp(-entropy of p)). Faster, and not lossless.

    Among the acceptable paths the longest is kept; the token behind it is drawn from the model.

    Attributes:
        epsilon, delta: of the bound (Medusa's and PPD's defaults).
        generator: of the draw.
    """

    epsilon: float = 0.09
    delta: float = 0.3
    generator: torch.Generator | None = None
    lossless: ClassVar[bool] = False

    def walk(self, draft: Draft, scores: Scores) -> Accepted:
        """See `Rule.walk`."""
        best: list[int] = [0]
        open_ = [[0]]
        while open_:
            path = open_.pop()
            if len(path) > len(best):
                best = path
            children = draft.tree.children[path[-1]]
            if not children:
                continue
            p = scores(path).softmax(-1)
            entropy = float(torch.special.entr(p).sum())
            bound = min(self.epsilon, self.delta * float(np.exp(-entropy)))
            open_.extend([*path, c] for c in reversed(children) if float(p[int(draft.tokens[c])]) > bound)
        return Accepted(tuple(best), _draw(scores(best).softmax(-1), self.generator))


def _draw(p: Float[Tensor, " v"], generator: torch.Generator | None) -> int:
    return int(torch.multinomial(p, 1, generator=generator))


def _normalised(p: Float[Tensor, " v"], otherwise: Float[Tensor, " v"]) -> Float[Tensor, " v"]:
    """A distribution again; where nothing is left (p equals q up to rounding), what was there before."""
    total = p.sum()
    return p / total if float(total) > 0 else otherwise
