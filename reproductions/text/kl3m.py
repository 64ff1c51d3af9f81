"""KL3M: is a vocabulary of the domain's own worth having, and do short tokens survive errors?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.text.kl3m import boundary_consistency, corrupt, train_characters, train_domain

_NOISY_BYTES = 100_000  # held-out text that boundaries are compared on


def experiment(study: Study) -> Outcome:
    """Tokens for held-out domain text by each vocabulary; boundaries that survive substituted characters."""
    settings = study.settings
    domain, general = (load_corpus(settings[name], limit=settings["bytes"]) for name in ("domain", "general"))
    runs = [_run(settings, domain, general, seed) for seed in study.seeds]
    arms: tuple[str, ...] = tuple(runs[0]["tokens per kB"])

    def values(arm: str, figure: str = "tokens per kB") -> list[float]:
        return [run[figure][arm] for run in runs]

    def ratios(first: str, second: str, figure: str = "tokens per kB") -> list[float]:
        pairs = zip(values(first, figure), values(second, figure), strict=True)
        return [a / b for a, b in pairs]

    return Outcome(
        metric="tokens per kB of held-out licence texts",
        ours=Arm.of("BPE of the domain", tuple(values("domain"))),
        baseline=Arm.of("BPE of general text, of the same size", tuple(values("general"))),
        measurements={
            "tokens over general": Measurement.of(ratios("domain", "general")),
            "tokens saved by reserved strings": Measurement.of(
                [1 - r for r in ratios("domain, terms", "domain")]
            ),
            "boundary consistency over BPE": Measurement.of(
                ratios("characters", "domain", "boundary consistency")
            ),
        },
        tables={
            "vocabularies": {
                arm: {figure: Measurement.of(values(arm, figure)).value for figure in runs[0]} for arm in arms
            }
        },
        data=(*domain.provenance, *general.provenance),
    )


def _run(
    settings: Mapping[str, Any], domain: Corpus, general: Corpus, seed: int
) -> dict[str, dict[str, float]]:
    """One split: figure -> arm -> value."""
    train, test = (part.documents for part in domain.split(settings["held_out"], seed))
    elsewhere, _ = (part.documents for part in general.split(settings["held_out"], seed))
    size, terms = settings["size"], _terms(settings)
    arms = {
        "domain": train_domain(train, size, custom=()),
        "general": train_domain(elsewhere, size, custom=()),
        "domain, terms": train_domain(train, size, custom=(), extra=terms),
        "characters": train_characters((*train, *elsewhere), settings["characters"]),
    }
    if size >= 4096:  # below, the paper's strings leave no room for words
        arms["domain, the paper's strings"] = train_domain(train, size)
    kilobytes = sum(len(text.encode()) for text in test) / 1000
    clean = "\n".join(test)[:_NOISY_BYTES]
    noisy = corrupt(clean, settings["errors"], seed=seed)
    return {
        "tokens per kB": {name: _tokens(tokenizer, test) / kilobytes for name, tokenizer in arms.items()},
        "boundary consistency": {name: boundary_consistency(t, clean, noisy) for name, t in arms.items()},
    }


def _terms(settings: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = range(1, settings["sections"] + 1)
    sections = [f"{name} {n}" for name in ("Section", "section", "Article") for n in numbers]
    return (*settings["terms"], *sections, *(f"{n}.{m}" for n in numbers for m in range(1, 10)))


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> int:
    return sum(len(tokenizer.encode(text)) for text in texts)
