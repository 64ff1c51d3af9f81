"""Data sets from Debian packages: fetched without root, checked, extracted into a cache, never installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from rich.console import Console

from tokenry.tokens.errors import TokenryError

# SHA-256 of package files that tokenry was tested with. apt checks every download against Debian's signed index; these
# also tell when a different file carries a version that we know.
KNOWN_SHA256: Final = MappingProxyType(
    {
        ("dataset-fashion-mnist", "0.0~git20200523.55506a9-1"): (
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
        ),
        ("tuxpaint-stamps-default", "2022.06.04-1"): (
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
        ),
    }
)

_MANIFEST = "tokenry-package.json"  # beside the extracted files: what they are


class PackageUnavailableError(TokenryError):
    """A package cannot be had here: no apt, no network, or no such package. The message says which and what to do."""


@dataclass(frozen=True)
class Provenance:
    """Where a data set comes from.

    Attributes:
        package: Name of the Debian package.
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
        name: Name of the Debian package.
        version: Its version.
        sha256: Checksum of the package file.
        root: Folder that holds the package's files as they would lie under "/".
    """

    name: str
    version: str
    sha256: str
    root: Path

    def provenance(self, *, licence: str, source: str) -> Provenance:
        """Say where the data comes from; licence and source are facts that the data set's loader knows."""
        return Provenance(self.name, self.version, self.sha256, licence, source)


def cache_folder() -> Path:
    """Return the folder for downloads: `TOKENRY_CACHE`, or ~/.cache/tokenry (under `XDG_CACHE_HOME` if that is set)."""
    if chosen := os.environ.get("TOKENRY_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tokenry"


def fetch(name: str, *, cache: Path | None = None) -> Package:
    """Return a package's files, downloading and extracting it the first time.

    Nothing is installed and no root is needed: `apt-get download` fetches the file, `dpkg-deb -x` extracts it. Where
    the system's package lists are missing or too old, lists of our own are fetched into the cache.

    Args:
        name: Name of a Debian package.
        cache: Folder to keep it in; by default `cache_folder()`.

    Raises:
        PackageUnavailableError: If apt is missing, does not know the package or cannot download it.
        TokenryError: If the file is not the one it claims to be, or cannot be extracted or stored.
    """
    home = (cache_folder() if cache is None else cache) / "debian"
    target = home / name
    if (manifest := target / _MANIFEST).is_file():
        return Package(**json.loads(manifest.read_text(encoding="utf-8")), root=target)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PackageUnavailableError(
                f"{name} is a Debian package and {tool} is not here; on a Debian or Ubuntu machine, run "
                f"`apt-get download {name}` and `dpkg-deb -x FILE FOLDER`, and hand FOLDER to the loader as root="
            )
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=home, prefix=f".{name}-") as scratch,
            Console(stderr=True).status(f"fetching Debian package {name}"),
        ):
            return _fetch(name, home, target, Path(scratch))
    except OSError as error:
        raise TokenryError(
            f"cannot keep {name} in {home}: {error}; TOKENRY_CACHE names another folder"
        ) from error


def _fetch(name: str, home: Path, target: Path, scratch: Path) -> Package:
    options = _download(name, home, scratch)
    (file,) = scratch.glob("*.deb")
    version = _run(["dpkg-deb", "--field", str(file), "Version"], scratch).strip()
    sha256 = _sha256(file)
    expected = KNOWN_SHA256.get((name, version)) or _listed_sha256(name, version, scratch, options)
    if sha256 != expected:
        raise TokenryError(
            f"{name} {version} has SHA-256 {sha256}, expected {expected}; the mirror or a proxy altered the file"
        )
    unpacked = scratch / "root"
    _run(["dpkg-deb", "--extract", str(file), str(unpacked)], scratch)
    package = Package(name, version, sha256, target)
    manifest = {key: value for key, value in asdict(package).items() if key != "root"}
    (unpacked / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    try:
        unpacked.rename(target)
    except OSError:
        if not (target / _MANIFEST).is_file():  # another process was first: its copy is as good as ours
            raise
    return package


def _download(name: str, home: Path, scratch: Path) -> list[str]:
    """Download the package file into `scratch` and return the options under which apt knows the package."""
    try:
        _run(["apt-get", "download", name], scratch)
    except _CommandError as error:
        if "Unable to locate package" not in error.stderr and "No packages found" not in error.stderr:
            raise PackageUnavailableError(
                f"apt-get cannot download {name}: {error.reason}; check the network and try again"
            ) from error
    else:
        return []
    # No package lists on this machine, or none with this package: keep lists of our own, which needs no root.
    private = home / ".apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (private / folder).mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={private / 'lists'}", "-o", f"Dir::Cache={private / 'cache'}"]
    try:
        _run(["apt-get", *options, "update"], scratch)
        _run(["apt-get", *options, "download", name], scratch)
    except _CommandError as error:
        raise PackageUnavailableError(
            f"apt-get cannot get {name}: {error.reason}; check the network, and that the machine's package sources "
            "(/etc/apt) have a distribution that carries it"
        ) from error
    return options


def _listed_sha256(name: str, version: str, scratch: Path, options: list[str]) -> str:
    """Return the checksum that apt's own index has for a package version."""
    listing = _run(["apt-cache", *options, "show", f"{name}={version}"], scratch)
    for line in listing.splitlines():
        if line.startswith("SHA256:"):
            return line.partition(":")[2].strip()
    raise TokenryError(f"apt lists no SHA-256 for {name} {version}, so the file cannot be checked")


class _CommandError(TokenryError):
    """A command failed."""

    def __init__(self, command: list[str], stderr: str) -> None:
        self.stderr = stderr
        told = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
        self.reason = told[0] if told else stderr.strip() or "it says nothing about why"
        super().__init__(f"{' '.join(command)} failed: {self.reason}")


def _run(command: list[str], folder: Path) -> str:
    # C locale: the messages are read.
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise _CommandError(command, done.stderr)
    return done.stdout


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
