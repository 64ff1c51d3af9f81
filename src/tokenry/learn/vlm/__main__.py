"""``python -m tokenry.learn.vlm RECIPE``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenry.learn.recipe import exit_code
from tokenry.learn.vlm import Recipe, run


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
