"""Cabrita: a small English Llama learns Portuguese, with its old vocabulary and with one extended for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, Final

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.text.cabrita.vocabulary import extend_tokenizer
from tokenry.text.measure import bits_per_byte, bytes_per_token
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, transplant
from tokenry.tokens.files import whole_file
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.loop import LoopSettings, train

_OLD: Final = "old vocabulary"
_NEW: Final = "extended, rows: mean of pieces"
_RANDOM: Final = "extended, rows: random"


def experiment(study: Study) -> Outcome:
    """Train an English model, then go on in Portuguese with either vocabulary and equal compute."""
    english, portuguese = (_corpora(study, which) for which in ("english", "portuguese"))
    found = [_one_seed(study, seed, english, portuguese) for seed in study.seeds]
    final = {arm: tuple(one["bits"][arm]["Portuguese"] for one in found) for arm in (_OLD, _NEW)}
    return Outcome(
        metric="bits per byte of held-out Portuguese",
        ours=Arm(_NEW, final[_NEW]),
        baseline=Arm(_OLD, final[_OLD]),
        figures={name: Figure.of([one["figures"][name] for one in found]) for name in found[0]["figures"]},
        tables={"bits per byte": found[0]["bits"], "bytes per token": found[0]["bytes per token"]},
        details={"steps": found[0]["steps"]},
        notes=(
            "The vocabularies are byte-level BPE, not SentencePiece. New pieces keep their own scores as published, so "
            "that they interleave with the old ones; one row of the table has them ranked behind (append_after).",
            "Equal compute counts the multiplications of blocks and head for a token; those of attention are left out.",
            "The Portuguese is technical documentation, part of whose words are English. There is no rehearsal: what "
            "becomes of English is measured after training on Portuguese alone.",
        ),
        data=tuple(source for corpus in (*english, *portuguese) for source in corpus.provenance),
    )


def _one_seed(
    study: Study, seed: int, english: Sequence[Corpus], portuguese: Sequence[Corpus]
) -> dict[str, Any]:
    settings = study.settings
    learnt_en, held_en = _split(english, seed, settings["measured"])
    learnt, held = _split(portuguese, seed, settings["measured"])
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
        _batches(study, base, learnt_en, seed),
        _loop(study, settings["english_steps"]),
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
    bits: dict[str, dict[str, float]] = {"English only": _bits(first, base, texts)}
    for arm, start, tokenizer, steps, stops in (
        (_OLD, copy.deepcopy(first), base, old_steps, (old_steps,)),
        (_NEW, mean, own, new_steps, (early, new_steps)),
        (_RANDOM, resized("random"), own, new_steps, (early,)),
    ):
        if tokenizer is not base:
            bits[f"{arm}, before training"] = _bits(start, tokenizer, texts)
        name = {_OLD: "old", _NEW: "mean", _RANDOM: "random"}[arm]
        for stop in stops:
            row = _continued(study, f"{name}-{seed}", start, tokenizer, learnt, texts, (steps, stop), seed)
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


def _continued(
    study: Study,
    name: str,
    model: Any,
    tokenizer: Any,
    learnt: Sequence[str],
    texts: dict[str, Sequence[str]],
    steps: tuple[int, int],
    seed: int,
) -> dict[str, float]:
    """Train until the second of `steps` under a schedule for the first, and measure; a repeated call reads the result.

    The result of a step is kept beside the checkpoints, because a run that is taken up later may be past that step.
    """
    total, stop = steps
    kept = study.folder / name / f"bits-{stop}.json"
    if not kept.is_file():
        objective = CausalLanguageModel(model)
        train(
            objective,
            _batches(study, tokenizer, learnt, seed),
            _loop(study, total),
            kept.parent,
            title=name,
            workers=0,
            stop_after=stop,
            console=study.console,
        )
        with whole_file(kept) as scratch:
            bits = _bits(objective.model.cpu().eval(), tokenizer, texts)
            scratch.write_text(json.dumps(bits), encoding="utf-8")
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _bits(model: Any, tokenizer: Any, texts: dict[str, Sequence[str]]) -> dict[str, float]:
    return {what: bits_per_byte(model.eval(), tokenizer, some) for what, some in texts.items()}


def _batches(study: Study, tokenizer: Any, texts: Sequence[str], seed: int) -> TokenBatches:
    return TokenBatches(pack(tokenizer, texts), study.settings["length"], study.settings["batch"], seed)


def _loop(study: Study, steps: int) -> LoopSettings:
    return LoopSettings(
        steps=steps, lr=study.settings["lr"], warmup=max(1, steps // 10), checkpoint_every=steps
    )


def _corpora(study: Study, which: str) -> list[Corpus]:
    return [load_corpus(name, limit=study.settings.get("limit")) for name in study.settings[which]]


def _split(corpora: Sequence[Corpus], seed: int, measured: int) -> tuple[Sequence[str], Sequence[str]]:
    """What is learnt of each corpus, and equal parts of what is held out of each."""
    pairs = [corpus.split(seed=seed) for corpus in corpora]
    learnt = [text for train_part, _ in pairs for text in train_part.documents]
    return learnt, [held.text(measured // len(pairs)) for _, held in pairs]
