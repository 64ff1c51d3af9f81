"""CRAG: prompt tokens, answers and coverage of clustered against plain retrieval, on reviews and on manual pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reproductions.embed.crag_chat import Remembering, chat_model
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.manpages import load_manpages, manpages_provenance
from tokenry.data.text.reviews import aspects_in, product_reviews
from tokenry.embed.chat import LanguageModel
from tokenry.embed.crag.method import CRAG
from tokenry.embed.crag.pipeline import ClusteredRAG, CragReport
from tokenry.embed.crag.summarise import ExtractiveSummariser, ModelSummariser, Summariser
from tokenry.embed.encoder import SentenceEncoder, unit_vectors

_WRITTEN, _QUOTED = "summaries written", "summaries quoted"


def experiment(study: Study) -> Outcome:
    """Reviews of one product a seed, at several numbers of them, and paragraphs of manual pages."""
    s, encoder = study.settings, SentenceEncoder.load("minilm")
    study.folder.mkdir(parents=True, exist_ok=True)
    chat = Remembering(chat_model(s["model"], encoder), study.folder / "answers.json")
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


def _both(
    chat: LanguageModel,
    encoder: SentenceEncoder,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    questions: Sequence[str],
    noun: str,
) -> list[tuple[str, CragReport, str]]:
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


def _row(report: CragReport) -> dict[str, float]:
    even = report.break_even
    return {
        "plain tokens": report.plain_tokens,
        "CRAG tokens": report.clustered_tokens,
        "saved": report.reduction,
        "tokens of summaries": report.summary_cost,
        "questions to break even": np.nan if even is None else even,
        "answer cosine": report.cosine,
    }


def _without_texts(chat: LanguageModel, encoder: SentenceEncoder, report: CragReport, limit: int) -> float:
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

    def mean(name: str, arm: str = _WRITTEN) -> Measurement:
        return Measurement.of(column(name, clustered, arm).mean(0).tolist())

    def growth(name: str) -> Measurement:
        return Measurement.of((column(name, [most]) / column(name, [fewest]))[0].tolist())

    many = [n for n in numbers if n >= s["many"]]
    pages = [row for name, row in rows.items() if "(7)" in name and name.endswith(_WRITTEN)]
    above_bare = column("answer cosine", clustered) - column("cosine without texts", clustered)
    return Outcome(
        metric=f"prompt tokens a question about {most} reviews",
        ours=Arm.of("CRAG, summaries written by the model", tuple(column("CRAG tokens", [most])[0])),
        baseline=Arm.of("all reviews in the prompt", tuple(column("plain tokens", [most])[0])),
        measurements={
            "least saved, many reviews": Measurement.of(column("saved", many).min(0).tolist()),
            "saved, most reviews": Measurement.of(column("saved", [most])[0].tolist()),
            "growth of CRAG": growth("CRAG tokens"),
            "growth of plain retrieval": growth("plain tokens"),
            "answer cosine": mean("answer cosine"),
            "answer cosine, quoted": mean("answer cosine", _QUOTED),
            "answer cosine above that without texts": Measurement.of(above_bare.mean(0).tolist()),
            "aspects": mean("aspects in the block"),
            "aspects, quoted": mean("aspects in the block", _QUOTED),
            "saved, manual pages": Measurement(min(float(np.mean(row["saved"])) for row in pages)),
        },
        tables={
            "by number of texts": {
                name: {c: round(float(np.mean(v)), 3) for c, v in row.items() if np.isfinite(v).all()}
                for name, row in rows.items()
            }
        },
        details={"paragraphs": dict(paragraphs)},
        data=manpages_provenance("en"),
    )
