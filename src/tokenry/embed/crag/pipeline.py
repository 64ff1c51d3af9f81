"""Answering questions about items by clustered retrieval, and by plain retrieval to compare with."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tokenry.embed.chat import Completion, LanguageModel, Ruler
from tokenry.embed.crag.method import (
    CRAG,
    ClusterSummary,
    Knowledge,
    break_even,
    changed,
    one_line,
    reduction,
    summarised,
    text_key,
)
from tokenry.embed.crag.summarise import ExtractiveSummariser, ModelSummariser, Summariser
from tokenry.embed.encoder import Encoder, unit_vectors
from tokenry.embed.index import VectorIndex
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError
from tokenry.tokens.files import whole_folder

_ITEMS, _VECTORS = "crag.json", "vectors.safetensors"
_FORMAT: Final = 1


@dataclass(frozen=True)
class CragComparison:
    """One question asked both ways.

    Attributes:
        question: the question.
        plain, clustered: the answers, and what their prompts cost.
        cosine: of the answers' embeddings; 0 if one is blank, not a number if they were not asked for.
    """

    question: str
    plain: Completion
    clustered: Completion
    cosine: float


@dataclass(frozen=True)
class CragReport:
    """Clustered against plain retrieval, cost and answers.

    Attributes:
        comparisons: question by question.
        summary_cost: tokens read and written for the item's summaries; paid once, however many questions follow.
    """

    comparisons: tuple[CragComparison, ...]
    summary_cost: int

    @property
    def plain_tokens(self) -> float:
        """Prompt tokens a question, plain retrieval."""
        return float(np.mean([c.plain.prompt_tokens for c in self.comparisons]))

    @property
    def clustered_tokens(self) -> float:
        """Prompt tokens a question, with the knowledge block."""
        return float(np.mean([c.clustered.prompt_tokens for c in self.comparisons]))

    @property
    def reduction(self) -> float:
        """Share of a question's prompt tokens that is saved, the one-off cost of the summaries left out."""
        return reduction(self.plain_tokens, self.clustered_tokens)

    @property
    def break_even(self) -> int | None:
        """See `break_even`."""
        return break_even(self.summary_cost, self.plain_tokens, self.clustered_tokens)

    @property
    def cosine(self) -> float:
        """Mean cosine of the two answers' embeddings."""
        return float(np.mean([c.cosine for c in self.comparisons]))


@dataclass
class _Item:
    """Texts of an item in the order given, their vectors by key, and what is known."""

    texts: tuple[str, ...]
    vectors: dict[str, np.ndarray]
    knowledge: Knowledge
    index: VectorIndex | None = field(default=None, repr=False)

    def nearest(self, query: Float[np.ndarray, "1 width"], n: int) -> list[str]:
        if self.index is None:
            self.index = VectorIndex(query.shape[1])
            self.index.add(np.stack([self.vectors[text_key(text)] for text in self.texts]))
        return [self.texts[i] for i in self.index.search(query, n).ids[0]]


