"""Clustered Retrieved Augmented Generation: summaries of clusters stand in the prompt instead of the texts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from tokenry.embed.chat import Ruler
from tokenry.embed.crag.clusters import k_by_silhouette, k_means
from tokenry.embed.crag.summarise import Members, Summariser
from tokenry.tokens.errors import InputError


@dataclass(frozen=True)
class CRAG:
    """Clustered Retrieved Augmented Generation (arXiv 2406.00029): settings.

    Many short texts about one item (reviews of a product, say) are embedded, divided into k clusters by k-means, and
    each cluster is summarised once; every question about the item is then answered from the summaries, whose length
    does not grow with the number of texts. `tokenry.embed.crag.pipeline.ClusteredRAG` does it. Not to be confused with
    Corrective RAG, another method of the same abbreviation, which judges and corrects what was retrieved.

    The paper gives the steps, k = 4 and the encoder (paraphrase-multilingual-mpnet-base-v2, 768 wide), and has no
    public code: the prompts, the length of summaries and their order are ours. It counts the prompt tokens of the
    questions only; `CragReport` counts what the summaries cost too. A question about a single text cannot be answered
    from summaries: see ``hybrid``.

    Attributes:
        k: clusters, at most; or "silhouette": the number of 2 to 8 that divides each item's texts best.
        summary_tokens: of each summary, at most.
        answer_tokens: of each answer, at most.
        relevance: lambda of the extractive summaries (`ExtractiveSummariser`).
        refresh: an item's summaries are kept until more than this share of its texts has changed; 0 where a text that
            was taken back must not be quoted any longer.
        hybrid: put the text nearest to the question behind the summaries.
        noun: what the texts are, in the plural, as the prompts say it.
        prompt: what the answering model is told; ``{knowledge}`` and ``{question}`` are put in.
        seed: of k-means.
    """

    k: int | Literal["silhouette"] = 4
    summary_tokens: int = 64
    answer_tokens: int = 64
    relevance: float = 0.7
    refresh: float = 0.1
    hybrid: bool = False
    noun: str = "reviews"
    prompt: str = "{knowledge}\n\n{question}"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k != "silhouette" and not (isinstance(self.k, int) and self.k >= 1):
            raise InputError(f"`k` is a number of clusters from 1, or 'silhouette'; got {self.k!r}")
        if min(self.summary_tokens, self.answer_tokens) < 1:
            raise InputError(
                f"Summaries and answers need at least one token, got {self.summary_tokens} and {self.answer_tokens}"
            )
        try:
            whole = {"{k}", "{q}"} <= set(self.prompt.format(knowledge=" {k} ", question=" {q} ").split())
        except (LookupError, ValueError, AttributeError):
            whole = False
        if not whole:
            raise InputError(
                f"A prompt has a place for {{knowledge}}, one for {{question}} and no other, got {self.prompt!r}"
            )
        if not (0 <= self.relevance <= 1 and self.refresh >= 0):
            raise InputError(
                f"Relevance is between 0 and 1 and refresh not negative, got {self.relevance} and {self.refresh}"
            )


@dataclass(frozen=True)
class ClusterSummary:
    """One line of a knowledge block.

    Attributes:
        text: the summary.
        count: texts it stands for, repeated ones counted.
        members: keys of the different texts (see `text_key`), the nearest to the centroid first.
    """

    text: str
    count: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Knowledge:
    """What is known of an item: the knowledge block of its texts as they were when it was made.

    Attributes:
        parts: the clusters, largest first.
        membership: key of each text -> how often the item had it.
        noun: what the texts are.
        cost: tokens that a model has read and written for the item's summaries, those of earlier texts included.
    """

    parts: tuple[ClusterSummary, ...]
    membership: Mapping[str, int]
    noun: str
    cost: int

    @property
    def texts(self) -> int:
        """How many texts it stands for."""
        return sum(self.membership.values())

    @property
    def block(self) -> str:
        """The text that goes into prompts: each summary with its cluster's share."""
        return "\n".join(f"{header(part.count, self.texts, self.noun)} {part.text}" for part in self.parts)


def reduction(before: float, after: float) -> float:
    """Share of tokens saved: 5165 -> 468 is 0.909; negative where there are more.

    Raises:
        InputError: there was nothing to save.
    """
    if before <= 0:
        raise InputError(f"A reduction is a share of tokens before, which must be positive; got {before}")
    return 1 - after / before


