"""`tokenry train`: a model from a recipe."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tokenry.cli.terminal import knowing, say, screen
from tokenry.tokens.errors import UnknownNameError

if TYPE_CHECKING:
    from tokenry.train.recipe import TrainingRecipe

_KINDS: Final = MappingProxyType(
    {
        "pretrain": "tokenry.learn.pretrain:PretrainRecipe",
        "language": "tokenry.text.cabrita.training:CabritaRecipe",
        "embedded": "tokenry.models.vlm.embedded.training:EmbeddedRecipe",
    }
)
"""What a recipe may say that it describes, and where that is."""


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("train")(train_recipe)


def train_recipe(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file, as in recipes/ of a checkout.", show_default=False)
    ],
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop, checkpointed, after this step.", show_default="the last")
    ] = None,
) -> None:
    """Train a model from a recipe, or go on where the same command was interrupted.

    A recipe says with `kind` what it describes: pretrain (a language model or an encoder from text), language (a
    language model extended by another language) or embedded (the vision-language model that comes with tokenry). On
    several devices: accelerate launch -m tokenry train RECIPE.
    """
    from tokenry.train.processes import once

    described = read_recipe(recipe)
    with knowing("The same command goes on from the last checkpoint."):
        folder = described.train(stop_after=stop_after, console=screen())
    told = "Stopped; the same command goes on." if folder is None else f"The trained model is in {folder}."
    once(lambda: say(told))


def read_recipe(path: Path) -> TrainingRecipe:
    """The training that a recipe describes; pre-training where it does not say.

    Raises:
        InputError: it cannot be read, or has settings that are missing, unknown or mistyped.
        UnknownNameError: it is of a kind that there is not.
    """
    from tokenry.train.recipe import KIND, read_yaml

    kind = str(read_yaml(path, "a recipe").get(KIND, "pretrain"))
    if kind not in _KINDS:
        near = get_close_matches(kind, _KINDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KINDS)}."
        raise UnknownNameError(f"{path} is a recipe of kind {kind!r}, which there is not: {hint}")
    module, _, name = _KINDS[kind].partition(":")
    found: type[TrainingRecipe] = getattr(import_module(module), name)
    return found.load(path)
