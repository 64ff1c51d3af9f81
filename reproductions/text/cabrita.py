"""Cabrita: a small English Llama learns Portuguese, with its old vocabulary and with one extended for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from reproductions.text.cabrita_training import (
    load_corpora,
    loop_settings,
    measure_bits,
    split_corpora,
    token_batches,
    train_on,
)
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import Corpus
from tokenry.text.cabrita.vocabulary import extend_tokenizer
from tokenry.text.measure import bytes_per_token
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, transplant
from tokenry.train.language import CausalLanguageModel, small_llama

_OLD: Final = "old vocabulary"
_NEW: Final = "extended, rows: mean of pieces"
_RANDOM: Final = "extended, rows: random"


def experiment(study: Study) -> Outcome:
    """Train an English model, then go on in Portuguese with either vocabulary and equal compute."""
    english, portuguese = (load_corpora(study, which) for which in ("english", "portuguese"))
    found = [_one_seed(study, seed, english, portuguese) for seed in study.seeds]
    final = {arm: tuple(one["bits"][arm]["Portuguese"] for one in found) for arm in (_OLD, _NEW)}
    return Outcome(
        metric="bits per byte of held-out Portuguese",
        ours=Arm.of(_NEW, final[_NEW]),
        baseline=Arm.of(_OLD, final[_OLD]),
        measurements={
            name: Measurement.of([one["figures"][name] for one in found]) for name in found[0]["figures"]
        },
        tables={"bits per byte": found[0]["bits"], "bytes per token": found[0]["bytes per token"]},
        details={"steps": found[0]["steps"]},
        data=tuple(source for corpus in (*english, *portuguese) for source in corpus.provenance),
    )


def _one_seed(
    study: Study, seed: int, english: Sequence[Corpus], portuguese: Sequence[Corpus]
) -> dict[str, Any]:
    settings = study.settings
    learnt_en, held_en = split_corpora(english, seed, settings["measured"])
    learnt, held = split_corpora(portuguese, seed, settings["measured"])
    base = train_bpe(learnt_en, settings["vocabulary"])
    own, appended = (
        extend_tokenizer(base, learnt, settings["extended"], append_after=after).tokenizer
        for after in (False, True)
    )
    shape = {name: settings[name] for name in ("layers", "width", "heads")}
    model = small_llama(
        len(base), **shape, context=settings["length"], eos_token_id=base.eos_token_id, seed=seed
    )
    first = study.train(
        CausalLanguageModel(model),
        token_batches(study, base, learnt_en, seed),
        loop_settings(study, settings["english_steps"]),
        f"english-{seed}",
    ).model.cpu()

    def resized(init: str) -> Any:
        return transplant(first, base, own, init, context=Context(seed=seed)).model

    mean = resized("mean")
    old_steps = settings["portuguese_steps"]
    # Tied embeddings count once: parameters are the multiplications of blocks and head for a token.
    new_steps = round(old_steps * first.num_parameters() / mean.num_parameters())
    early = min(settings["early_steps"], new_steps)
    texts = {"Portuguese": held, "English": held_en}
    bits: dict[str, dict[str, float]] = {"English only": measure_bits(first, base, texts)}
    for arm, start, tokenizer, steps, stops in (
        (_OLD, copy.deepcopy(first), base, old_steps, (old_steps,)),
        (_NEW, mean, own, new_steps, (early, new_steps)),
        (_RANDOM, resized("random"), own, new_steps, (early,)),
    ):
        if tokenizer is not base:
            bits[f"{arm}, before training"] = measure_bits(start, tokenizer, texts)
        name = {_OLD: "old", _NEW: "mean", _RANDOM: "random"}[arm]
        for stop in stops:
            row = train_on(study, f"{name}-{seed}", start, tokenizer, learnt, texts, (steps, stop), seed)
            bits[arm if stop == steps else f"{arm}, {stop} steps"] = row
    lengths = {
        row: {what: bytes_per_token(tokenizer, some) for what, some in texts.items()}
        for row, tokenizer in {"old": base, "extended": own, "extended, append_after": appended}.items()
    }
    before, after = lengths["old"], lengths["extended"]
    at_early = "" if early == new_steps else f", {early} steps"
    return {
        "bits": bits,
        "bytes per token": lengths,
        "steps": {"old vocabulary": old_steps, "extended": new_steps},
        "figures": {
            "portuguese tokens": before["Portuguese"] / after["Portuguese"],
            "english tokens": before["English"] / after["English"],
            "bits gained": bits[_OLD]["Portuguese"] - bits[_NEW]["Portuguese"],
            "mean before random": bits[_RANDOM + at_early]["Portuguese"]
            - bits[_NEW + at_early]["Portuguese"],
        },
    }
