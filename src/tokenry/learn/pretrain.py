"""Pre-training from a recipe: `tokenry train RECIPE`.

A recipe names a corpus, a tokenizer (trained on the corpus, or a folder), an objective, a model and the loop's
settings; what comes out is an ordinary transformers folder. Run again after an interruption and it goes on;
``accelerate launch -m tokenry train RECIPE`` trains the same recipe on several devices.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from tokenry.data.text.corpora import load_corpus, read_corpus
from tokenry.text.training import save_tokenizer
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError
from tokenry.train.loop import LoopSettings, once, train
from tokenry.train.objectives import OBJECTIVES, Ingredients, Pretraining
from tokenry.train.recipe import TrainingRecipe
from tokenry.train.resuming import claim
from tokenry.train.rows import save_folder


@dataclass(frozen=True)
class PretrainRecipe(TrainingRecipe):
    """Everything that determines the trained model.

    Attributes:
        output: folder for the tokenizer, checkpoints and, in ``model``, the result.
        corpus: ``name`` (and ``limit`` in bytes) of a corpus of `tokenry.data.text.corpora`, or ``paths`` of text
            files.
        tokenizer: ``size`` (and options) of one to train, or ``folder`` of one there is.
        objective: ``kind``, one of `kinds`, and its settings.
        training: steps, learning rate and so on.
        model: widths and depths, as the kind's configuration takes them.
        length: tokens in a row.
        batch: rows in a step, of all processes together.
        seed: of weights, data order and masks.
        workers: processes that prepare batches, beside each that trains.
    """

    trains: ClassVar[str] = "pre-training"

    output: Path
    corpus: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    objective: Mapping[str, Any]
    training: LoopSettings
    model: Mapping[str, Any] = field(default_factory=dict)
    length: int = 128
    batch: int = 32
    seed: int = 0
    workers: int = 0

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from YAML.

        Raises:
            InputError: if the file is missing, is no YAML, or has missing, unknown or mistyped settings.
            UnknownNameError: if there is no objective of its name.
        """
        recipe = super().load(path)
        recipe.kind()
        return recipe

    @classmethod
    def completed(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The loop draws with the recipe's seed unless it has its own."""
        if not isinstance(training := content.get("training"), dict):
            return content
        return content | {"training": {"seed": content.get("seed", 0)} | training}

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on: `run`."""
        return run(self, console, stop_after=stop_after)

    def kind(self) -> type[Pretraining]:
        """The objective.

        Raises:
            UnknownNameError: none has that name.
            InputError: it has a name, and cannot be trained from a recipe.
        """
        name = str(self.objective.get("kind"))
        found = OBJECTIVES.get(name)
        if not issubclass(found, Pretraining):
            raise InputError(
                f"No recipe can be written for {name}; `objective.kind` is one of {', '.join(kinds())}."
            )
        return found

    def settings(self) -> dict[str, Any]:
        """The objective's settings without its kind."""
        return {name: value for name, value in self.objective.items() if name != "kind"}

    def ingredients(self) -> Ingredients:
        """What the objective is given of this."""
        return Ingredients(self.settings(), self.model, self.length, self.batch, self.seed)

    def identity(self) -> dict[str, Any]:
        """What a run cannot change while it lasts, as JSON values."""
        content = dataclasses.asdict(self) | {"training": self.training.identity()}
        del content["output"], content["workers"]
        return json.loads(json.dumps(content))


def kinds() -> tuple[str, ...]:
    """The objectives that a recipe may name."""
    return tuple(name for name, found in OBJECTIVES.all().items() if issubclass(found, Pretraining))


def run(
    recipe: PretrainRecipe, console: Console | None = None, *, stop_after: int | None = None
) -> Path | None:
    """Train, or go on training, and write the finished model; returns its folder, None where it stopped before.

    Raises:
        TokenryError: what is wrong with the corpus, the tokenizer, the settings, or a run that was started otherwise.
    """
    precision = recipe.training.precision
    texts = _texts(recipe)  # first: a run that cannot begin claims no folder
    once(lambda: claim(recipe.output / "recipe.json", recipe.identity()), precision)
    words, target = recipe.output / "tokenizer", recipe.output / "model"
    if "folder" in recipe.tokenizer:
        words = Path(recipe.tokenizer["folder"])
    else:
        # By one process, and never again: what the run was started with is what it goes on with.
        once(lambda: words.exists() or save_tokenizer(_train_tokenizer(recipe, texts), words), precision)
    tokenizer = load_tokenizer(words)
    torch.manual_seed(recipe.seed)
    try:
        job = recipe.kind().job(recipe.ingredients(), texts, tokenizer)
    except TypeError as error:  # an option that the configuration or the objective does not have
        raise InputError(
            f"The recipe's model or objective has a setting that does not exist: {error}"
        ) from error
    train(
        job.objective,
        job.batches,
        recipe.training,
        recipe.output / "checkpoints",
        title=recipe.objective["kind"],
        workers=recipe.workers,
        stop_after=stop_after,
        console=console,
    )
    if stop_after is not None and stop_after < recipe.training.steps:
        return None
    once(lambda: save_folder(job.result.eval(), tokenizer, target), precision)
    return target


def _texts(recipe: PretrainRecipe) -> tuple[str, ...]:
    given = dict(recipe.corpus)
    if "name" in given and not given.keys() - {"name", "limit"}:
        return load_corpus(given["name"], limit=given.get("limit")).documents
    if given.keys() == {"paths"}:
        return read_corpus(given["paths"]).documents
    raise InputError(f"`corpus` is {{name: ..., limit: ...}} or {{paths: [...]}}, not {given}.")


def _train_tokenizer(recipe: PretrainRecipe, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    options = dict(recipe.tokenizer)
    if "size" not in options:
        raise InputError(f"`tokenizer` is {{size: ...}} with options or {{folder: ...}}, got {options}")
    try:
        return recipe.kind().train_tokenizer(texts, **options)
    except TypeError as error:
        raise InputError(f"The recipe's tokenizer has an option that does not exist: {error}") from error
