"""Putting new rows into a model: embeddings, heads, biases, special ids, chat template; and keeping the result."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.hosts.wrappers import unwrap
from tokenry.text.transplant.base import Context, Rows, Transplant, check_rows
from tokenry.text.transplant.equip import control_ids, equip
from tokenry.text.transplant.plan import ROLES, TransplantPlan, role_ids, special_names
from tokenry.text.transplant.registry import TRANSPLANTS, transplant_method
from tokenry.text.vocabulary import ByteVocab, as_tokenizer
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.files import whole_folder

REPORT: Final = "transplant.json"
"""File beside a saved model that says what was done."""

_NEVER: Final = -1e4
"""Bias of filler rows, where a head has one: finite in every dtype, and no softmax ever gives such a row weight."""


class Transplanted(NamedTuple):
    """A model in its new vocabulary.

    Attributes:
        model: the model.
        report: what was shared, made and how, as JSON values.
        tokenizer: the new tokenizer; it may hold control tokens of the old one that a chat template needs.
    """

    model: PreTrainedModel
    report: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Head:
    """Where a model's rows are: the input embedding, and the head where it has one of its own."""

    embedding: nn.Embedding
    head: nn.Module | None
    tied: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Head:
        embedding = model.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise UnsupportedError(
                f"{type(model).__name__} embeds tokens with {type(embedding).__name__}, not with a table of rows: "
                "there is nothing to transplant."
            )
        head = model.get_output_embeddings()
        if head is not None and not isinstance(getattr(head, "weight", None), Tensor):
            raise UnsupportedError(
                f"The head of {type(model).__name__} is {type(head).__name__}, without a weight."
            )
        return cls(embedding, head, head is not None and head.weight is embedding.weight)

    @property
    def bias(self) -> Tensor | None:
        return None if self.head is None else getattr(self.head, "bias", None)

    @property
    def output(self) -> Tensor | None:
        """Rows of the head, unless it is tied."""
        weight = None if self.head is None or self.tied else self.head.weight
        return weight if isinstance(weight, Tensor) else None


def transplant(
    model: PreTrainedModel,
    source: PreTrainedTokenizerBase | str | Path,
    target: PreTrainedTokenizerBase | str | Path,
    method: str | Transplant = TRANSPLANTS.default,
    *,
    context: Context | None = None,
    multiple: int = 1,
    chat: bool = True,
    inplace: bool = False,
    **settings: Any,
) -> Transplanted:
    """Give a model another tokenizer.

    Tokens that both vocabularies have keep their rows, bit for bit; a method makes the others. With the model's own
    tokenizer the result gives identical logits.

    *Chat.* A chat model stays one: its template moves along (it is what the model was tuned on, so it replaces a
    template of the target), control tokens that the template or the configuration names and the target lacks are added
    to the target, and generation ends at the old end-of-turn token as well as at the target's own.

    *Padding of batches.* A tokenizer without a padding token gets one where the old one has it: the end of a text where
    that is what the old one pads with, else the old padding token.

    A model that reads both ways (BERT) gets its classification, separation and mask tokens in the same way, and texts
    are framed by special tokens as the old tokenizer framed them.

    *Filler rows.* By default the matrices have exactly one row per token. Filler rows (``multiple=128`` makes products
    a little faster) would be tokens that no tokenizer can decode; they and ids that the tokenizer leaves unused are
    listed in ``generation_config.suppress_tokens``, which is saved with the model and which `generate` obeys, and where
    the head has a bias they get one of -1e4. Without a bias their logit is 0, which a softmax over all rows sees.

    Args:
        model: any transformers model with a table of input embeddings: causal, masked, or without a head.
        source: its tokenizer, or the tokenizer's folder.
        target: the new one.
        method: a name of `transplants`, or a configured method.
        context: what the method may use (texts, vectors, donor, seed).
        multiple: pad the number of rows to a multiple of this.
        chat: carry chat template, control tokens, padding token and framing over.
        inplace: change `model` itself rather than a copy.
        **settings: of the method, where it is given by name.

    Returns:
        The model, a report, and the new tokenizer (a copy of `target`).

    Raises:
        InputError: a tokenizer that is not this model's, or one that cannot be read.
        UnsupportedError: a model without a table of embeddings.
        UnknownNameError: no such method.
    """
    chosen = transplant_method(method, **settings)
    if multiple < 1:
        raise InputError(
            f"Multiple is the number that the rows are padded to a multiple of, at least 1; got {multiple}."
        )
    if not isinstance(unwrap(model, bare=False), PreTrainedModel):
        raise InputError(f"Expected a transformers model, got {type(model).__name__}.")
    old = ByteVocab.from_tokenizer(source)
    tokenizer = as_tokenizer(target)
    tokenizer, added = equip(tokenizer, old, model) if chat else (copy.deepcopy(tokenizer), [])
    given = _Head.of(model).embedding.num_embeddings
    plan = TransplantPlan.between(old, ByteVocab.from_tokenizer(tokenizer), given)
    check_rows(plan, given)
    model = model if inplace else copy.deepcopy(model)
    report: dict[str, Any] = {"method": chosen.slug} | plan.describe()
    if plan.is_identity:
        report["note"] = "the same vocabulary: nothing was changed"
    else:
        parts = _Head.of(model)
        context = replace(context or Context(), bias=None if parts.bias is None else parts.bias.detach())
        output = None if parts.output is None else parts.output.detach()
        rows = chosen(plan, parts.embedding.weight.detach(), output, context)
        _write(model, rows, plan, multiple)
        report |= dict(rows.report)
        report["rows"] = model.get_input_embeddings().num_embeddings
    _set_ids(model, plan, chat)
    if added:
        report["control tokens added to the target"] = added
    return Transplanted(model, report, tokenizer)


