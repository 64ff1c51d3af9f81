"""Summaries of clusters of texts: written by a language model, or extracted without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from tokenry.embed.chat import LanguageModel, Ruler
from tokenry.tokens.errors import InputError, UnsupportedError

INSTRUCTION: Final = "Summarize the following {noun} in two sentences."
_GAP: Final = "\n\n"
_GAP_TOKENS: Final = 2  # between two texts, at most


@dataclass(frozen=True)
class Members:
    """Texts of one cluster, the nearest to its centroid first.

    Attributes:
        texts: each once, on one line, at least one.
        vectors: theirs, of length 1.
        centroid: of the cluster.
    """

    texts: tuple[str, ...]
    vectors: Float[np.ndarray, "n width"]
    centroid: Float[np.ndarray, " width"]


@dataclass(frozen=True)
class Summary:
    """A cluster in few words.

    Attributes:
        text: on one line.
        cost: tokens that a model read and wrote for it.
    """

    text: str
    cost: int = 0


@runtime_checkable
class Summariser(Protocol):
    """What turns clusters into summaries; all clusters of an item at once, so that a model can batch them."""

    def __call__(self, clusters: Sequence[Members], limit: int) -> list[Summary]:
        """Summarise each cluster in at most ``limit`` tokens."""
        ...


@dataclass(frozen=True)
class ExtractiveSummariser:
    """Quotes instead of writing: the member nearest to the centroid, then by maximal marginal relevance what fits.

    Maximal marginal relevance (Carbonell and Goldstein, 1998) takes the member with the largest ``relevance cos(member,
    centroid) - (1 - relevance) max cos(member, taken)``. Costs no tokens. Where even the first member is too long, its
    beginning is quoted.

    Attributes:
        ruler: counts the tokens.
        relevance: weight of nearness to the centroid against being unlike what is there.
    """

    ruler: Ruler
    relevance: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.relevance <= 1:
            raise InputError(f"Relevance is between 0 and 1, got {self.relevance}")

    def __call__(self, clusters: Sequence[Members], limit: int) -> list[Summary]:
        """Quote at most ``limit`` tokens of each cluster."""
        return [self._quote(members, limit) for members in clusters]

    def _quote(self, members: Members, limit: int) -> Summary:
        # with the space before it, as it will stand behind another
        sizes = np.array([self.ruler.count(f" {text}") for text in members.texts])
        picked = marginal_relevance(
            members.vectors, members.centroid, sizes, limit=limit, relevance=self.relevance
        )
        text = self.ruler.cut(" ".join(members.texts[i] for i in picked), limit)
        return Summary(text.strip())


def marginal_relevance(
    vectors: Float[np.ndarray, "n width"],
    centroid: Float[np.ndarray, " width"],
    sizes: Int[np.ndarray, " n"],
    *,
    limit: int,
    relevance: float = 0.7,
) -> Int[np.ndarray, " picked"]:
    """Choose texts by maximal marginal relevance until no other fits.

    Args:
        vectors: of length 1.
        centroid: of any length above zero.
        sizes: of the texts.
        limit: of the sum of sizes; the first text is taken whatever its size.
        relevance: lambda; 1 takes the nearest to the centroid.

    Returns:
        Which texts, in the order they were chosen; the first is the nearest to the centroid.
    """
    near = vectors @ (centroid / max(float(np.linalg.norm(centroid)), 1e-12))
    picked = [int(near.argmax())]
    taken = vectors @ vectors[picked[0]]  # likeness to the most alike that is taken
    room = limit - int(sizes[picked[0]])
    free = np.ones(len(vectors), bool)
    free[picked] = False
    while (fits := free & (sizes <= room)).any():
        gain = np.where(fits, relevance * near - (1 - relevance) * taken, -np.inf)
        chosen = int(gain.argmax())
        picked.append(chosen)
        free[chosen] = False
        room -= int(sizes[chosen])
        taken = np.maximum(taken, vectors @ vectors[chosen])
    return np.array(picked)


@dataclass(frozen=True)
class ModelSummariser:
    """Has a language model write the summaries.

    A cluster that does not fit the model's context is summarised in chunks, and the summaries of the chunks are
    summarised again, until one is left. Every token that is read or written on the way is counted.

    Attributes:
        model: writes.
        noun: what the texts are, in the plural.
        instruction: what the model is told before the texts; ``{noun}`` is put in.
    """

    model: LanguageModel
    noun: str = "reviews"
    instruction: str = INSTRUCTION

    def __call__(self, clusters: Sequence[Members], limit: int) -> list[Summary]:
        """Write at most ``limit`` tokens about each cluster.

        Raises:
            InputError: the model's context has no room for two summaries beside the instruction.
            UnsupportedError: the model wrote nothing.
        """
        room = self.model.context - limit - self.model.prompt_tokens(self._prompt([]))
        if room < 2 * (limit + _GAP_TOKENS):
            raise InputError(
                f"A context of {self.model.context} tokens is too small for summaries of {limit}: "
                f"{room} are left for texts and two summaries must fit. Lower summary_tokens or take another model."
            )
        left = {at: list(members.texts) for at, members in enumerate(clusters)}
        cost = [0] * len(clusters)
        done: dict[int, str] = {}
        while left:
            chunks = [(at, chunk) for at, texts in left.items() for chunk in self._chunks(texts, room)]
            written = self.model.complete([self._prompt(chunk) for _, chunk in chunks], limit)
            again: dict[int, list[str]] = {at: [] for at in left}
            for (at, _), completion in zip(chunks, written, strict=True):
                cost[at] += completion.tokens
                again[at].append(self._clean(completion.text, limit))
            done |= {at: texts[0] for at, texts in again.items() if len(texts) == 1}
            left = {at: texts for at, texts in again.items() if len(texts) > 1}
        return [Summary(done[at], cost[at]) for at in range(len(clusters))]

    def _prompt(self, texts: Sequence[str]) -> str:
        return _GAP.join([self.instruction.format(noun=self.noun), *texts])

    def _chunks(self, texts: Sequence[str], room: int) -> list[list[str]]:
        """Divide texts, in their order, into as few prompts as fit; a text too long for one is divided itself."""
        chunks: list[list[str]] = [[]]
        used = 0
        for piece in (piece for text in texts for piece in self._pieces(text, room - _GAP_TOKENS)):
            size = self.model.count(piece) + _GAP_TOKENS
            if chunks[-1] and used + size > room:
                chunks.append([])
                used = 0
            chunks[-1].append(piece)
            used += size
        return chunks

    def _pieces(self, text: str, size: int) -> list[str]:
        pieces = []
        while text:
            head = self.model.cut(text, size)
            if not head:
                raise UnsupportedError(
                    f"{type(self.model).__name__} cuts {text[:20]!r} to {size} tokens and leaves nothing of it."
                )
            pieces.append(head.strip())
            text = text[len(head) :].strip()
        return pieces

    def _clean(self, text: str, limit: int) -> str:
        """One line of at most ``limit`` tokens; what the limit broke off goes, if a whole sentence is before it."""
        line = self.model.cut(" ".join(text.split()), limit)
        if not line:
            raise UnsupportedError(
                f"The model wrote no summary of a cluster of {self.noun}; take another model, or the "
                "ExtractiveSummariser, which needs none."
            )
        whole = max(line.rfind(end) for end in (". ", "! ", "? ", "。"))
        return line if line[-1] in ".!?。" or whole < 0 else line[: whole + 1]
