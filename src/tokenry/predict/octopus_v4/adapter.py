"""LoRA with functional tokens: an adapter whose new rows are always trained, and its folder.

A folder holds ``adapter_model.safetensors`` and ``adapter_config.json`` in peft's own form (LoRA's matrices and the new
rows, not the model) and ``functional_tokens.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.wrappers import peft_for, with_adapter
from tokenry.predict.octopus_v4.tokens import FunctionalTokens, add_functional_tokens
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

TOKENS_FILE: Final = "functional_tokens.json"
_FORMAT: Final = 1


@dataclass(frozen=True)
class LoraSettings:
    """LoRA (arXiv 2106.09685).

    Attributes:
        rank: Of the update of a matrix.
        alpha: The update is multiplied by alpha / rank.
        dropout: On the update's input, while training.
        targets: Which linear layers: a name, names, or "all-linear" for all but the head.
        seed: Which random start.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    seed: int = 0


class LoadedAdapter(NamedTuple):
    """What `load_adapter` found.

    Attributes:
        model: The model with its adapter.
        tokens: The functional tokens.
        about: What else was saved, as JSON values.
    """

    model: Any
    tokens: FunctionalTokens
    about: Mapping[str, Any]


def with_lora(model: Any, tokens: FunctionalTokens | None, settings: LoraSettings = LoraSettings()) -> Any:
    """Wrap a model with LoRA; of the embedding and the head, only the rows of functional tokens are trained.

    Args:
        model: The model, with its functional tokens if there are any; it is changed.
        tokens: Its functional tokens; None trains no rows.
        settings: Of LoRA.

    Returns:
        peft's `PeftModel`; `merge_and_unload` makes an ordinary model of it.

    Raises:
        InputError: If the settings make no sense for this model: a rank of 0, targets that it does not have.
        UnsupportedError: If peft is not installed.
    """
    peft = peft_for("Training a router")
    rows = None if tokens is None else {name: list(tokens.all_ids) for name in _tables(model)}
    targets = settings.targets
    try:
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            trainable_token_indices=rows,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return peft.get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"{settings} does not fit {type(model).__name__}: {error}") from error


def save_adapter(
    folder: str | Path, model: Any, tokens: FunctionalTokens, about: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write an adapter with its new rows and a description of the tokens; complete or not at all.

    Args:
        folder: Where; a folder that exists is replaced.
        model: What `with_lora` returned, not merged.
        tokens: Its functional tokens.
        about: What else to keep, as JSON values (a graph, say).

    Raises:
        InputError: If the model has no adapter, or the folder cannot be written.
    """
    if not hasattr(model, "peft_config"):
        raise InputError(
            f"{type(model).__name__} has no adapter: save what with_lora returned, before merging it."
        )
    values = {"format": _FORMAT, "tokens": tokens.to_json(), "about": dict(about)}
    with whole_folder(Path(folder)) as scratch:
        # The whole embedding is not to be saved: peft would, seeing that its size has changed.
        model.save_pretrained(scratch, safe_serialization=True, save_embedding_layers=False)
        (scratch / "README.md").unlink(missing_ok=True)  # a form to be filled in
        (scratch / TOKENS_FILE).write_text(
            json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def load_adapter(folder: str | Path, model: Any, tokenizer: Any, *, merge: bool = False) -> LoadedAdapter:
    """Put a saved adapter and its functional tokens on the model that it was trained from.

    Args:
        folder: What `save_adapter` wrote.
        model: The model as it was before; it is changed.
        tokenizer: Its tokenizer as it was before; it is changed.
        merge: Add the update to the weights and return an ordinary model, which is faster. Rounds in bfloat16.

    Raises:
        InputError: If the folder does not hold an adapter, or it does not fit the model or the tokenizer.
        UnsupportedError: If peft is not installed.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / TOKENS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no adapter with functional tokens: {TOKENS_FILE}: {error}"
        ) from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise InputError(f"{folder / TOKENS_FILE} is not of format {_FORMAT}: another version wrote it.")
    saved = FunctionalTokens.from_json(values.get("tokens", {}))
    names = dict(zip(saved.workers, saved.descriptions, strict=True))
    tokens = add_functional_tokens(model, tokenizer, names, prefix=saved.prefix)
    if tokens.ids != saved.ids or tokens.end != saved.end:
        raise InputError(
            f"The adapter in {folder} was trained with {saved.texts[0]} as token {saved.ids[0]}, which this tokenizer "
            f"gives the id {tokens.ids[0]}: load the tokenizer and the model that it was trained from."
        )
    loaded = with_adapter(model, Checkpoint(str(folder)).adapter())
    return LoadedAdapter(
        loaded.merge_and_unload() if merge else loaded.eval(), tokens, values.get("about", {})
    )


def _tables(model: Any) -> list[str]:
    """Names of the embedding and, if it has weights of its own, the head: of tied ones peft keeps both alike."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]
