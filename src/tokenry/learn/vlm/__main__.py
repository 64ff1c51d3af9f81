"""``python -m tokenry.learn.vlm RECIPE``."""

import argparse
from pathlib import Path

from tokenry.learn.vlm import Recipe, run


def main() -> None:
    """Command line: train the embedded model from a recipe."""
    parser = argparse.ArgumentParser(
        description="Train the embedded vision-language model; run again to continue."
    )
    parser.add_argument("recipe", type=Path)
    run(Recipe.load(parser.parse_args().recipe))


if __name__ == "__main__":
    main()
