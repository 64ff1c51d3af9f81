"""The objectives that others are compared with, as a recipe names them: masked and causal language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from tokenry.text.training import train_bpe
from tokenry.text.wordpiece import train_wordpiece
from tokenry.tokens.errors import InputError
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.masked_lm import BertMasking, MaskedLanguageModelling
from tokenry.train.objectives import Ingredients, Job, Pretraining


class MaskedPretraining(MaskedLanguageModelling, Pretraining):
    """BERT's masked language modelling (arXiv 1810.04805) of a BERT, on WordPiece."""

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """WordPiece, uncased."""
        return train_wordpiece(texts, **options)

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Rows with 80/10/10 masks; `settings` are those of `BertMasking`."""
        rows, ids = given.rows(texts, tokenizer)
        model = BertForMaskedLM(given.bert_config(tokenizer))
        return Job(cls(model), given.batches(rows, BertMasking(ids, **given.settings)), model)


class CausalPretraining(CausalLanguageModel, Pretraining):
    """Next-token prediction of a small Llama, on byte-level BPE."""

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """Byte-level BPE."""
        return train_bpe(texts, **options)

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Random stretches of all texts in a row.

        Raises:
            InputError: settings, of which this objective has none.
        """
        if given.settings:
            raise InputError(f"The causal objective has no settings, got {', '.join(given.settings)}.")
        model = small_llama(
            len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            seed=given.seed,
            **{"context": given.length} | dict(given.model),
        )
        batches = TokenBatches(pack(tokenizer, texts), given.length, given.batch, given.seed)
        return Job(cls(model), batches, model)
