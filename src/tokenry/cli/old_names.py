"""What commands were called in version 0.1: for one release they are found there, and say what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tokenry.cli import terminal


@dataclass(frozen=True)
class Renamed:
    """A command of version 0.1: what it is called now, and those of its options that are called otherwise."""

    now: str
    options: Mapping[str, str] = field(default_factory=dict)

    def words(self, old: str, words: list[str]) -> list[str]:
        """A command line of today for one of version 0.1, told on standard error."""
        found = []
        for word in words:
            option, equals, value = word.partition("=")
            found.append(self.options.get(option, option) + equals + value)
        also = "".join(f", {a} is {b}" for a, b in self.options.items() if words != found)
        terminal.say(
            f"`tokenry {old}` is now `tokenry {self.now}`{also}; the old name goes with the next release.",
            err=True,
        )
        return [*self.now.split(), *found]


RENAMED: Final[Mapping[str, Renamed]] = MappingProxyType(
    {
        **{name: Renamed(f"reduce {name}") for name in ("run", "compare", "tune", "report", "check")},
        **{name: Renamed(f"vocab {name}") for name in ("transplant", "hypernet")},
        "decode-bench": Renamed("decode bench", {"--new-tokens": "--max-new-tokens"}),
    }
)
