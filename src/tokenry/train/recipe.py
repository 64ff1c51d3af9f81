"""Recipes: trainings that a YAML file describes, for `tokenry train RECIPE`, and the one reader of such files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar, cast

import yaml
from rich.console import Console

from tokenry.catalog.registry import Registry
from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.tokens.typed import reader

R = TypeVar("R")

KIND = "kind"
"""The key by which a recipe says what sort of training it describes."""


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """What a YAML file holds.

    Args:
        path: the file.
        what: what it is meant to be, as messages call it: "a recipe for pre-training".

    Raises:
        InputError: it is missing, is no YAML, or holds no object.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} is not {what}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not {what}: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not {what}: it holds no settings (NAME: VALUE).")
    return content


def read_as(kind: type[R], content: Mapping[str, Any], path: str | Path, what: str) -> R:
    """Settings as a dataclass.

    Args:
        kind: the dataclass; its types say what each setting may be.
        content: the settings.
        path: the file that they are from.
        what: see `read_yaml`.

    Raises:
        InputError: a setting that there is not, one that is missing, or one of another type; the message says where.
        TokenryError: what the dataclass itself says of its values.
    """
    try:
        found: R = reader(cast(Any, kind))(dict(content))
    except ValueError as error:
        if isinstance(error, InputError):  # what a value means, not what type it is of
            raise
        raise InputError(f"{path} is not {what}: {error}.") from error
    return found


class TrainingRecipe:
    """A training as a file describes it; a frozen dataclass whose fields are its settings.

    Attributes:
        trains: what it trains, as messages call it.
    """

    trains: ClassVar[str]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it from YAML.

        Raises:
            InputError: the file is missing, is no YAML, or has missing, unknown or mistyped settings.
        """
        what = f"a recipe for {cls.trains}"
        content = read_yaml(path, what)
        content.pop(KIND, None)  # said by whoever chose this class
        return read_as(cls, cls.completed(content), path, what)

    @classmethod
    def completed(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Settings of the file with those that follow from others."""
        return content

    @abstractmethod
    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train, or go on where an earlier run was stopped.

        Args:
            stop_after: stop, checkpointed, after this step.
            console: where progress is shown.

        Returns:
            The folder of the trained model; None if the training was stopped before its end.

        Raises:
            TokenryError: what cannot be used, or a run that was started with other settings.
        """


RECIPES: Final = Registry[type[TrainingRecipe]]("recipe", TrainingRecipe, "kind of recipe")
"""Every kind of recipe, by the name that files say; other packages register theirs in "tokenry.recipes"."""


def read_recipe(path: str | Path) -> TrainingRecipe:
    """The training that a file describes; of the default kind where it does not say.

    Raises:
        InputError: it cannot be read, or has settings that are missing, unknown or mistyped.
        UnknownNameError: it is of a kind that there is not.
    """
    kind = str(read_yaml(path, "a recipe").get(KIND, RECIPES.default))
    try:
        found = RECIPES.get(kind)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path} says what there is not: {error}") from error
    return found.load(path)
