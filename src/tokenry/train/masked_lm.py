"""Masked language modelling (BERT, arXiv 1810.04805): the baseline of every other objective for encoders."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import BertForMaskedLM, ElectraForMaskedLM

from tokenry.train import masking
from tokenry.train.loop import Batch, Figures, Objective
from tokenry.train.rows import EncodedRows, SpecialIds

MaskedModel: TypeAlias = BertForMaskedLM | ElectraForMaskedLM


def vocabulary_logits(model: MaskedModel, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
    """A masked language model's head on hidden states; computed at the positions that need it, it costs a seventh."""
    if isinstance(model, ElectraForMaskedLM):
        return model.generator_lm_head(model.generator_predictions(hidden))
    return model.cls(hidden)


def hidden_states(model: Any, ids: Int[Tensor, "b n"], batch: Batch) -> Float[Tensor, "b n d"]:
    """The last layer of an encoder on the ids of a batch."""
    types = batch.get("token_type_ids")
    return model(ids, attention_mask=batch["attention_mask"], token_type_ids=types).last_hidden_state


@dataclass(frozen=True)
class BertMasking:
    """Rows -> batch of masked language modelling.

    Attributes:
        ids: of the tokenizer.
        rate: share of tokens to hide.
        whole_words: hide words rather than tokens.
    """

    ids: SpecialIds
    rate: float = 0.15
    whole_words: bool = False

    def __call__(self, rows: EncodedRows, generator: torch.Generator) -> Batch:
        """``masked_ids``, ``labels``, and the rows themselves."""
        allowed = self.ids.candidates(rows)
        count = masking.rounded_counts(allowed, self.rate)
        if self.whole_words:
            words = masking.word_index(rows.ids, self.ids.continues)
            chosen = masking.choose_words(allowed, words, count, generator)
        else:
            chosen = masking.choose(allowed, count, generator)
        seen = masking.corrupt(rows.ids, chosen, self.ids.mask, generator, replacements=self.ids.ordinary)
        return as_batch(rows) | {"masked_ids": seen, "labels": masking.labels(rows.ids, chosen)}


def as_batch(rows: EncodedRows) -> Batch:
    """Rows under the names transformers uses."""
    return {"input_ids": rows.ids, "attention_mask": rows.mask, "token_type_ids": rows.types}


class MaskedLanguageModelling(Objective):
    """Cross-entropy of the hidden tokens.

    Args:
        model: an encoder with a masked-language-modelling head.
    """

    def __init__(self, model: MaskedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, and the share of hidden tokens that were found."""
        hidden = hidden_states(self.model.base_model, batch["masked_ids"], batch)
        loss, found = token_loss(self.model, hidden, batch["labels"])
        return loss, {"found": found}


def token_loss(
    model: MaskedModel, hidden: Float[Tensor, "b n d"], labels: Int[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy and accuracy at the labelled positions."""
    asked: Bool[Tensor, "b n"] = labels != masking.IGNORE
    target = labels[asked]
    logits = vocabulary_logits(model, hidden[asked]).float()
    # A sum over a count of at least one: a batch in which nothing was hidden has loss 0, not NaN.
    loss = F.cross_entropy(logits, target, reduction="sum") / max(1, len(target))
    found = (logits.argmax(-1) == target).float().sum() / max(1, len(target))
    return loss, found
