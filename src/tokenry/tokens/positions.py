"""Rules for the position ids of the tokens that stay (a module without torch, for the command line's options)."""

from __future__ import annotations

from enum import StrEnum

from tokenry.tokens.errors import InputError


class Positions(StrEnum):
    """What happens to the position ids of the tokens that stay."""

    KEEP = "keep"
    """They keep the ids that the full sequence gave them; ids have gaps."""
    COMPACT = "compact"
    """They are renumbered 0..len-1, per stage, as if the dropped tokens had never been there."""
    PAPER = "paper"
    """One or the other, as the method's paper has it."""

    @classmethod
    def of(cls, value: Positions | str) -> Positions:
        """Read a rule.

        Raises:
            InputError: there is no such rule.
        """
        try:
            return cls(value)
        except ValueError:
            names = ", ".join(repr(rule.value) for rule in cls)
            raise InputError(f"Positions is one of {names}, got {value!r}.") from None
