"""Recoverable Compression: does the question's text bring back what vision alone would have dropped?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from reproductions.reduce.arms import positions, random_tokens
from reproductions.reduce.controls import WithoutRecovery
from reproductions.reduce.recorders import Recovery
from tokenry.bench.reproduce import BY_SET, Arms, Outcome, Study, mean_over, points
from tokenry.data.questions.examples import Example, region_mask
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.recoverable_compression import RecoverableCompression


def experiment(study: Study) -> Outcome:
    """With and without recovery at the same number of tokens, on questions that name a less salient object."""
    k = study.settings["tokens"]
    keep = positions(study)
    method = RecoverableCompression(budget=k, positions=keep)
    arms: Arms = {
        "full": [()],
        f"with recovery, {k} tokens": [(Recovery(of=method), method)],
        f"without recovery, {k} tokens": [(WithoutRecovery(budget=k, positions=keep),)],
        f"with recovery, {k} tokens, renumbered": [(RecoverableCompression(budget=k),)],
        f"[CLS] {k} tokens": [(FasterVLM(budget=k, positions=keep),)],
        f"random {k} tokens": random_tokens(study, k),
        "with recovery, number left to the method": [(RecoverableCompression(positions=keep),)],
        "without recovery, number left to the method": [(WithoutRecovery(positions=keep),)],
    }
    answered = study.ask(arms)
    ours, without = answered[f"with recovery, {k} tokens"], answered[f"without recovery, {k} tokens"]
    questions, asked = study.asked_patches()
    names = np.isin(np.array(ours.kinds), study.settings["kinds"])
    faint = names & _less_salient(questions, asked, ours.readings["score"])
    rest, recovered = ours.readings["salient"] == 0, ours.readings["recovered"] == 1
    overlap = _overlap(recovered, asked)
    chance = _overlap(rest, asked)
    found = faint & recovered.any(1)
    by_chance = float(chance[found].mean()) if found.any() else float("nan")
    measurements = {
        "points by recovery": points(ours, without, where=faint),
        "overlap over chance": mean_over(ours, overlap, found).over(by_chance),
    }
    every = points(ours, without)
    return study.lab.outcome(
        (f"with recovery, {k} tokens, all questions", f"without recovery, {k} tokens, all questions"),
        ours,
        without,
        answered["full"],
        measurements,
        answered,
        details={
            "questions that name a less salient object": {
                "number": int(faint.sum()),
                "with recovered tokens": int(found.sum()),
                "accuracy with recovery": round(float(ours.correct[faint].mean()), 4),
                "accuracy without": round(float(without.correct[faint].mean()), 4),
                "points by recovery, all questions": every.to_json(BY_SET),
            },
            "tokens": {
                "salient, mean": round(float((~rest).sum(1).mean()), 2),
                "recovered, mean": round(float(recovered.sum(1).mean()), 2),
                "share of recovered on the asked object": round(float(np.nanmean(overlap[found])), 4),
                "by chance": round(by_chance, 4),
            },
        },
    )


def _less_salient(
    questions: list[Example], asked: Bool[np.ndarray, "q n"], score: Float[np.ndarray, "q n"]
) -> Bool[np.ndarray, " q"]:
    """Questions about something that [CLS] looks at less, patch for patch, than at the median thing of its scene."""
    side = int(np.sqrt(score.shape[1]))
    faint = np.zeros(len(questions), dtype=bool)
    for i, example in enumerate(questions):
        size = (example.image.height, example.image.width)
        masks = [region_mask((box,), size, (side, side)).reshape(-1) for box in example.objects]
        each = [float(score[i][mask].mean()) for mask in masks if mask.any()]
        if asked[i].any() and each:
            faint[i] = score[i][asked[i]].mean() < np.median(each)
    return faint


def _overlap(tokens: Bool[np.ndarray, "q n"], asked: Bool[np.ndarray, "q n"]) -> Float[np.ndarray, " q"]:
    """Share of the tokens that lie on what is asked about; NaN where there are none."""
    total = tokens.sum(1)
    return np.where(total > 0, (tokens & asked).sum(1) / np.maximum(total, 1), np.nan)
