"""Pre-training from a recipe: ``python -m tokenry.train.pretrain RECIPE.yaml``.

A recipe names a corpus, a tokenizer (trained on the corpus, or a folder), an objective, a model and the loop's
settings; what comes out is an ordinary transformers folder. Run again after an interruption and it goes on;
``accelerate launch -m tokenry.train.pretrain RECIPE.yaml`` trains the same recipe on several devices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
import yaml
from rich.console import Console
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    ElectraForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tokenry.data.text.corpora import load_corpus, read_corpus
from tokenry.embed.dupmae.training import DupmaeMasking, DupmaeObjective, DupmaeSettings
from tokenry.learn.electra import ElectraMasking, ElectraObjective, ElectraSettings, electra_config
from tokenry.text.cubert.tokenizer import CodeTokenizer
from tokenry.text.cubert.training import LineMasking, LinePretraining, pack_lines
from tokenry.text.training import save_tokenizer, train_bpe
from tokenry.text.vocabulary import load_tokenizer
from tokenry.text.wordpiece import train_wordpiece
from tokenry.tokens.errors import InputError
from tokenry.train.language import CausalLanguageModel, TokenBatches, small_llama
from tokenry.train.language import pack as pack_row
from tokenry.train.loop import Batch, LoopSettings, Objective, once, train
from tokenry.train.masked_lm import BertMasking, MaskedLanguageModelling
from tokenry.train.recipe import exit_code, reason
from tokenry.train.resuming import claim
from tokenry.train.rows import Prepare, RowBatches, Rows, SpecialIds, encode, pack, save_folder


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that determines the trained model.

    Attributes:
        output: folder for the tokenizer, checkpoints and, in ``model``, the result.
        corpus: ``name`` (and ``limit`` in bytes) of a corpus of `tokenry.data.text.corpora`, or ``paths`` of text
            files.
        tokenizer: ``size`` (and options) of one to train, or ``folder`` of one there is.
        objective: ``kind``, one of `kinds()`, and its settings.
        training: steps, learning rate and so on.
        model: widths and depths, as the kind's configuration takes them.
        length: tokens in a row.
        batch: rows in a step, of all processes together.
        seed: of weights, data order and masks.
        workers: processes that prepare batches, beside each that trains.
    """

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
            InputError: if the file is missing, is no YAML, or has missing or unknown keys.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            training = LoopSettings(**{"seed": content.get("seed", 0)} | content["training"])
            recipe = cls(**content | {"training": training, "output": Path(content["output"])})
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a recipe for pre-training: {reason(error)}") from error
        recipe.kind()
        return recipe

    def kind(self) -> Kind:
        """What is trained.

        Raises:
            InputError: if the objective has no kind of a name that is known.
        """
        name = str(self.objective.get("kind"))
        if name not in _KINDS:
            raise InputError(f"`objective.kind` is one of {', '.join(_KINDS)}, got {name!r}")
        return _KINDS[name]

    def settings(self) -> dict[str, Any]:
        """The objective's settings without its kind."""
        return {name: value for name, value in self.objective.items() if name != "kind"}

    def identity(self) -> dict[str, Any]:
        """What a run cannot change while it lasts, as JSON values."""
        content = dataclasses.asdict(self) | {"training": self.training.identity()}
        del content["output"], content["workers"]
        return json.loads(json.dumps(content))


@dataclass(frozen=True)
class Job:
    """What a recipe comes down to.

    Attributes:
        objective: trained by the loop.
        batches: step -> batch.
        result: the model that is kept.
    """

    objective: Objective
    batches: Callable[[int], Batch]
    result: PreTrainedModel


@dataclass(frozen=True)
class Kind:
    """An objective that can be named in a recipe.

    Attributes:
        tokenizer: trains the tokenizer: (texts, **options).
        job: builds the rest: (recipe, texts, tokenizer).
    """

    tokenizer: Callable[..., PreTrainedTokenizerBase]
    job: Callable[[PretrainRecipe, Sequence[str], Any], Job]


def kinds() -> tuple[str, ...]:
    """The objectives that a recipe may name."""
    return tuple(_KINDS)


def run(recipe: PretrainRecipe, console: Console | None = None) -> Path:
    """Train, or go on training, and write the finished model; returns its folder.

    Raises:
        TokenryError: what is wrong with the corpus, the tokenizer, the settings, or a run that was started otherwise.
    """
    precision = recipe.training.precision
    once(lambda: claim(recipe.output / "recipe.json", recipe.identity()), precision)
    texts = _texts(recipe)
    words, target = recipe.output / "tokenizer", recipe.output / "model"
    if "folder" in recipe.tokenizer:
        words = Path(recipe.tokenizer["folder"])
    else:
        # By one process, and never again: what the run was started with is what it goes on with.
        once(lambda: words.exists() or save_tokenizer(_train_tokenizer(recipe, texts), words), precision)
    tokenizer = load_tokenizer(words)
    torch.manual_seed(recipe.seed)
    try:
        job = recipe.kind().job(recipe, texts, tokenizer)
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
        console=console,
    )
    once(lambda: save_folder(job.result.eval(), tokenizer, target), precision)
    return target


