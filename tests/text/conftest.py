"""Text that every Python has: modules of the standard library."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from pathlib import Path

import pytest

MODULES = (argparse, textwrap, inspect)


@pytest.fixture(scope="session")
def texts() -> tuple[str, ...]:
    """About 250 kB of source code and documentation, in a few documents."""
    return tuple(Path(module.__file__).read_text(encoding="utf-8") for module in MODULES)
