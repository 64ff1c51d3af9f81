"""`tokenry vocab train` and `tokenry vocab compare`: vocabularies from text, and what they are worth on text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenry.catalog.registry import catalogued, default
from tokenry.cli import options
from tokenry.cli.terminal import say, screen


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command("train")(train_vocabulary)
    app.command("compare")(compare)


_Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Bytes of each named corpus to use.", show_default="all")
]


def train_vocabulary(
    corpus: Annotated[
        list[str],
        typer.Argument(help="Files, folders, or names of corpora (bible, debian-docs, manpages/de ...)."),
    ],
    size: Annotated[int, typer.Option(min=1, help="Entries, special tokens included.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tokenizer.")],
    kind: Annotated[
        str, typer.Option(help=f"{', '.join(catalogued('tokenizer'))}, or one of another package.")
    ] = default("tokenizer"),
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="An option of the kind, the value as JSON. Repeatable."
        ),
    ] = None,
    limit: _Limit = None,
) -> None:
    """Train a vocabulary and save it as a folder that AutoTokenizer loads."""
    from tokenry.bench.vocabularies.compare import count_tokens
    from tokenry.data.text.sources import gather
    from tokenry.text.kinds import train
    from tokenry.text.training import save_tokenizer

    settings = options.keyword_settings(setting or [])
    options.check_writable(out.parent)  # before the work; the folder itself appears when it is whole
    texts = [document for one in gather(corpus, limit=limit) for document in one.documents]
    tokenizer = train(kind, texts, size, **{"progress": sys.stderr.isatty(), **settings})
    save_tokenizer(tokenizer, out)
    held = count_tokens(tokenizer, texts)
    say(
        f"{len(tokenizer):,} entries, {held.bytes_per_token:.2f} bytes per token of the text it was trained on"
    )
    say(f'Saved; load it with AutoTokenizer.from_pretrained("{out}")')


def compare(
    vocabularies: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...",
            help="Tokenizer folders, model folders, tokenizer.json files, 'smollm2', 'minilm'.",
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A file, a folder, or the name of a corpus. Repeatable."),
    ] = None,
    limit: _Limit = 1_000_000,
    plot: Annotated[Path | None, typer.Option(help="Write a plot here, .svg or .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare vocabularies on the same text: bytes per token, tokens per word, speed, languages."""
    from tokenry.bench.vocabularies.compare import (
        check_plot,
        compare_vocabularies,
        read_vocabulary,
        save_plot,
        vocabulary_tables,
    )
    from tokenry.data.text.sources import gather

    if plot is not None:
        check_plot(plot)
    paths = list(dict.fromkeys(vocabularies))
    named = dict(zip(_names(paths), map(read_vocabulary, paths), strict=True))
    comparison = compare_vocabularies(named, gather(text or [], limit=limit))
    if as_json:
        say(json.dumps(comparison.to_json(), indent=1))
    else:
        screen().print(vocabulary_tables(comparison))
    if plot is not None:
        save_plot(comparison, plot)
        say(f"Plot: {plot}", err=True)


def _names(paths: list[Path]) -> list[str]:
    """The folders' names where they differ, whole paths where not."""
    short = [(path.resolve().parent if path.is_file() else path.resolve()).name for path in paths]
    return short if len(set(short)) == len(short) else list(map(str, paths))
