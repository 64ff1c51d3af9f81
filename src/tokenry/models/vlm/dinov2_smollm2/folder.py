"""Where the small LLaVA lies: its trained parts in the package, the whole in the cache.

Nothing here imports torch before the parts have to be put together, so that a misspelt name of a model is told at once.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Final

from tokenry.data.packages import Package, cache_folder, convert_once, kept, sha256_of
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.tokens.errors import InputError

NAME: Final = "dinov2-smollm2"
"""What it is called wherever a model is named, and its folder beside the weights of the embedded model."""
PROJECTOR_FILE: Final = "projector.safetensors"
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")
"""What peft writes an adapter as."""
_CONVERSION: Final = 1
"""Raise it when the way the parts are put together changes, or what they are put into: folders that older code wrote
are then left alone."""


def parts_folder() -> Path:
    """Where what was trained here lies: a projector, and an adapter as peft writes it."""
    return Path(str(files("tokenry.models") / "weights")) / NAME


def dinov2_smollm2_folder(parts: Path | None = None) -> Path:
    """Return the folder of the small LLaVA, put together the first time (0.6 GB in the cache, in single precision).

    Args:
        parts: Projector and adapter, such as a recipe leaves; those that come with tokenry by default.

    Raises:
        PackageUnavailableError: If the wheel of the tower or of the language model cannot be had here.
        UnsupportedError: If the parts are to be put together and a package that reads them is missing.
        InputError: If the parts are missing, damaged, or made for other models.
        TokenryError: If the cache cannot be written.
    """
    parts = parts or parts_folder()
    named = [parts / name for name in (PROJECTOR_FILE, *ADAPTER_FILES)]
    if lacking := [file.name for file in named if not file.is_file()]:
        raise InputError(
            f"{parts} lacks {' and '.join(lacking)} of the small LLaVA: reinstall tokenry, or train them again with "
            "`tokenry train recipes/dinov2_smollm2.yaml`."
        )
    digest = hashlib.sha256("".join(map(sha256_of, named)).encode()).hexdigest()
    target = cache_folder() / "models" / f"{NAME}-{_CONVERSION}-{digest[:16]}"
    if kept(target) is None:
        tower, language = dinov2_folder(), smollm2_folder()
        convert_once(
            Package(NAME, str(_CONVERSION), digest, parts),
            target,
            lambda parts, made: _assemble(tower, language, parts, made),
            "putting DINOv2 and SmolLM2 together (once)",
        )
    return target


def _assemble(tower: Path, language: Path, parts: Path, target: Path) -> None:
    from tokenry.models.vlm.dinov2_smollm2.model import assemble

    assemble(tower, language, parts, target)
