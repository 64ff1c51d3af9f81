"""Methods with weights of their own: settings as JSON, and safetensors beside it."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tokenry.reduce.base import WEIGHTS, Reducer
from tokenry.tokens import InputError, TokenryError
from tokenry.tokens.files import whole_folder

SETTINGS_FILE: Final = "method.json"
WEIGHTS_FILE: Final = "method.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainedReducer(Reducer):
    """A method that learns which tokens stay: a `Reducer` with a network.

    The JSON configuration names the weights by a fingerprint, so that a configuration alone is never run with weights
    that nobody trained; `save_pretrained` and `from_pretrained` keep both.

    Attributes:
        network: the weights; a new, untrained network of the same settings if not given.
    """

    network: nn.Module | None = field(default=None, compare=False, repr=False, metadata={WEIGHTS: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is None:
            object.__setattr__(self, "network", self.build())

    @abstractmethod
    def build(self) -> nn.Module:
        """An untrained network for these settings; the same one at every call."""

    @property
    def weights(self) -> nn.Module:
        """The network."""
        assert self.network is not None
        return self.network

    @property
    def fingerprint(self) -> str:
        """A digest of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The configuration with the fingerprint of its weights, which are not in it."""
        return super().to_json() | {WEIGHTS: self.fingerprint}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """A method with untrained weights, from a configuration that names none.

        Raises:
            TokenryError: as `Reducer.from_json`; a configuration of trained weights.
        """
        if WEIGHTS in config:
            raise TokenryError(
                f"This configuration of {cls.slug} belongs to trained weights ({config[WEIGHTS]}), which JSON does not "
                f"hold: load the folder that they were saved to with {cls.__name__}.from_pretrained(folder)."
            )
        return super().from_json(config)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write settings and weights to a folder, whole or not at all."""
        folder = Path(folder)
        with whole_folder(folder) as scratch:
            (scratch / SETTINGS_FILE).write_text(
                json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8"
            )
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in self.weights.state_dict().items()},
                scratch / WEIGHTS_FILE,
            )
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            InputError: no such folder, damaged files, or weights that are not those of the settings.
            TokenryError: as `Reducer.from_json`.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds no saved {cls.slug} method: {error}.") from error
        named = config.pop(WEIGHTS, None)
        made = cls.from_json(config)
        try:
            made.weights.load_state_dict(tensors, assign=True)  # in the precision that they were saved in
        except RuntimeError as error:
            raise InputError(
                f"The weights in {folder} do not fit the settings beside them: {error}."
            ) from error
        if made.fingerprint != named:
            raise InputError(
                f"The weights in {folder} are {made.fingerprint}, the settings beside them belong to {named}: one of "
                "the two files was replaced."
            )
        return made
