"""Which releases of transformers tokenry is proven with, and what to say of one in which something is not found."""

from __future__ import annotations

import functools
import warnings
from typing import Final

import transformers
from packaging.version import Version

from tokenry.tokens import UnsupportedError

PROVEN: Final = ("5.20.0", "5.24.0")
"""The oldest and the newest release that the tests of hosts, decoding and the main job ran with (`make upstream`)."""


def unknown_release(what: str) -> str:
    """What to tell of something in the installed release that is not known here, as in "gives Llama no `forward`"."""
    return (
        f"transformers {transformers.__version__} {what}; tokenry is proven with {PROVEN[0]} to {PROVEN[1]}. Install "
        "one of these, or a newer tokenry."
    )


def release() -> str:
    """The release of transformers that is installed."""
    return str(transformers.__version__)


def require_release() -> None:
    """Refuse releases that are too old, and say once that one is newer than the newest that was proven.

    Raises:
        UnsupportedError: a release before the oldest proven one.
    """
    _require(release())


@functools.cache
def _require(version: str) -> None:
    if Version(version) < Version(PROVEN[0]):
        raise UnsupportedError(unknown_release("is too old"))
    if Version(version).release[:2] > Version(PROVEN[1]).release[:2]:
        warnings.warn(
            f"transformers {version} is newer than {PROVEN[1]}, the newest release that tokenry was proven with. "
            "`tokenry reduce check MODEL` tells whether your model still runs exactly.",
            stacklevel=4,
        )
