"""Data sets from Debian packages: fetched without root, checked, extracted into a cache, never installed."""

from __future__ import annotations

import shutil
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
    target = (cache_folder() if cache is None else cache) / "debian" / name
    if (package := kept(target)) is not None:
        return package
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PackageUnavailableError(
                f"{name} is a Debian package and {tool} is not here; on a Debian or Ubuntu machine, run "
                f"`apt-get download {name}` and `dpkg-deb -x FILE FOLDER`, and hand FOLDER to the loader as root=."
            )
    with scratch_beside(target, f"fetching Debian package {name}") as scratch:
        return _fetch(name, target, scratch)


def _fetch(name: str, target: Path, scratch: Path) -> Package:
    options = _download(name, target.parent, scratch)
    (file,) = scratch.glob("*.deb")
    version = run(["dpkg-deb", "--field", str(file), "Version"], scratch).strip()
    sha256 = sha256_of(file)
    expected = KNOWN_SHA256.get((name, version)) or _listed_sha256(name, version, scratch, options)
    if sha256 != expected:
        raise TokenryError(
            f"{name} {version} has SHA-256 {sha256}, expected {expected}; the mirror or a proxy altered the file."
        )
    unpacked = scratch / "root"
    run(["dpkg-deb", "--extract", str(file), str(unpacked)], scratch)
    return keep(unpacked, Package(name, version, sha256, target))


def _download(name: str, home: Path, scratch: Path) -> list[str]:
    """Download the package file into `scratch` and return the options under which apt knows the package."""
    try:
        run(["apt-get", "download", name], scratch)
    except CommandError as error:
        if "Unable to locate package" not in error.stderr and "No packages found" not in error.stderr:
            raise PackageUnavailableError(
                f"`apt-get` cannot download {name}: {error.reason}; check the network and try again."
            ) from error
    else:
        return []
    # No package lists on this machine, or none with this package: keep lists of our own, which needs no root.
    private = home / ".apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (private / folder).mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={private / 'lists'}", "-o", f"Dir::Cache={private / 'cache'}"]
    try:
        run(["apt-get", *options, "update"], scratch)
        run(["apt-get", *options, "download", name], scratch)
    except CommandError as error:
        raise PackageUnavailableError(
            f"`apt-get` cannot get {name}: {error.reason}; check the network, and that the machine's package sources "
            "(/etc/apt) have a distribution that carries it."
        ) from error
    return options


def _listed_sha256(name: str, version: str, scratch: Path, options: list[str]) -> str:
    """Return the checksum that apt's own index has for a package version."""
    listing = run(["apt-cache", *options, "show", f"{name}={version}"], scratch)
    for line in listing.splitlines():
        if line.startswith("SHA256:"):
            return line.partition(":")[2].strip()
    raise TokenryError(f"`apt` lists no SHA-256 for {name} {version}, so the file cannot be checked.")
