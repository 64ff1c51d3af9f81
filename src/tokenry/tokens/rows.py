"""Rows of tokens of unequal length that one codec made: what codes and latents share, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenry.tokens.errors import InputError, gist
from tokenry.tokens.files import whole_file
from tokenry.tokens.reduction import prefix_mask

_FORMAT: Final = "tokenry"
"""Key of a file's metadata that says what the file holds."""


class TokenRows:
    """What codes and latents share: rows of a batch, each with its own length, made by one codec."""

    kind: ClassVar[str]
    length: Int[Tensor, " b"]
    grid: Int[Tensor, "b 3"] | None
    codec: str

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.length)

    @property
    def mask(self) -> Bool[Tensor, "b n"]:
        """Which tokens are real, not padding."""
        return prefix_mask(self.length, self.width)

    def require(self, codec: str) -> None:
        """Refuse tokens of another codec: its decoder would make nonsense of them that looks like a result.

        Args:
            codec: the fingerprint of the codec that is about to read them.

        Raises:
            InputError: naming both.
        """
        if self.codec != codec:
            raise InputError(
                f"These {self.kind} are of codec {self.codec!r}, not of {codec!r}: decode them with the codec that "
                "made them, with the weights that it had."
            )

    def shorter(self, n: int | Sequence[int] | Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The lengths of prefixes of at most n tokens."""
        wanted = torch.as_tensor(n, device=self.length.device)
        if (
            wanted.is_floating_point()
            or wanted.shape not in ((), self.length.shape)
            or bool((wanted < 0).any())
        ):
            raise InputError(
                f"A prefix is a number of tokens, or one for each of {len(self)} items, 0 or more; got {n!r}."
            )
        return self.length.minimum(wanted.to(self.length.dtype))

    def check_rows(self, most: int | None) -> None:
        """Refuse lengths outside the row, and grids with fewer cells than an item has tokens.

        Args:
            most: tokens that a complete item has whatever its grid; None: as many as the grid has cells.
        """
        b = len(self.length)
        if bool(((self.length < 0) | (self.length > self.width)).any()):
            raise InputError(
                f"Lengths lie in 0..{self.width}, the width of a row of {self.kind}; got {self.length.tolist()}."
            )
        if self.grid is not None and self.grid.shape != (b, 3):
            raise InputError(
                f"A grid is (t, h, w) for each of {b} items; got shape {tuple(self.grid.shape)}."
            )
        cells = most if self.grid is None or most is not None else self.grid.prod(1)
        if cells is not None and bool((self.length > cells).any()):
            raise InputError(
                f"Items of {self.length.tolist()} tokens have more than their grids or scales have places: "
                f"{cells if isinstance(cells, int) else cells.tolist()}."
            )


def write_rows(
    path: Path, kind: str, tensors: Mapping[str, Tensor], grid: Tensor | None, extra: Mapping[str, Any]
) -> None:
    """Write tensors to a safetensors file, whole or not at all, with what else is to be known of them."""
    parts = {**tensors} if grid is None else {**tensors, "grid": grid}
    metadata = {_FORMAT: kind, **{name: json.dumps(value) for name, value in extra.items()}}
    with whole_file(path) as scratch:
        save_file({name: part.detach().cpu().contiguous() for name, part in parts.items()}, scratch, metadata)


def read_rows(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a file (`grid` is None where there is none), and what else it says."""
    try:
        with safe_open(path, framework="pt") as file:
            said = dict(file.metadata() or {})
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"The file {str(path)!r} cannot be read as {kind}: {gist(error)}.") from error
    if (held := said.pop(_FORMAT, None)) != kind:
        raise InputError(f"The file {str(path)!r} holds {held or 'tensors of another program'}, not {kind}.")
    return {"grid": None, **tensors}, {name: json.loads(value) for name, value in said.items()}
