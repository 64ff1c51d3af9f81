"""Text named on a command line: corpora by name, files and folders of the user's."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from tokenry.data.text.corpora import Corpus, corpus_names, load_corpus, read_corpus
from tokenry.tokens.errors import InputError, UnknownNameError


def gather(sources: Sequence[str], *, limit: int | None = None) -> tuple[Corpus, ...]:
    """Load what is named, one corpus for each.

    Args:
        sources: each a file, a folder, or a name of `corpus_names`; a path that exists comes before a name.
        limit: no more documents of a named corpus than fit into so many bytes.

    Raises:
        UnknownNameError: neither a path nor a name.
        InputError: nothing is named, or a file cannot be used.
    """
    if not sources:
        raise InputError(
            f"No text is named: give files, folders, or names of corpora ({', '.join(corpus_names())})."
        )
    return tuple(_load(source, limit) for source in sources)


def _load(source: str, limit: int | None) -> Corpus:
    if Path(source).exists():
        return read_corpus(source)
    names = corpus_names()
    if source in names:
        return load_corpus(source, limit=limit)
    near = difflib.get_close_matches(source, names, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The corpora are {', '.join(names)}."
    raise UnknownNameError(f"There is no file, folder or corpus {source!r}. {hint}")
