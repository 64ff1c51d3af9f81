"""CRAG: prompt tokens, answers and coverage of clustered against plain retrieval, on reviews and on manual pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenry.bench.lines import digest
from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.manpages import load_manpages, manpages_provenance
from tokenry.data.text.reviews import aspects_in, product_reviews
from tokenry.embed.chat import ChatModel, Completion, LanguageModel
from tokenry.embed.crag.method import CRAG
from tokenry.embed.crag.pipeline import ClusteredRAG, Report
from tokenry.embed.crag.summarise import ExtractiveSummariser, ModelSummariser, Summariser
from tokenry.embed.encoder import SentenceEncoder, unit_vectors
from tokenry.models.load import load
from tokenry.tokens.files import whole_file
from tokenry.train.language import small_llama

_WRITTEN, _QUOTED = "summaries written", "summaries quoted"


class Remembering:
    """A chat model that keeps its answers in a file: an interrupted reproduction goes on, and no prompt is paid twice.

    What an answer cost is kept with it, so that counts are those of a first run.
    """

    def __init__(self, model: ChatModel, path: Path) -> None:
        self.model, self.path = model, path
        self.known: dict[str, dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        )

    @property
    def context(self) -> int:
        """The model's."""
        return self.model.context

    def count(self, text: str) -> int:
        """By the model's tokenizer."""
        return self.model.count(text)

    def cut(self, text: str, limit: int) -> str:
        """By the model's tokenizer."""
        return self.model.cut(text, limit)

    def prompt_tokens(self, prompt: str) -> int:
        """By the model's tokenizer and template."""
        return self.model.prompt_tokens(prompt)

    def complete(self, prompts: Sequence[str], limit: int) -> list[Completion]:
        """Answer what was not answered before."""
        keys = [digest({"prompt": prompt, "limit": limit}) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.known}
        if new:
            found = self.model.complete(list(new.values()), limit)
            self.known |= {key: asdict(answer) for key, answer in zip(new, found, strict=True)}
            with whole_file(self.path) as scratch:
                scratch.write_text(json.dumps(self.known), encoding="utf-8")
        return [Completion(**self.known[key]) for key in keys]


def experiment(study: Study) -> Outcome:
    """Reviews of one product a seed, at several numbers of them, and paragraphs of manual pages."""
    s, encoder = study.settings, SentenceEncoder.load("minilm")
    study.folder.mkdir(parents=True, exist_ok=True)
    chat = Remembering(_chat(s["model"], encoder), study.folder / "answers.json")
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in study.seeds:
        reviews = [review.text for review in product_reviews(max(s["numbers"]), seed)]
        for n in s["numbers"]:
            for name, report, block in _both(chat, encoder, s, reviews[:n], s["questions"], "reviews"):
                said = aspects_in(" ".join(reviews[:n]))
                row = _row(report) | {
                    "aspects in the block": len(aspects_in(block) & said) / len(said),
                    "cosine without texts": _without_texts(chat, encoder, report, s["answer_tokens"]),
                }
                _append(rows, f"{n} reviews, {name}", row)
    paragraphs = _paragraphs(s["pages"], s["paragraphs"])
    for page, texts in paragraphs.items():
        asked = [question.format(page=page) for question in s["page_questions"]]
        for name, report, _ in _both(chat, encoder, s, texts, asked, "paragraphs"):
            _append(rows, f"{page}(7), {name}", _row(report))
    return _outcome(rows, s, {page: len(texts) for page, texts in paragraphs.items()})


def _chat(name: str, encoder: SentenceEncoder) -> ChatModel:
    if name == "smollm2":
        return ChatModel(*load("smollm2", dtype=torch.bfloat16))
    tokenizer = encoder.tokenizer  # random weights, for rehearsals
    return ChatModel(
        small_llama(len(tokenizer), layers=1, width=32, heads=2, tied=False), tokenizer, context=8192
    )


def _both(
    chat: LanguageModel,
    encoder: SentenceEncoder,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    questions: Sequence[str],
    noun: str,
) -> list[tuple[str, Report, str]]:
    """The same questions about the same texts, with the model's summaries and with extracts."""
    crag = CRAG(
        k=settings["k"],
        summary_tokens=settings["summary_tokens"],
        answer_tokens=settings["answer_tokens"],
        noun=noun,
    )
    found = []
    summarisers: dict[str, Summariser] = {
        _WRITTEN: ModelSummariser(chat, noun),
        _QUOTED: ExtractiveSummariser(chat, crag.relevance),
    }
    for name, summariser in summarisers.items():
        rag = ClusteredRAG(encoder, chat, crag, summariser)
        block = rag.put("item", texts).block
        found.append((name, rag.compare("item", questions), block))
    return found


