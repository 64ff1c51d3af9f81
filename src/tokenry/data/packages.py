"""Packages as sources of data: what is common to Debian's (`data.debian`) and PyPI's (`data.pypi`)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from tokenry.tokens.errors import TokenryError

_MANIFEST: Final = "tokenry-package.json"  # beside the extracted files: what they are


class PackageUnavailableError(TokenryError):
    """A package cannot be had here: no tool, no network, or no such package. The message says which and what to do."""


@dataclass(frozen=True)
class Provenance:
    """Where a data set comes from.

    Attributes:
        package: Name of the package.
        version: Its version.
        sha256: Checksum of the package file.
        licence: SPDX identifier of the data's licence.
        source: Where the authors publish it.
    """

    package: str
    version: str
    sha256: str
    licence: str
    source: str


@dataclass(frozen=True)
class Package:
    """A package in the cache.

    Attributes:
        name: Name of the package.
        version: Its version.
        sha256: Checksum of the package file.
        root: Folder that holds the package's files as they would lie under "/" (Debian) or site-packages (PyPI).
    """

    name: str
    version: str
    sha256: str
    root: Path

    def provenance(self, *, licence: str, source: str) -> Provenance:
        """Say where the data comes from; licence and source are facts that the data set's loader knows."""
        return Provenance(self.name, self.version, self.sha256, licence, source)


class CommandError(TokenryError):
    """A command failed."""

    def __init__(self, command: list[str], stderr: str) -> None:
        self.stderr = stderr
        told = [
            line.partition(": ")[2] for line in stderr.splitlines() if line.startswith(("E: ", "ERROR: "))
        ]
        self.reason = told[0] if told else stderr.strip() or "it says nothing about why"
        super().__init__(f"{' '.join(command)} failed: {self.reason}")


def cache_folder() -> Path:
    """Return the folder for downloads: `TOKENRY_CACHE`, or ~/.cache/tokenry (under `XDG_CACHE_HOME` if that is set)."""
    if chosen := os.environ.get("TOKENRY_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tokenry"


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder and return what it prints.

    Raises:
        CommandError: If it fails.
    """
    # C locale: the messages are read.
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandError(command, done.stderr)
    return done.stdout


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kept(target: Path) -> Package | None:
    """Return the package in a folder of the cache, if one is completely there."""
    try:
        return Package(**json.loads((target / _MANIFEST).read_text(encoding="utf-8")), root=target)
    except (
        OSError,
        ValueError,
        TypeError,
    ):  # none, or one that was written halfway: the package is made again
        return None


@contextmanager
def scratch_beside(target: Path, message: str) -> Iterator[Path]:
    """Give a scratch folder beside `target` while a message is shown; it is removed whatever happens.

    Raises:
        TokenryError: If the folder, or something inside the block, cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch,
            Console(stderr=True).status(message),
        ):
            yield Path(scratch)
    except OSError as error:
        raise TokenryError(
            f"Cannot keep {target.name} in {target.parent}: {error}; TOKENRY_CACHE names another folder."
        ) from error


def keep(unpacked: Path, package: Package) -> Package:
    """Move unpacked files to the package's place in the cache, all at once."""
    manifest = {key: value for key, value in asdict(package).items() if key != "root"}
    (unpacked / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    try:
        unpacked.rename(package.root)
    except OSError:
        if kept(package.root) is not None:  # another process was first: its copy is as good as ours
            return package
        shutil.rmtree(package.root, ignore_errors=True)  # what somebody left there is no package
        unpacked.rename(package.root)
    return package


def convert_once(
    source: Package, target: Path, convert: Callable[[Path, Path], None], message: str
) -> Package:
    """Make a folder of the cache out of a package's files, all of it or nothing.

    Args:
        source: The package.
        target: The folder to make.
        convert: Makes it: it is given the package's files and a folder that is not there yet.
        message: What is shown meanwhile.

    Raises:
        TokenryError: If the cache cannot be written.
    """
    with scratch_beside(target, message) as scratch:
        convert(source.root, scratch / "made")
        return keep(scratch / "made", replace(source, root=target))
