"""Token ids as people hand them over: one text or a batch, as a tensor, an array or lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.tokens.errors import InputError

IdsLike = Int[Tensor, "b s"] | Int[Tensor, " s"] | np.ndarray | Sequence[Any]
"""Token ids of one text or of several, as `id_rows` reads them."""


def id_rows(ids: Any, device: torch.device | None = None) -> Int[Tensor, "b s"]:
    """Ids as a batch; those of one text, without a batch axis, are its only row.

    Args:
        ids: tensor or array [b s] or [s], or lists of that form.
        device: where lists and arrays go; tensors stay where they are.

    Raises:
        InputError: texts of different lengths, no whole numbers, or more axes than two.
    """
    if isinstance(ids, Tensor):
        found = ids
    elif isinstance(ids, np.ndarray):
        found = torch.from_numpy(ids).to(device)
    else:
        found = _of_lists(ids, device)
    if (
        found.ndim not in (1, 2)
        or found.is_floating_point()
        or found.is_complex()
        or found.dtype == torch.bool
    ):
        raise InputError(
            f"Token ids are whole numbers [texts, tokens], or [tokens] of one text; got {found.dtype} of shape "
            f"{tuple(found.shape)}."
        )
    return found if found.ndim == 2 else found[None]


def _of_lists(ids: Any, device: torch.device | None) -> Tensor:
    try:
        rows = list(ids)
    except TypeError:
        rows = [None]
    if rows and all(isinstance(row, Tensor) and row.ndim for row in rows):
        rows = [row.tolist() for row in rows]
    nested = [row for row in rows if isinstance(row, list | tuple)]
    lengths = sorted({len(row) for row in nested})
    if len(lengths) > 1:
        raise InputError(
            f"The texts have {lengths[0]} to {lengths[-1]} tokens; a batch needs padding on the left and an attention "
            'mask: tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").'
        )
    try:
        return torch.tensor(rows, dtype=None if rows else torch.long, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Token ids are whole numbers, as a tensor or in lists; got {type(ids).__name__}: {ids!r:.80}. Let the "
            'tokenizer make them: tokenizer(text, return_tensors="pt").'
        ) from error
