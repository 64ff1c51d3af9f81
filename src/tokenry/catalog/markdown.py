"""Markdown that pages are generated in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are Markdown (see `escape`)."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Make text literal in a cell of a table."""
    for sign, literal in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "\\|"),
        ("[", "\\["),
        ("]", "\\]"),
        ("*", "\\*"),
        ("_", "\\_"),
    ):
        text = text.replace(sign, literal)
    return text.replace("\n", " ")


def block(language: str, text: str) -> str:
    """A block of code, as it stands."""
    return f"```{language}\n{text.rstrip()}\n```"