class ClusteredRAG:
    """Answers questions about items from summaries of their texts; plain retrieval beside it, to compare with.

    Args:
        encoder: see `Encoder`; `SentenceEncoder.load()` is MiniLM.
        model: answers, and counts tokens. A `TokenRuler` is enough where prompts are only made and counted.
        settings: see `CRAG`.
        summariser: by default the model, or without one the `ExtractiveSummariser`.
    """

    def __init__(
        self,
        encoder: Encoder,
        model: LanguageModel | Ruler,
        settings: CRAG | None = None,
        summariser: Summariser | None = None,
    ) -> None:
        self.encoder, self.model, self.settings = encoder, model, settings or CRAG()
        if summariser is None and isinstance(model, LanguageModel):
            summariser = ModelSummariser(model, self.settings.noun)
        self.summariser = summariser or ExtractiveSummariser(model, self.settings.relevance)
        self._items: dict[str, _Item] = {}

    def put(self, item: str, texts: Sequence[str]) -> Knowledge:
        """Say what an item's texts are, all of them, and get what is known of it.

        Only texts that are new are embedded. The summaries are made the first time, and again when more than
        ``settings.refresh`` of the texts they stand for have come or gone; clusters that a new division leaves as they
        were keep theirs.

        Args:
            item: its name; what it had before is replaced.
            texts: in any order.

        Raises:
            InputError: there are no texts, one is blank or not text, or the encoder is not the one of the item's other
                texts. The item is then as it was.
        """
        if isinstance(texts, str):
            raise InputError(
                f"The {self.settings.noun} of {item!r} are one text: put a list, of each by itself."
            )
        if not texts:
            raise InputError(f"{item!r} has no {self.settings.noun}: there is nothing to cluster.")
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Text {at} of {item!r} is no text but {type(text).__name__}")
            if not text.strip():
                raise InputError(f"Text {at} of {item!r} is blank: leave it out.")
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise InputError(
                    f"Text {at} of {item!r} holds half a character (a lone surrogate): decode it again."
                )
        old = self._items.get(item)
        known = {} if old is None else old.vectors
        lines = {text_key(text): one_line(text) for text in texts}
        # sorted, so that batches, and with them the last bits of vectors, do not hang on the order of the texts
        fresh = sorted(lines.keys() - known.keys())
        vectors = {key: known[key] for key in lines if key in known}
        if fresh:
            vectors |= zip(fresh, unit_vectors(self.encoder, [lines[key] for key in fresh]), strict=True)
        if len(widths := {len(vector) for vector in vectors.values()}) > 1:
            raise InputError(
                f"The encoder gives vectors of another width than the one that {item!r} was put with "
                f"({' and '.join(map(str, sorted(widths)))}): pass that encoder, or `forget` the item first."
            )
        membership = Counter(map(text_key, texts))
        if old is not None and changed(old.knowledge.membership, membership) <= self.settings.refresh:
            knowledge = old.knowledge
        else:
            knowledge = summarised(
                texts,
                vectors,
                settings=self.settings,
                ruler=self.model,
                summariser=self.summariser,
                previous=None if old is None else old.knowledge,
            )
        self._items[item] = _Item(tuple(texts), vectors, knowledge)
        return knowledge

    def knowledge(self, item: str) -> Knowledge:
        """What is known of an item.

        Raises:
            UnknownNameError: it was never `put`.
        """
        return self._item(item).knowledge

    def forget(self, item: str) -> None:
        """Drop an item.

        Raises:
            UnknownNameError: it was never `put`.
        """
        self._item(item)
        del self._items[item]

    def prompt(self, item: str, question: str) -> str:
        """The prompt that asks about an item's summaries.

        Raises:
            InputError: the question is blank.
            UnknownNameError: the item was never `put`.
        """
        found = self._item(item)
        lines = [found.knowledge.block]
        if self.settings.hybrid:
            lines.append(f"The nearest of them: {one_line(self._nearest(found, question, 1)[0])}")
        return self._asked("\n".join(lines), question)

    def plain_prompt(self, item: str, question: str, top: int | None = None) -> str:
        """The prompt of plain retrieval: the texts themselves.

        Args:
            item: its name.
            question: the question.
            top: only so many, those nearest to the question, nearest first; None takes all, in their order.

        Raises:
            InputError: the question is blank, or top below 1.
            UnknownNameError: the item was never `put`.
        """
        found = self._item(item)
        texts = found.texts if top is None else self._nearest(found, question, top)
        return self._asked("\n".join(f"- {one_line(text)}" for text in texts), question)

    def answer(self, item: str, question: str) -> Completion:
        """Answer from an item's summaries; see `prompt`.

        Raises:
            UnsupportedError: the model only counts tokens.
        """
        return self._complete([self.prompt(item, question)])[0]

    def plain_answer(self, item: str, question: str, top: int | None = None) -> Completion:
        """Answer from an item's texts; see `plain_prompt`.

        Raises:
            InputError: the texts do not fit the model's context.
            UnsupportedError: the model only counts tokens.
        """
        return self._complete([self.plain_prompt(item, question, top)])[0]

    def compare(
        self, item: str, questions: Sequence[str], *, top: int | None = None, answers: bool = True
    ) -> CragReport:
        """Ask the same questions both ways.

        Args:
            item: its name.
            questions: at least one.
            top: texts of plain retrieval; None for all.
            answers: False only counts the prompts.
        """
        if not questions:
            raise InputError(f"Comparing answers about {item!r} needs at least one question.")
        plain = [self.plain_prompt(item, question, top) for question in questions]
        clustered = [self.prompt(item, question) for question in questions]
        found = self._complete(plain + clustered) if answers else self._counted(plain + clustered)
        comparisons = tuple(
            CragComparison(q, a, b, self._cosine(a.text, b.text) if answers else math.nan)
            for q, a, b in zip(questions, found[: len(plain)], found[len(plain) :], strict=True)
        )
        return CragReport(comparisons, self.knowledge(item).cost)

    def save(self, folder: str | Path) -> None:
        """Write settings, texts, vectors and summaries; a folder that exists is replaced when all is written.

        Raises:
            InputError: it cannot be written.
        """
        items = {
            n: {"texts": item.texts, "knowledge": asdict(item.knowledge)} for n, item in self._items.items()
        }
        vectors = {
            f"{at}/{key}": vector
            for at, item in enumerate(self._items.values())
            for key, vector in item.vectors.items()
        }
        with whole_folder(Path(folder)) as scratch:
            content = {"format": _FORMAT, "settings": asdict(self.settings), "items": items}
            (scratch / _ITEMS).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
            save_file(vectors, scratch / _VECTORS)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        encoder: Encoder,
        model: LanguageModel | Ruler,
        summariser: Summariser | None = None,
    ) -> Self:
        """Read what `save` wrote; nothing is embedded or summarised again.

        Args:
            folder: the folder.
            encoder: the one that made the vectors.
            model, summariser: as for a new one.

        Raises:
            InputError: it is not such a folder, or damaged.
        """
        path = Path(folder)
        try:
            content = json.loads((path / _ITEMS).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise InputError(
                    f"{path} has format {content['format']}; this version of tokenry reads {_FORMAT}"
                )
            made = cls(encoder, model, CRAG(**content["settings"]), summariser)
            vectors = load_file(path / _VECTORS)
            for at, (name, item) in enumerate(content["items"].items()):
                texts = tuple(item["texts"])
                own = {key: vectors[f"{at}/{key}"] for key in map(text_key, texts)}
                told = item["knowledge"]
                parts = tuple(
                    ClusterSummary(p["text"], p["count"], tuple(p["members"])) for p in told["parts"]
                )
                knowledge = Knowledge(parts, told["membership"], told["noun"], told["cost"])
                made._items[name] = _Item(texts, own, knowledge)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise InputError(
                f"{path} does not hold saved items ({type(error).__name__}: {error}); put them again."
            ) from error
        return made

    def _item(self, item: str) -> _Item:
        if item not in self._items:
            raise UnknownNameError(
                f"There is no item {item!r} ({len(self._items)} are here): `put` its texts first."
            )
        return self._items[item]

    def _nearest(self, item: _Item, question: str, n: int) -> list[str]:
        return item.nearest(unit_vectors(self.encoder, [self._checked(question)]), n)

    def _asked(self, knowledge: str, question: str) -> str:
        return self.settings.prompt.format(knowledge=knowledge, question=self._checked(question))

    @staticmethod
    def _checked(question: str) -> str:
        if not question.strip():
            raise InputError("The question is blank: there is nothing to answer.")
        return question.strip()

    def _complete(self, prompts: Sequence[str]) -> list[Completion]:
        if not isinstance(self.model, LanguageModel):
            raise UnsupportedError(
                f"{type(self.model).__name__} counts tokens and answers nothing: pass a ChatModel, or send `prompt` to "
                "a model yourself."
            )
        return self.model.complete(prompts, self.settings.answer_tokens)

    def _counted(self, prompts: Sequence[str]) -> list[Completion]:
        return [Completion("", self.model.prompt_tokens(prompt), 0) for prompt in prompts]

    def _cosine(self, a: str, b: str) -> float:
        if not (a.strip() and b.strip()):
            return 0.0
        one, other = unit_vectors(self.encoder, [a, b])
        return float(one @ other)