def _texts(recipe: PretrainRecipe) -> tuple[str, ...]:
    given = dict(recipe.corpus)
    if "name" in given and not given.keys() - {"name", "limit"}:
        return load_corpus(given["name"], limit=given.get("limit")).documents
    if given.keys() == {"paths"}:
        return read_corpus(given["paths"]).documents
    raise InputError(f"`corpus` is {{name: ..., limit: ...}} or {{paths: [...]}}, got {given}")


def _train_tokenizer(recipe: PretrainRecipe, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    options = dict(recipe.tokenizer)
    if "size" not in options:
        raise InputError(f"`tokenizer` is {{size: ...}} with options or {{folder: ...}}, got {options}")
    try:
        return recipe.kind().tokenizer(texts, **options)
    except TypeError as error:
        raise InputError(f"The recipe's tokenizer has an option that does not exist: {error}") from error


# ------------------------------------------------------------------------------------------------------- kinds


def _rows(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> tuple[Rows, SpecialIds]:
    ids = SpecialIds.of(tokenizer)
    return pack(encode(tokenizer, texts), recipe.length, ids, seed=recipe.seed), ids


def _row_batches(recipe: PretrainRecipe, rows: Rows, prepare: Prepare) -> RowBatches:
    return RowBatches(rows, recipe.batch, prepare, recipe.seed)


def _bert_config(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    """BERT-Base unless the recipe says otherwise.

    Raises:
        InputError: a setting that the configuration does not have, which transformers would keep without a word.
    """
    if unknown := sorted(recipe.model.keys() - BertConfig().to_dict().keys()):
        raise InputError(
            f"`model` has no setting {', '.join(unknown)}; it takes those of BertConfig, such as hidden_size, "
            "num_hidden_layers, num_attention_heads and intermediate_size."
        )
    return BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        **{"max_position_embeddings": recipe.length} | dict(recipe.model),
    )


def _mlm(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> Job:
    rows, ids = _rows(recipe, texts, tokenizer)
    model = BertForMaskedLM(_bert_config(recipe, tokenizer))
    masking = BertMasking(ids, **recipe.settings())
    return Job(MaskedLanguageModelling(model), _row_batches(recipe, rows, masking), model)


def _electra(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> Job:
    rows, ids = _rows(recipe, texts, tokenizer)
    options = recipe.settings()
    masking = ElectraMasking(
        ids, recipe.length, **{name: options.pop(name) for name in ("rate", "replacement") if name in options}
    )
    settings = ElectraSettings(**options)
    unigram = None
    if settings.generator == "unigram":
        unigram = torch.bincount(rows.ids[rows.mask.bool()], minlength=len(tokenizer)).float()
    config = electra_config(
        len(tokenizer), pad_id=tokenizer.pad_token_id, **{"positions": recipe.length} | dict(recipe.model)
    )
    model = ElectraForPreTraining(config)
    objective = ElectraObjective(model, settings, unigram=unigram, forbidden=ids.special)
    return Job(objective, _row_batches(recipe, rows, masking), model)


def _dupmae(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> Job:
    ids = SpecialIds.of(tokenizer)
    documents = encode(tokenizer, texts)
    rows = pack(documents, recipe.length, ids, seed=recipe.seed, single=1.0, shorter=0.0)
    settings = DupmaeSettings(**recipe.settings())
    model = BertForMaskedLM(_bert_config(recipe, tokenizer))
    batches = _row_batches(recipe, rows, DupmaeMasking(ids, settings))
    return Job(DupmaeObjective(model, settings), batches, model)


def _code_subwords(texts: Sequence[str], size: int = 50_000) -> PreTrainedTokenizerFast:
    return CodeTokenizer.train(texts, size).subwords


def _cubert(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> Job:
    ids = SpecialIds.of(tokenizer)
    rows = pack_lines(CodeTokenizer(tokenizer), texts, recipe.length, ids, seed=recipe.seed)
    model = BertForPreTraining(_bert_config(recipe, tokenizer))
    masking = LineMasking(BertMasking(ids, **recipe.settings()))
    return Job(LinePretraining(model), _row_batches(recipe, rows, masking), model)


def _causal(recipe: PretrainRecipe, texts: Sequence[str], tokenizer: Any) -> Job:
    if options := recipe.settings():
        raise InputError(f"The causal objective has no settings, got {', '.join(options)}")
    model = small_llama(
        len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        seed=recipe.seed,
        **{"context": recipe.length} | dict(recipe.model),
    )
    batches = TokenBatches(pack_row(tokenizer, texts), recipe.length, recipe.batch, recipe.seed)
    return Job(CausalLanguageModel(model), batches, model)


_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mlm": Kind(train_wordpiece, _mlm),
        "electra": Kind(train_wordpiece, _electra),
        "dupmae": Kind(train_wordpiece, _dupmae),
        "cubert": Kind(_code_subwords, _cubert),
        "causal": Kind(train_bpe, _causal),
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: pre-train from a recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenry.train.pretrain",
        description="Pre-train a model from a recipe; run again to continue. "
        "On several devices: accelerate launch -m tokenry.train.pretrain RECIPE",
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, as in recipes/pretrain")
    given = parser.parse_args(arguments)

    def work() -> None:
        target = run(PretrainRecipe.load(given.recipe))
        once(lambda: print(f"The trained model is in {target}."))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