# ------------------------------------------------------------------------------------------------------ the model


def _write(model: PreTrainedModel, rows: Rows, plan: TransplantPlan, multiple: int) -> None:
    """Resize the model's tables and fill them."""
    n = len(rows.input)
    # mean_resizing would compute a covariance of rows that are overwritten anyway.
    model.resize_token_embeddings(
        n, pad_to_multiple_of=multiple if multiple > 1 else None, mean_resizing=False
    )
    parts = _Head.of(model)
    unused = [token for token in plan.idle.tolist() if token not in plan.target.special_ids]
    with torch.no_grad():
        _fill(parts.embedding.weight, rows.input, 0.0)
        if rows.output is not None and parts.output is not None:
            _fill(parts.output, rows.output, 0.0)
        if rows.bias is not None and parts.bias is not None:
            bias = rows.bias.clone()
            bias[unused] = _NEVER
            _fill(parts.bias, bias, _NEVER)
    fillers = [*unused, *range(n, parts.embedding.num_embeddings)]
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.suppress_tokens = fillers or None
        generation.begin_suppress_tokens = generation.bad_words_ids = generation.forced_eos_token_id = None


def _fill(table: Tensor, rows: Tensor, rest: float) -> None:
    table[: len(rows)] = rows.to(table.device)
    table[len(rows) :] = rest


def _set_ids(model: PreTrainedModel, plan: TransplantPlan, chat: bool) -> None:
    """Point the configuration and the generation configuration at the target's special tokens."""
    moved = {int(a): int(b) for a, b in plan.special}
    ids = role_ids(plan.target)
    eos = ids.get("eos", ids.get("sep"))
    for role, stand_ins in {"eos": ("sep",), "bos": ("cls",), "pad": ("eos", "bos", "sep")}.items():
        found = next((ids[r] for r in (role, *stand_ins) if r in ids), None)
        if found is not None:
            ids[role] = found
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        for role in ROLES:
            key = f"{role}_token_id"
            if getattr(config, key, None) is not None or (
                role in ("bos", "eos", "pad") and hasattr(config, key)
            ):
                setattr(config, key, ids.get(role))
    for key, value in control_ids(model, plan.source).items():
        found = moved.get(value, _same_name(plan, value))  # a token without a row has moved by its name alone
        if found is not None:
            setattr(model.config, key, found)
    embedding = model.get_input_embeddings()
    if getattr(embedding, "padding_idx", None) is not None:
        embedding.padding_idx = ids.get("pad")  # the row that never gets a gradient
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    ends = generation.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    turns = [_same_name(plan, end) for end in ends] if chat else []
    stops = [token for token in dict.fromkeys([eos, *turns]) if token is not None]
    generation.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    generation.bos_token_id, generation.pad_token_id = ids.get("bos"), ids.get("pad")
    start = generation.decoder_start_token_id
    if start is not None:
        generation.decoder_start_token_id = moved.get(start, ids.get("pad"))


def _same_name(plan: TransplantPlan, token: int) -> int | None:
    """The target's special token of the same text, if there is one."""
    name = plan.source.tokenizer.convert_ids_to_tokens(token)
    return special_names(plan.target).get(str(name))


# --------------------------------------------------------------------------------------------------------- on disk


def save_transplanted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    report: Mapping[str, Any] | None = None,
) -> Path:
    """Write model, tokenizer and report as one `from_pretrained` folder: complete, or not there at all.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: where; must not exist, or be empty.
        report: written beside them as ``transplant.json``.

    Returns:
        The folder.

    Raises:
        InputError: the folder exists and is not empty; or it cannot be written (a full disk, no permission), and
            nothing is left behind.
    """
    target = Path(folder)
    check_free(target)
    with whole_folder(target) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        if report is not None:
            (scratch / REPORT).write_text(
                json.dumps(dict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    return target


def check_free(folder: Path) -> None:
    """See that a folder is free to be written, before any work is done.

    Raises:
        InputError: something is there already.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is not an empty folder: choose another, or remove it.")
