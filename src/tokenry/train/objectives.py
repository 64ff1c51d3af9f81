"""Objectives by name, and what one of them says so that a recipe can train a model on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.catalog.registry import Registry
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Objective
from tokenry.train.rows import EncodedRows, Prepare, RowBatches, SpecialIds, encode, pack


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
class Ingredients:
    """What a recipe gives to an objective, beside texts and tokenizer.

    Attributes:
        settings: of the objective.
        model: widths and depths, as the objective's configuration takes them.
        length: tokens in a row.
        batch: rows in a step, of all processes together.
        seed: of weights, data order and masks.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    length: int
    batch: int
    seed: int

    def rows(self, texts: Sequence[str], tokenizer: Any, **options: Any) -> tuple[EncodedRows, SpecialIds]:
        """The texts packed into rows, and the tokenizer's special ids."""
        ids = SpecialIds.of(tokenizer)
        return pack(encode(tokenizer, texts), self.length, ids, seed=self.seed, **options), ids

    def batches(self, rows: EncodedRows, prepare: Prepare) -> RowBatches:
        """Rows drawn and prepared for each step."""
        return RowBatches(rows, self.batch, prepare, self.seed)

    def bert_config(self, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
        """BERT-Base unless the recipe says otherwise.

        Raises:
            InputError: a setting that the configuration does not have, which transformers would keep without a word.
        """
        if unknown := sorted(self.model.keys() - BertConfig().to_dict().keys()):
            raise InputError(
                f"`model` has no setting {', '.join(unknown)}; it takes those of BertConfig, such as hidden_size, "
                "num_hidden_layers, num_attention_heads and intermediate_size."
            )
        return BertConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            **{"max_position_embeddings": self.length} | dict(self.model),
        )


class Pretraining(Objective):
    """An objective that a recipe can name: it trains its own tokenizer, and builds model and batches."""

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """Train the tokenizer on the recipe's texts; `options` are those of the recipe, `size` among them."""
        raise NotImplementedError

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Build what a recipe comes down to."""
        raise NotImplementedError


OBJECTIVES: Final = Registry[type[Objective]]("objective", Objective)
"""Every objective, by name; other packages register theirs in the entry-point group "tokenry.objectives"."""
