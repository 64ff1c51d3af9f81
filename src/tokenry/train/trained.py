"""The folder of a trained model: whole or not there, with notes on the training beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tokenry.tokens.files import whole_folder

NOTES_FILE: Final = "training.json"
"""What is told of a training beside the weights that it has made."""


@contextmanager
def trained_folder(target: Path, notes: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder to write a model to, which becomes `target` with the notes in it if the block ends well.

    Args:
        target: the folder; one that exists is replaced.
        notes: how the model was trained, as JSON values; paths are written as texts.

    Raises:
        InputError: it cannot be written.
    """
    with whole_folder(target) as scratch:
        yield scratch
        text = json.dumps(dict(notes), indent=1, default=str) + "\n"
        (scratch / NOTES_FILE).write_text(text, encoding="utf-8")
        for path in scratch.iterdir():
            path.chmod(0o644)  # safetensors creates files that their owner alone can read
