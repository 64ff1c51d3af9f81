"""Dynamic tokenization: what fewer tokens cost a continuation and a classifier, and finding tokens among very many."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reproductions._shared.tiny_lm import tiny_hypernet, tiny_lm_texts
from reproductions.text.dynamic_tokenization_index import measure_index
from reproductions.text.dynamic_tokenization_probe import LanguageProbe
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.packages import cache_folder
from tokenry.text.dynamic_tokenization.model import DynamicModel, dynamic
from tokenry.text.zett import Hypernetwork


def experiment(study: Study) -> Outcome:
    """Merge 0 .. 100 % of what can be saved, with the hypernetwork's rows and with means; then the index of step 7."""
    settings = study.settings
    lm = {name: settings[name] for name in ("vocab", "steps", "limit")}
    cache = cache_folder() / "models"
    model, tokenizer, hypernet = tiny_hypernet(cache, lm, settings["hypernet"], console=study.console)
    seen, held_out, corpora = tiny_lm_texts(settings["limit"])
    prompts, answers = _continuations(held_out, settings["continuations"])
    probe = LanguageProbe(settings)
    plain = probe.fit([dynamic(model, tokenizer, merges=0)])

    sources: dict[str, Hypernetwork | None] = {"hypernetwork": hypernet, "mean of pieces": None}
    table: dict[str, dict[str, float]] = {}
    for source, network in sources.items():
        runs = {share: dynamic(model, tokenizer, network, reduction=share) for share in settings["shares"]}
        adapted = probe.fit([runs[share] for share in settings["adapted_on"]])
        for share, run in runs.items():
            bits, saved = _continuation_bits(run, prompts, answers, settings["batch"])
            (of_plain, of_adapted), probe_saved = probe.accuracy([plain, adapted], run)
            table[f"{source}, {share:.0%} of the saving"] = {
                "prompt tokens saved": round(saved, 4),
                "bits per byte of the continuation": round(bits, 4),
                "lines' tokens saved": round(probe_saved, 4),
                "language accuracy, adapted probe": round(of_adapted, 4),
                "language accuracy, probe of whole tokens": round(of_plain, 4),
            }
    full = table["hypernetwork, 0% of the saving"]
    shorter = [
        row for name, row in table.items() if "hypernetwork" in name and row["lines' tokens saved"] >= 0.2
    ]
    at_20 = min(shorter, key=lambda row: row["lines' tokens saved"]) if shorter else None
    ours, mean = (table[f"{name}, 100% of the saving"] for name in sources)
    column = "bits per byte of the continuation"
    index = measure_index(settings, model, tokenizer, hypernet, seen, prompts)
    told, untouched = "language accuracy, adapted probe", "language accuracy, probe of whole tokens"
    best = max(full[told], full[untouched])
    lost = 100 * (best - at_20[told]) if at_20 else math.nan
    lost_untouched = 100 * (best - at_20[untouched]) if at_20 else math.nan
    return Outcome(
        metric="bits per byte of a continuation after a prompt merged to its pre-tokens",
        ours=Arm.of("hypernetwork rows", (ours[column],)),
        baseline=Arm.of("mean-of-pieces rows", (mean[column],)),
        measurements={
            "points lost at 20 % shorter": Measurement.of([lost]),
            "points lost without adaptation": Measurement.of([lost_untouched]),
            "bits lost by merging the prompt": Measurement.of([ours[column] - full[column]]),
            "bits won over mean of pieces": Measurement.of([mean[column] - ours[column]]),
            "recall of the index": Measurement.of([index["recall at 1"]]),
            "share of the dot products": Measurement.of([index["share of the dot products"]]),
        },
        tables={"merging": table, "index": {"k-means cells": index}},
        details={"tokens saved at 20 % shorter": at_20["lines' tokens saved"] if at_20 else None},
        data=tuple(dict.fromkeys((*(p for corpus in corpora for p in corpus.provenance), *probe.provenance))),
    )


def _continuations(texts: Sequence[str], sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """Prompts and what follows them: the beginnings of held-out documents, cut at white space."""
    prompts: list[str] = []
    answers: list[str] = []
    for text in texts:
        for start in range(0, len(text) - sizes["prompt"] - sizes["answer"], 4 * sizes["prompt"]):
            cut = text.find(" ", start + sizes["prompt"])
            if 0 <= cut < len(text) - sizes["answer"] and len(prompts) < sizes["number"]:
                prompts.append(text[start:cut])
                answers.append(text[cut : cut + sizes["answer"]])
    return prompts, answers


def _continuation_bits(
    run: DynamicModel, prompts: list[str], answers: list[str], batch: int
) -> tuple[float, float]:
    """Bits per byte of the answers, and the share of prompt tokens that merging saved."""
    nats, before, after = 0.0, 0, 0
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        nats -= float(run.score(prompts[part], answers[part]).sum())
        merged = run(prompts[part])
        before += sum(merged.original_lengths)
        after += sum(merged.lengths)
    size = sum(len(answer.encode()) for answer in answers)
    return nats / math.log(2) / size, 1 - after / before
