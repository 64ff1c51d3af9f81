"""Cabrita from start to end: a vocabulary for the new language, a model resized to it, continued training on text.

`python -m tokenry.text.cabrita.training recipes/cabrita.yaml`; run again to continue.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from rich.console import Console
from rich.table import Table

from tokenry.data.text.corpora import Corpus
from tokenry.data.text.sources import gather
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.pretrained import model_folder
from tokenry.text.cabrita.vocabulary import extend_tokenizer
from tokenry.text.filters import STOP_WORDS, Rules, clean
from tokenry.text.measure import bits_per_byte, bytes_per_token
from tokenry.text.training import save_tokenizer
from tokenry.text.transplant import Context, save_transplanted, transplant
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.tokens.files import whole_file
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.loop import LoopSettings, train
from tokenry.train.recipe import exit_code, reason
from tokenry.train.resuming import claim

_REPORT = "cabrita.json"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the trained model.

    Attributes:
        output: Folder for the tokenizer, the checkpoints and, at the end, the model (`output/model`).
        texts: The new language: names of corpora (`tokenry.data.text.corpora.corpus_names`), files and folders.
        size: Ids of the extended vocabulary.
        loop: Schedule and optimiser.
        model: Folder of a causal language model, or "smollm2".
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

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from YAML.

        Raises:
            InputError: If the file is missing, is not YAML, or has missing or unknown keys.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            loop = dict(content["loop"])
            if "betas" in loop:
                loop["betas"] = tuple(loop["betas"])
            changed = {
                "output": Path(content["output"]),
                "loop": LoopSettings(**loop),
                "texts": tuple(content["texts"]),
                "old_texts": tuple(content.get("old_texts", ())),
            }
            return cls(**(content | changed))
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a recipe for Cabrita: {reason(error)}") from error

    def claim_output(self) -> None:
        """Make the output this recipe's own, so that no other takes up its vocabulary, checkpoints or report.

        Raises:
            InputError: If it is that of another recipe.
        """
        identity = asdict(self) | {"loop": self.loop.identity()}
        del identity["output"]
        claim(self.output / "recipe.json", identity)


@dataclass(frozen=True)
class Report:
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


def run(recipe: Recipe, *, stop_after: int | None = None, console: Console | None = None) -> Report:
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
    from transformers import AutoModelForCausalLM

    done = recipe.output / _REPORT
    if done.is_file():
        recipe.claim_output()
        content = json.loads(done.read_text(encoding="utf-8"))
        return Report(**(content | {"folder": recipe.output / "model"}))
    folder = model_folder(recipe.model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json.")
    base = load_tokenizer(folder)
    details: dict[str, Any] = {}
    learnt, held = _new_language(recipe, details)
    recipe.claim_output()
    tokenizer = _vocabulary(recipe, base, learnt, details)
    model = Checkpoint(str(folder)).model(AutoModelForCausalLM)
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
        return Report(None, {}, {}, details)
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
    return Report(finished, tokens, bits, details)


def _new_language(recipe: Recipe, details: dict[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    documents = [text for one in gather(recipe.texts, limit=recipe.limit) for text in one.documents]
    if recipe.language is not None:
        cleaned = clean(documents, Rules(stop_words=STOP_WORDS[recipe.language]))
        details["documents that broke a rule"] = dict(cleaned.broken)
        documents = list(cleaned.kept)
    details["documents"] = len(documents)
    learnt, held = Corpus("new language", "", tuple(documents)).split(recipe.held_out, recipe.seed)
    return learnt.documents, _first(held.documents, recipe.measured)


def _old_language(recipe: Recipe) -> Sequence[str]:
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


def _vocabulary(recipe: Recipe, base: Any, texts: Sequence[str], details: dict[str, Any]) -> Any:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: run a recipe, or go on with it."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenry.text.cabrita.training",
        description="Extend a language model by a language; run again to continue.",
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, such as recipes/cabrita.yaml")
    parser.add_argument("--stop-after", type=int, help="stop after this step; a later run goes on")
    given = parser.parse_args(arguments)
    console = Console()

    def work() -> None:
        _show(run(Recipe.load(given.recipe), stop_after=given.stop_after, console=console), console)

    return exit_code(work)


def _show(report: Report, console: Console) -> None:
    if report.folder is None:
        console.print("Stopped; run again to go on.")
        return
    for title, figures in {"bytes per token": report.tokens, "bits per byte": report.bits}.items():
        table = Table(title, "", title_justify="left")
        for what, value in figures.items():
            table.add_row(what, f"{value:.3f}")
        console.print(table)
    console.print(f"The model is in {report.folder}.")


if __name__ == "__main__":
    sys.exit(main())