def _row(report: Report) -> dict[str, float]:
    even = report.break_even
    return {
        "plain tokens": report.plain_tokens,
        "CRAG tokens": report.clustered_tokens,
        "saved": report.reduction,
        "tokens of summaries": report.summary_cost,
        "questions to break even": np.nan if even is None else even,
        "answer cosine": report.cosine,
    }


def _without_texts(chat: LanguageModel, encoder: SentenceEncoder, report: Report, limit: int) -> float:
    """How alike the plain answers are to answers to the bare questions: what a cosine is worth here."""
    bare = chat.complete([c.question for c in report.comparisons], limit)
    plain = unit_vectors(encoder, [c.plain.text for c in report.comparisons])
    return float((plain * unit_vectors(encoder, [answer.text for answer in bare])).sum(1).mean())


def _paragraphs(pages: Sequence[str], most: int) -> dict[str, list[str]]:
    """Different paragraphs of 80 to 600 characters of pages in section 7."""
    found = {
        page.name: page.text for page in load_manpages("en") if page.section == "7" and page.name in pages
    }
    texts = {name: dict.fromkeys(" ".join(p.split()) for p in found[name].split("\n\n")) for name in pages}
    return {name: [p for p in ps if 80 <= len(p) <= 600][:most] for name, ps in texts.items()}


def _append(rows: dict[str, dict[str, list[float]]], name: str, row: Mapping[str, float]) -> None:
    for column, value in row.items():
        rows.setdefault(name, {}).setdefault(column, []).append(value)


def _outcome(
    rows: Mapping[str, Mapping[str, list[float]]], s: Mapping[str, Any], paragraphs: Mapping[str, int]
) -> Outcome:
    numbers: list[int] = s["numbers"]
    fewest, most = min(numbers), max(numbers)
    # no more than k reviews stand in the block as they are: alike by construction
    clustered = [n for n in numbers if n > s["k"]]

    def column(name: str, where: Sequence[int], arm: str = _WRITTEN) -> np.ndarray:
        """n by seed."""
        return np.array([rows[f"{n} reviews, {arm}"][name] for n in where])

    def mean(name: str, arm: str = _WRITTEN) -> Figure:
        return Figure.of(column(name, clustered, arm).mean(0).tolist())

    def growth(name: str) -> Figure:
        return Figure.of((column(name, [most]) / column(name, [fewest]))[0].tolist())

    many = [n for n in numbers if n >= s["many"]]
    pages = [row for name, row in rows.items() if "(7)" in name and name.endswith(_WRITTEN)]
    above_bare = column("answer cosine", clustered) - column("cosine without texts", clustered)
    return Outcome(
        metric=f"prompt tokens a question about {most} reviews",
        ours=Arm("CRAG, summaries written by the model", tuple(column("CRAG tokens", [most])[0])),
        baseline=Arm("all reviews in the prompt", tuple(column("plain tokens", [most])[0])),
        figures={
            "least saved, many reviews": Figure.of(column("saved", many).min(0).tolist()),
            "saved, most reviews": Figure.of(column("saved", [most])[0].tolist()),
            "growth of CRAG": growth("CRAG tokens"),
            "growth of plain retrieval": growth("plain tokens"),
            "answer cosine": mean("answer cosine"),
            "answer cosine, quoted": mean("answer cosine", _QUOTED),
            "answer cosine above that without texts": Figure.of(above_bare.mean(0).tolist()),
            "aspects": mean("aspects in the block"),
            "aspects, quoted": mean("aspects in the block", _QUOTED),
            "saved, manual pages": Figure(min(float(np.mean(row["saved"])) for row in pages)),
        },
        tables={
            "by number of texts": {
                name: {c: round(float(np.mean(v)), 3) for c, v in row.items() if np.isfinite(v).all()}
                for name, row in rows.items()
            }
        },
        details={"paragraphs": dict(paragraphs)},
        notes=(
            "Prompts are counted as the model reads them, chat template included; 'tokens of summaries' are read and "
            "written once for an item, and 'questions to break even' are those whose savings pay for them. Where a "
            "column is missing, nothing was saved and the summaries never pay.",
            f"{len(s['questions'])} questions about each number of reviews, {len(s['page_questions'])} a page, "
            "greedy answers by the same model. Reviews are from templates; the manual pages are real text.",
            "SmolLM2-135M from a 4-bit file writes poor prose and mixes opinions up, in summaries as in answers; "
            "an answer cosine says how alike two answers are, not that either is right. 'cosine without texts' is that "
            "of the plain answers with answers to the bare questions. Criteria on cosines and aspects leave out up "
            "to k reviews, which the block quotes whole.",
            "Of twelve wordings of the summarising prompt and three of the answering prompt, those used were chosen on "
            "products 101 and 102, which are not among those measured.",
        ),
        data=manpages_provenance("en"),
    )