def break_even(cost: int, before: float, after: float) -> int | None:
    """Questions after which the summaries have paid for themselves: ``ceil(cost / (before - after))``.

    Args:
        cost: tokens for the summaries.
        before, after: prompt tokens a question without and with them.

    Returns:
        The number of questions, 0 if the summaries cost nothing; None if questions are not cheaper with them.
    """
    return math.ceil(cost / (before - after)) if after < before else None


def header(count: int, total: int, noun: str) -> str:
    """What stands before a summary in the block."""
    return f"{count} of {total} {noun}:"


def text_key(text: str) -> str:
    """What a text is known by: a hash of its words, so that white space does not make two of one."""
    return hashlib.sha256(one_line(text).encode()).hexdigest()


def changed(old: Mapping[str, int], new: Mapping[str, int]) -> float:
    """Share of the old texts that came or went, by key and how often each is there."""
    before, after = Counter(old), Counter(new)
    return ((before - after).total() + (after - before).total()) / max(before.total(), 1)


def summarised(
    texts: Sequence[str],
    vectors: Mapping[str, Float[np.ndarray, " width"]],
    *,
    settings: CRAG,
    ruler: Ruler,
    summariser: Summariser,
    previous: Knowledge | None = None,
) -> Knowledge:
    """Cluster an item's texts and summarise each cluster.

    Repeated texts are clustered and summarised once, weighing as often as they occur. A text that is a cluster of its
    own and short enough is its own summary. The order of the texts does not matter.

    Args:
        texts: at least one, none blank.
        vectors: of each text's key, of length 1.
        settings: number of clusters, length of summaries.
        ruler: counts tokens.
        summariser: see `Summariser`.
        previous: knowledge of earlier texts; a cluster that is as it was keeps its summary.

    Raises:
        InputError: the summariser gave more or fewer summaries than it was asked for.
        UnsupportedError: scikit-learn is not installed, and there is something to cluster.
    """
    membership = Counter(map(text_key, texts))
    lines = {text_key(text): one_line(text) for text in texts}
    keys = sorted(membership)
    matrix = np.stack([vectors[key] for key in keys])
    weights = np.array([membership[key] for key in keys], np.float32)
    k = settings.k
    if not isinstance(k, int):
        k = k_by_silhouette(matrix, weights=weights, seed=settings.seed)
    clusters = k_means(matrix, k, weights=weights, seed=settings.seed)

    earlier = {} if previous is None else {frozenset(part.members): part.text for part in previous.parts}
    made: dict[int, str] = {}
    members: list[Members] = []
    for c, centroid in enumerate(clusters.centroids):
        inside = np.flatnonzero(clusters.labels == c)
        nearest = inside[np.argsort(np.linalg.norm(matrix[inside] - centroid, axis=1), kind="stable")]
        found = Members(tuple(lines[keys[i]] for i in nearest), matrix[nearest], centroid)
        members.append(found)
        if len(nearest) == 1 and ruler.count(found.texts[0]) <= settings.summary_tokens:
            made[c] = found.texts[0]
        elif (kept := earlier.get(frozenset(map(text_key, found.texts)))) is not None:
            made[c] = kept
    asked = [c for c in range(clusters.k) if c not in made]
    new = summariser([members[c] for c in asked], settings.summary_tokens) if asked else []
    if len(new) != len(asked):
        raise InputError(
            f"{type(summariser).__name__} gave {len(new)} summaries of {len(asked)} clusters: it must give one of each."
        )
    for c, summary in zip(asked, new, strict=True):
        # cut, because a summariser of the user's may not keep to the limit
        made[c] = ruler.cut(one_line(summary.text), settings.summary_tokens)

    parts = []
    for c, found in enumerate(members):
        inner = tuple(text_key(text) for text in found.texts)
        parts.append(ClusterSummary(made[c], sum(membership[key] for key in inner), inner))
    parts.sort(key=lambda part: (-part.count, min(part.members)))
    cost = sum(summary.cost for summary in new) + (0 if previous is None else previous.cost)
    return Knowledge(tuple(parts), dict(membership), settings.noun, cost)


def one_line(text: str) -> str:
    """A text with single spaces for its white space, as prompts and keys have it."""
    return " ".join(text.split())
