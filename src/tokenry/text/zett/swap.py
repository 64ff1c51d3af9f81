"""A model run with other embedding rows than its own, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from tokenry.text.transplant.base import is_tied
from tokenry.text.zett.network import HypernetOutput
from tokenry.tokens.errors import InputError


def run_with_rows(model: PreTrainedModel, rows: HypernetOutput, **inputs: Any) -> Any:
    """The model's own forward with these rows in place of its vocabulary; gradients flow into them.

    Args:
        model: any transformers model with an input embedding.
        rows: the vocabulary; a head that is not tied needs `output_embeddings`, one with a bias `bias`.
        inputs: what the forward takes, with ids of the new vocabulary.

    Raises:
        InputError: rows for a tied head given to a model whose head is not.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    replaced = {_name(model, embedding.weight): rows.input_embeddings}
    if not is_tied(model):
        if rows.output_embeddings is None:
            raise InputError(f"{type(model).__name__} has a head of its own: rows for it are needed too.")
        replaced[_name(model, head.weight)] = rows.output_embeddings
    if head is not None and getattr(head, "bias", None) is not None:
        zeros = rows.input_embeddings.new_zeros(len(rows.input_embeddings))
        replaced[_name(model, head.bias)] = zeros if rows.bias is None else rows.bias
    with _without_padding(embedding):
        return functional_call(model, replaced, kwargs=inputs, tie_weights=True)


def embed(
    model: PreTrainedModel, rows: Float[Tensor, "v d"], index: Int[Tensor, "b t"]
) -> Float[Tensor, "b t d"]:
    """What the model's input embedding would give for these rows, with whatever it does besides looking them up."""
    embedding = model.get_input_embeddings()
    with _without_padding(embedding):
        out: Tensor = functional_call(embedding, {"weight": rows}, (index,))
        return out


@contextmanager
def _without_padding(embedding: nn.Embedding) -> Iterator[None]:
    """A padding id may lie outside other vocabularies, and only ever matters to gradients."""
    padding = embedding.padding_idx
    embedding.padding_idx = None
    try:
        yield
    finally:
        embedding.padding_idx = padding


def _name(model: PreTrainedModel, wanted: nn.Parameter) -> str:
    return next(name for name, value in model.named_parameters(remove_duplicate=False) if value is wanted)
