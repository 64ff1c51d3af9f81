"""`tokenry train`: a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.catalog.registry import catalogued
from tokenry.cli.terminal import knowing, say, screen


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("train")(train_recipe)


def train_recipe(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A YAML file, as in recipes/ of a checkout. Its `kind` is one of "
            f"{', '.join(catalogued('recipe'))}, or of another package.",
            show_default=False,
        ),
    ],
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop, checkpointed, after this step.", show_default="the last")
    ] = None,
) -> None:
    """Train a model from a recipe, or go on where the same command was interrupted.

    On several devices: accelerate launch -m tokenry train RECIPE.
    """
    from tokenry.train.processes import once
    from tokenry.train.recipe import read_recipe

    described = read_recipe(recipe)
    with knowing("The same command goes on from the last checkpoint."):
        folder = described.train(stop_after=stop_after, console=screen())
    told = "Stopped; the same command goes on." if folder is None else f"The trained model is in {folder}."
    once(lambda: say(told))
