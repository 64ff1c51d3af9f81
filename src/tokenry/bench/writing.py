"""A file that one process at a time may write to."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tokenry.tokens import InputError
from tokenry.tokens.files import whole_file


class Claim:
    """The sole right to write to a file, from its making until `release` or the end of the process, however it ends.

    The operating system's own lock (`filelock`) on an empty file beside it, so that readers are not in the way and a
    killed process leaves no lock behind. A second file says who holds it; it means nothing without the lock.

    Raises:
        InputError: another process, or another part of this one, holds it; or nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self._note = path.with_name(f".{path.name}.holder")
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"Another run {self._holder()}is writing to {path}. Wait for it, end it, or choose another folder "
                "(--out)."
            ) from None
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror}. Choose another folder (--out)."
            ) from error
        holder = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(" ", "seconds")}
        with suppress(InputError), whole_file(self._note) as scratch:  # a full disk may be full of this
            scratch.write_text(json.dumps(holder), encoding="utf-8")

    @classmethod
    def require(cls, path: Path) -> None:
        """Refuse a file that another run is writing to, before work is done for this one.

        Raises:
            InputError: as making a claim does.
        """
        cls(path).release()

    def release(self) -> None:
        """Let others write to the file."""
        with suppress(OSError):
            self._note.unlink(missing_ok=True)
        self._lock.release()

    def _holder(self) -> str:
        """Who has it, as part of a sentence; nothing if that cannot be told."""
        try:
            found = json.loads(self._note.read_text(encoding="utf-8"))
            return f"(process {found['pid']}, since {found['since']}) "
        except (OSError, ValueError, KeyError, TypeError):
            return ""
