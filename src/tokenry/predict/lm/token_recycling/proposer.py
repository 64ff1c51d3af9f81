"""Token Recycling: the candidates that decoding throws away are the next drafts (arXiv 2408.08696)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.hosts.reducing.hooks import paused
from tokenry.predict.lm.guesses import Guesses, TrackRecord
from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.token_recycling.warm_up import usual_successors
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

_FILE: Final = "recycling.safetensors"

_CHILDREN: Final = {
    "": 8, "0": 8, "1": 4, "2": 3, "3": 2, "4": 1, "5": 1, "6": 1, "7": 1,
    "00": 8, "01": 3, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1, "07": 1, "10": 2, "11": 1, "20": 1, "30": 1,
    "40": 1, "50": 1,
    "000": 5, "001": 2, "002": 1, "003": 1, "004": 1, "010": 1, "020": 1, "100": 1, "200": 1, "300": 1,
    "0000": 3, "0001": 1, "0002": 1, "0010": 1, "0100": 1, "1000": 1,
    "00000": 2, "00010": 1,
}  # fmt: skip
"""The paper's tree: how many candidates follow each path of ranks."""


@cache
def template() -> DraftTree:
    """The tree of 80 guesses: 8, 21, 25, 15, 8 and 3 of them at depths 1 to 6."""
    return DraftTree.from_paths(
        [*map(int, path), rank] for path, children in _CHILDREN.items() for rank in range(children)
    )


@dataclass(eq=False)
class TokenRecycling:
    """Guess from the likeliest successors that each token had the last time the model saw it.

    Source: Turning Trash into Treasure: Accelerating Inference of LLMs with Token Recycling, arXiv 2408.08696. A
    matrix holds, for every token, the `k` tokens that the model found likeliest after it, in order; a breadth-first
    walk through it fills a tree of fixed shape. Every pass updates the rows of all tokens that it saw, accepted or
    not. The matrix is kept from text to text.

    The paper judges all 80 guesses of the template in every pass. Here the best of them come first, so that a pass may
    judge as many as repay their time: how often each node of the template comes true is counted as texts go by. The
    successions in a prompt are put into the matrix too, where it does not know them (`update_from_prompt`; published
    code has nothing of a prompt). Published code leaves open which row counts when a token occurs twice in a pass;
    here the last one in the draft's order does, and accepted nodes come last.

    Attributes:
        vocabulary: number of token ids. It grows with the model's: tokens may be added while a decoder is in use.
        k: successors that are kept, at least the template's widest node (8). With 32-bit ids a vocabulary of 50,000
            takes 1.6 MB.
        tree: the template.
        update_from_prompt: whether to learn from prompts which tokens follow each other in them.
    """

    vocabulary: int
    k: int = 8
    tree: DraftTree = field(default_factory=template)
    update_from_prompt: bool = True
    hidden: ClassVar[bool] = False
    successors: Int[np.ndarray, "vocabulary k"] = field(init=False, repr=False)
    _record: TrackRecord = field(init=False, repr=False)
    _order: list[int] = field(init=False, repr=False)
    _last: dict[int, Guesses] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not int(self.tree.rank.max()) < self.k <= self.vocabulary:
            raise InputError(
                f"The template asks for candidate {int(self.tree.rank.max())}, and {self.k} are kept of a vocabulary "
                f"of {self.vocabulary}: keep more than the one, and no more than the other."
            )
        self.successors = np.full((self.vocabulary, self.k), -1, np.int32)
        # A belief to begin with: the first candidate is right in two of five cases, every further one half as often.
        self._record = TrackRecord(0.4 * 0.5**self.tree.rank)
        self._sort()

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """See `NamedProposer.for_model`: an empty matrix for the model's vocabulary."""
        return cls(int(model.config.get_text_config().vocab_size))

    def warm_up(self, model: PreTrainedModel, folder: Path | None = None) -> None:
        """See `WarmProposer.warm_up`: the matrix begins with what the model expects after each token.

        That costs as much as reading a text as long as the vocabulary: a minute for SmolLM2 on one CPU core.
        """
        if folder is not None and folder.exists():
            self.load(folder)
            return
        with paused(model):
            self.successors[:] = usual_successors(model, k=self.k)
        if folder is not None:
            self.save(folder)

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`. The matrix stays."""
        self._reach(max((max(prompt, default=0) for prompt in prompts), default=0) + 1)
        if self.update_from_prompt:
            for prompt in prompts:
                for token, successor in pairwise(prompt):
                    self._promote(token, successor)
        self._last.clear()
        self._sort()

    def guesses(self, row: int, text: Sequence[int], limit: int) -> Guesses:
        """See `Guesser.guesses`."""
        self._reach(text[-1] + 1)
        found = self._last[row] = Guesses(text[-1])
        place = {0: 0}
        rates = self._record.rates()
        parent, rank = self.tree.parent, self.tree.rank
        for node in self._order:
            if len(found) > limit:
                break
            above = place.get(int(parent[node]))
            if above is None:  # a token that was never seen has no successors; nor have its descendants
                continue
            token = int(self.successors[found.tokens[above], rank[node]])
            if token >= 0:
                place[node] = found.add(above, token, rates[node], node)
        return found

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self.guesses(row, text, limit).draft(limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        self._reach(verified.logits.shape[-1])
        best = verified.logits.topk(self.k, dim=-1).indices.to("cpu", torch.int32).numpy()
        path = list(verified.accepted.path)
        tokens = verified.draft.tokens
        self.successors[tokens] = best  # of equal tokens, the last one counts
        self.successors[tokens[path]] = best[path]
        if row in self._last:
            self._last.pop(row).judge(verified.written, self._record)

    def save(self, folder: Path) -> None:
        """Write the matrix to ``recycling.safetensors`` in a folder, so that another process need not start cold.

        Raises:
            InputError: it cannot be written; what was there before is untouched.
        """
        with whole_folder(folder, merge=True) as scratch:
            save_file({"successors": self.successors}, scratch / _FILE)

    def load(self, folder: Path) -> None:
        """Take over a matrix that `save` has written.

        Raises:
            InputError: there is none, or one of another vocabulary or number of successors.
        """
        try:
            found = load_file(folder / _FILE)["successors"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{folder} holds no readable {_FILE}: {error}.") from error
        if found.shape != self.successors.shape or found.dtype != np.int32:
            raise InputError(
                f"{folder / _FILE} holds {found.shape[0]} tokens with {found.shape[1]} successors, not "
                f"{self.vocabulary} with {self.k}; it was made for another model."
            )
        if found.min() < -1 or found.max() >= self.vocabulary:
            raise InputError(f"{folder / _FILE} names tokens outside the vocabulary of {self.vocabulary}.")
        self.successors[:] = found

    def _reach(self, vocabulary: int) -> None:
        """Make room for tokens that came after the matrix was made; they have no successors yet."""
        if vocabulary > self.vocabulary:
            new = np.full((vocabulary - self.vocabulary, self.k), -1, np.int32)
            self.successors = np.concatenate([self.successors, new])
            self.vocabulary = vocabulary

    def _sort(self) -> None:
        """Put the template's nodes in the order in which they are worth judging, by what is known of them now."""
        rates = self._record.rates()
        value = [1.0]
        for node in range(1, self.tree.n):
            value.append(value[self.tree.parent[node]] * rates[node])
        self._order = sorted(range(1, self.tree.n), key=lambda node: -value[node])

    def _promote(self, token: int, successor: int) -> None:
        """Put a successor in front, if it is not among the candidates yet."""
        row = self.successors[token]
        if successor not in row:
            row[1:] = row[:-1].copy()
            row[0] = successor
