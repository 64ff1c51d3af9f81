"""The networks that tokenry trains, in sizes for tests: one module a model, with a function `build`.

A module here is all it takes for the laws of `test_laws.py` to hold a model to.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Subject:
    """A small model with inputs for it.

    Attributes:
        model: randomly initialised, in evaluation mode.
        inputs: keyword arguments of its forward, a batch of at least two rows of different length; with labels, so that
            `loss` is defined.
        rows: the arguments among `inputs` that hold one row per item.
        generate: arguments for `generate` (without labels), or None if it does not generate.
        score: what of the output says what the model predicts; its first dimension is the batch.
    """

    model: PreTrainedModel
    inputs: Mapping[str, Any]
    rows: tuple[str, ...] = ("input_ids", "attention_mask", "labels")
    generate: Mapping[str, Any] | None = None
    score: Callable[[Any], Tensor] = lambda output: output.logits


def names() -> tuple[str, ...]:
    """Every model that there is."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def build(name: str, seed: int = 0) -> Subject:
    """Build one."""
    subject: Subject = import_module(f"{__name__}.{name}").build(seed)
    return subject
