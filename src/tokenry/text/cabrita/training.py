"""Cabrita from start to end: a vocabulary for the new language, a model resized to it, continued training on text.

`tokenry train recipes/cabrita.yaml`; run again to continue.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from tokenry.data.text.corpora import Corpus
from tokenry.data.text.sources import gather
from tokenry.models.load import load
from tokenry.text.cabrita.filters import STOP_WORDS, Rules, clean
from tokenry.text.cabrita.vocabulary import extend_tokenizer
from tokenry.text.measure import bits_per_byte, bytes_per_token
from tokenry.text.training import save_tokenizer
from tokenry.text.transplant import Context, save_transplanted, transplant
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.tokens.files import whole_file
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.loop import LoopSettings, train
from tokenry.train.recipe import TrainingRecipe
from tokenry.train.resuming import claim

_REPORT = "cabrita.json"


@dataclass(frozen=True)
class CabritaRecipe(TrainingRecipe):
    """Everything that determines the trained model.

    Attributes:
        output: Folder for the tokenizer, the checkpoints and, at the end, the model (`output/model`).
        texts: The new language: names of corpora (`tokenry.data.text.corpora.corpus_names`), files and folders.
        size: Ids of the extended vocabulary.
        loop: Schedule and optimiser.
        model: A causal language model, as `tokenry.models.load.load` takes it: "smollm2", a folder, a hub id.
        old_texts: The model's own language, only to measure what becomes of it.
        language: Whose stop words the cleaning asks for; None keeps every document as it is.
        append_after: Rank new pieces behind all old ones (`tokenry.text.cabrita.vocabulary.extend_tokenizer`).
        init: How new rows are made: a method of `tokenry.text.transplant` ("mean", "random", "tokenadapt", ...).
        length: Tokens of a training sequence.
        batch: Sequences of a step.
        held_out: Share of the documents that is measured on.
        measured: Bytes that are measured on, at most.
        limit: Bytes of each named corpus that are used, at most.
        seed: Of everything that is drawn.
    """

    trains: ClassVar[str] = "Cabrita"

    output: Path
    texts: tuple[str, ...]
    size: int
    loop: LoopSettings
    model: str = "smollm2"
    old_texts: tuple[str, ...] = ()
    language: str | None = "pt"
    append_after: bool = False
    init: str = "mean"
    length: int = 512
    batch: int = 4
    held_out: float = 0.1
    measured: int = 50_000
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError("Texts names no corpus, file or folder of the new language.")
        if self.language is not None and self.language not in STOP_WORDS:
            raise UnknownNameError(
                f"There are no stop words of {self.language!r} to clean with; there are: {', '.join(STOP_WORDS)}. "
                "language: null leaves the documents as they are."
            )
        if self.length < 2 or self.batch < 1:
            raise InputError(
                f"Length must be at least 2 and batch at least 1, got {self.length}, {self.batch}"
            )

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on, and print what was measured."""
        report = run(self, stop_after=stop_after, console=console)
        _show(report, console or Console())
        return report.folder

    def claim_output(self) -> None:
        """Make the output this recipe's own, so that no other takes up its vocabulary, checkpoints or report.

        Raises:
            InputError: If it is that of another recipe.
        """
        identity = asdict(self) | {"loop": self.loop.identity()}
        del identity["output"]
        claim(self.output / "recipe.json", identity)


@dataclass(frozen=True)
class CabritaReport:
    """What came of it.

    Attributes:
        folder: The trained model, an ordinary `from_pretrained` folder; None while training is not finished.
        tokens: What -> bytes per token, with the old and with the new vocabulary ("new language, old vocabulary" ...).
        bits: What -> bits per byte, before, right after resizing, and after training.
        details: Sizes, documents dropped by each rule.
    """

    folder: Path | None
    tokens: Mapping[str, float]
    bits: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)


