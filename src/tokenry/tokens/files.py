"""Writing so that nothing half-written is ever seen: on a full disk, after Ctrl-C, or by another process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenry.tokens.errors import InputError, TokenryError


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a scratch path that becomes `target` if the block ends well; if it does not, nothing has changed.

    The path has the ending of the target's name, and a name that no other process has.

    Args:
        target: The file; one that exists is replaced. Its folder is made if need be.

    Raises:
        InputError: If it cannot be written; the message says why.
    """
    with _scratch(target, target.parent) as scratch:
        yield scratch / target.name
        os.replace(scratch / target.name, target)


@contextmanager
def whole_folder(target: Path, *, merge: bool = False) -> Iterator[Path]:
    """Give a scratch folder that becomes `target` if the block ends well; if it does not, nothing has changed.

    Args:
        target: The folder; one that exists is replaced.
        merge: Replace only the files of a folder that exists which the block has written too.

    Raises:
        InputError: If it cannot be written; the message says why.
    """
    into = merge and target.is_dir()
    # Inside a folder that stays, because that may be a file system of its own.
    with _scratch(target, target if into else target.parent) as scratch:
        scratch.chmod(0o755)  # mkdtemp's folder is for its owner only; a saved one is as any other
        yield scratch
        if into:
            for file in sorted(scratch.iterdir()):
                os.replace(file, target / file.name)
        else:
            _exchange(scratch, target)


@contextmanager
def _scratch(target: Path, beside: Path) -> Iterator[Path]:
    """A folder of this process's own, gone at the end; what fails meanwhile is told as what kept `target` back."""
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=beside))
        yield scratch
    except TokenryError:
        raise
    # safetensors has an error of its own for a full disk, tokenizers a bare Exception
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{target} could not be written: {reason}. What was there before is untouched; "
            "make room, or choose another folder."
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    """Put a folder in the place of another, which goes only when the new one is there."""
    old = new.with_name(f"{new.name}-old")
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(old, ignore_errors=True)
