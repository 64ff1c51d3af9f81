"""A folder of checkpoints belongs to the run that began there: nothing else may go on from it.

Checkpoints are found by their place. Without a note of what they are the checkpoints of, a run with other text, another
vocabulary or another schedule would take up a training that is none of its own, and say nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_file


def claim(note: Path, identity: Mapping[str, Any]) -> None:
    """Note what a run is started with, or see that it is what the run that is taken up was started with.

    Args:
        note: file to keep it in, inside the run's folder.
        identity: what must not change while the run lasts, as JSON values.

    Raises:
        InputError: the run was started with something else, or the folder cannot be written.
    """
    wanted = json.loads(json.dumps(identity))  # tuples become lists, as they do on disk
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            with whole_file(note) as scratch:
                scratch.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{note.parent} cannot hold the run ({error}): choose another output.") from error
    if changed := [name for name in wanted if wanted[name] != before.get(name)]:
        raise InputError(
            f"The run in {note.parent} was started with another {', '.join(changed)}: "
            "choose another output, or remove that folder."
        )


def fingerprint(texts: Iterable[str]) -> str:
    """A digest that tells one sequence of texts from another."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest that tells one fast tokenizer from another."""
    return fingerprint([tokenizer.backend_tokenizer.to_str()])
