"""``python -m tokenry.models.vlm.embedded RECIPE``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenry.models.vlm.embedded.recipe import Recipe
from tokenry.models.vlm.embedded.training import run
from tokenry.train.recipe import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: train the embedded model from a recipe."""
    parser = argparse.ArgumentParser(
        description="Train the embedded vision-language model; run again to continue."
    )
    parser.add_argument("recipe", type=Path)
    given = parser.parse_args(arguments)
    return exit_code(lambda: run(Recipe.load(given.recipe)))


if __name__ == "__main__":
    sys.exit(main())
