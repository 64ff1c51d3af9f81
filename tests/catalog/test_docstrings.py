"""Docstrings of entry points: prose as Markdown, and their sections."""

from __future__ import annotations

from tokenry.catalog.docstrings import Section, docstring, split

TEXT = """Keeps tokens.

See :func:`load`: ``p <- 1`` is code, a <b> is text::

    with it:
        run()

Attributes:
    budget: how many, in
        two lines.
    layer: where.

Returns:
    A `Session`: one of
    several lines.
"""


def test_prose_is_markdown_and_entries_keep_their_lines() -> None:
    prose, (attributes, returns) = split(TEXT)
    assert prose == (
        "Keeps tokens.\n\nSee `load`: ``p <- 1`` is code, a \\<b> is text:\n\n    with it:\n        run()"
    )
    assert attributes == Section("Attributes", (("budget", "how many, in\ntwo lines."), ("layer", "where.")))
    assert returns == Section("Returns", (("", "A `Session`: one of\nseveral lines."),))


def test_one_entry_of_several_lines_is_one_entry() -> None:
    _, (section,) = split("One.\n\nArgs:\n    lm: a model;\n        any.\n")
    assert section.entries == (("lm", "a model;\nany."),)


def test_a_name_of_a_packages_face_is_followed_to_where_it_is_defined() -> None:
    assert docstring("tokenry.catalog:Card") == docstring("tokenry.catalog.card:Card")