def run(
    recipe: CabritaRecipe, *, stop_after: int | None = None, console: Console | None = None
) -> CabritaReport:
    """Make the vocabulary, resize the model, train it on the new language, and measure.

    All weights are trained, with a fresh optimiser, on the new language alone: without rehearsal, the old language
    becomes worse, and the report says by how much. A run that was interrupted goes on from its last checkpoint.

    Args:
        recipe: The settings.
        stop_after: Stop, checkpointed, after this step; nothing is measured or exported then unless it is the last.
        console: Where progress is shown.

    Raises:
        InputError: If the model, the texts or the sizes cannot be used, or the output is that of another recipe.
        UnknownNameError: If a text is neither a path nor a corpus.
    """
    done = recipe.output / _REPORT
    if done.is_file():
        recipe.claim_output()
        content = json.loads(done.read_text(encoding="utf-8"))
        return CabritaReport(**(content | {"folder": recipe.output / "model"}))
    model, base = load(recipe.model, reads="text")
    if not model.can_generate():
        raise InputError(
            f"Cabrita continues a causal language model, and {recipe.model} is a {type(model).__name__}."
        )
    details: dict[str, Any] = {}
    learnt, held = _new_language(recipe, details)
    recipe.claim_output()
    tokenizer = _vocabulary(recipe, base, learnt, details)
    resized = transplant(
        model, base, tokenizer, recipe.init, context=Context(texts=learnt, seed=recipe.seed)
    ).model.eval()
    objective = CausalLanguageModel(copy.deepcopy(resized))
    train(
        objective,
        TokenBatches(pack(tokenizer, learnt), recipe.length, recipe.batch, recipe.seed),
        recipe.loop,
        recipe.output / "training",
        title="continued training",
        workers=0,
        stop_after=stop_after,
        console=console,
    )
    if stop_after is not None and stop_after < recipe.loop.steps:
        return CabritaReport(None, {}, {}, details)
    trained = objective.model.cpu().eval()
    tokens, bits = {}, {}
    for what, texts in {"new language": held, "old language": _old_language(recipe)}.items():
        if texts:
            tokens[f"{what}, old vocabulary"] = bytes_per_token(base, texts)
            tokens[f"{what}, new vocabulary"] = bytes_per_token(tokenizer, texts)
            bits[f"{what}, before"] = bits_per_byte(model, base, texts)
            bits[f"{what}, resized"] = bits_per_byte(resized, tokenizer, texts)
            bits[f"{what}, trained"] = bits_per_byte(trained, tokenizer, texts)
    content = {"tokens": tokens, "bits": bits, "details": details}
    finished = recipe.output / "model"
    if not finished.is_dir():  # else an earlier run was stopped just before it wrote its report
        save_transplanted(trained, tokenizer, finished, content)
    _write_json(done, content)
    return CabritaReport(finished, tokens, bits, details)


def _new_language(recipe: CabritaRecipe, details: dict[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    documents = [text for one in gather(recipe.texts, limit=recipe.limit) for text in one.documents]
    if recipe.language is not None:
        cleaned = clean(documents, Rules(stop_words=STOP_WORDS[recipe.language]))
        details["documents that broke a rule"] = dict(cleaned.broken)
        documents = list(cleaned.kept)
    details["documents"] = len(documents)
    learnt, held = Corpus("new language", "", tuple(documents)).split(recipe.held_out, recipe.seed)
    return learnt.documents, _first(held.documents, recipe.measured)


def _old_language(recipe: CabritaRecipe) -> Sequence[str]:
    if not recipe.old_texts:
        return ()
    documents = [text for one in gather(recipe.old_texts, limit=recipe.limit) for text in one.documents]
    return _first(documents, recipe.measured)


def _first(documents: Sequence[str], limit: int) -> Sequence[str]:
    """Documents up to so many bytes; the last is cut."""
    found: list[str] = []
    for document in documents:
        data = document.encode("utf-8")[:limit]
        if not data:
            break
        found.append(data.decode("utf-8", errors="ignore"))
        limit -= len(data)
    return found


def _vocabulary(recipe: CabritaRecipe, base: Any, texts: Sequence[str], details: dict[str, Any]) -> Any:
    """Extend the tokenizer, or take the one that an earlier run has made."""
    folder = recipe.output / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        extension = extend_tokenizer(base, texts, recipe.size, append_after=recipe.append_after)
        save_tokenizer(extension.tokenizer, folder)
    tokenizer = load_tokenizer(folder)
    details["vocabulary"] = {"old": len(base), "new": len(tokenizer)}
    return tokenizer


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _show(report: CabritaReport, console: Console) -> None:
    for title, figures in {"bytes per token": report.tokens, "bits per byte": report.bits}.items():
        table = Table(title, "", title_justify="left")
        for what, value in figures.items():
            table.add_row(what, f"{value:.3f}")
        console.print(table)
