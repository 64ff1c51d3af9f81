"""Comparing vocabularies on the same text: how much a token holds, in which language, and how fast text becomes tokens.

Figures are per byte and per word, and over all text of a language. A tokenizer that has no token for a character
(WordPiece, mostly) is measured on what it does have tokens for, and the share that it loses is shown beside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group
from rich.table import Table
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.bench.charts.canvas import Canvas
from tokenry.bench.charts.scales import PALETTE
from tokenry.bench.run import measure
from tokenry.bench.task import Task
from tokenry.data.text.corpora import Corpus
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.files import whole_file

_SPEED_BYTES = (
    200_000  # text that speed is measured on: a tenth of a second, so that several rounds are quick
)
_ROUNDS = 5


@dataclass(frozen=True)
class Count:
    """What one vocabulary makes of one text.

    Attributes:
        bytes, words: of the text, as UTF-8 and between white space.
        tokens: how many it takes.
        unknown: of them, those that only say that something is unknown.
        lost: bytes that these stand for.
    """

    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    lost: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes in a token, of what it has tokens for; None if that is nothing."""
        known = self.tokens - self.unknown
        return (self.bytes - self.lost) / known if known else None

    @property
    def fertility(self) -> float | None:
        """Tokens for a word; None where there is no word."""
        return self.tokens / self.words if self.words else None

    @property
    def lost_share(self) -> float:
        """Share of the bytes that the vocabulary has no token for."""
        return self.lost / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class VocabularyRow:
    """One vocabulary.

    Attributes:
        name: what the user calls it.
        size: entries.
        total: over all text.
        by_language: over the text of each language.
        mb_per_second: bytes of text encoded in a second of one core's time, in millions.
    """

    name: str
    size: int
    total: Count
    by_language: Mapping[str, Count]
    mb_per_second: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens made in a second of one core's time."""
        return 1e6 * self.mb_per_second * self.total.tokens / self.total.bytes

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "size": self.size,
            "bytes_per_token": self.total.bytes_per_token,
            "fertility": self.total.fertility,
            "lost_share": self.total.lost_share,
            "tokens_per_second": self.tokens_per_second,
            "mb_per_second": self.mb_per_second,
            "counts": asdict(self.total),
            "bytes_per_token_by_language": {k: c.bytes_per_token for k, c in self.by_language.items()},
            "lost_share_by_language": {k: c.lost_share for k, c in self.by_language.items()},
        }


@dataclass(frozen=True)
class VocabularyComparison:
    """Several vocabularies on the same text.

    Attributes:
        rows: one for each vocabulary, in the order given.
        corpora: names of the text.
    """

    rows: tuple[VocabularyRow, ...]
    corpora: tuple[str, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the text, where known."""
        return tuple(self.rows[0].by_language)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"text": list(self.corpora), "vocabularies": [row.to_json() for row in self.rows]}


def read_vocabulary(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer by name (`tokenry.text.vocabulary.load_tokenizer`), or from a ``tokenizer.json``.

    Raises:
        InputError: there is nothing at this path, or no tokenizer.
        UnsupportedError: a tokenizer that runs in Python only.
        PackageUnavailableError: the model of this name cannot be had here.
    """
    path = Path(path)
    if path.is_file():
        try:
            core = Tokenizer.from_file(str(path))
        except Exception as error:  # the library has no class for it
            raise InputError(f"{path} is no tokenizer.json: {error}.") from error
        return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)
    loaded = load_tokenizer(path)
    if not loaded.is_fast:
        raise UnsupportedError(f"{path} holds a tokenizer without tokenizer.json, which runs in Python only.")
    return loaded


def compare_vocabularies(
    vocabularies: Mapping[str, PreTrainedTokenizerBase], corpora: Sequence[Corpus]
) -> VocabularyComparison:
    """Measure vocabularies on the same text.

    Args:
        vocabularies: fast tokenizers by name.
        corpora: the text; corpora of one language are taken together.

    Raises:
        InputError: no vocabulary, or no text.
    """
    if not vocabularies or not any(corpus.n_bytes for corpus in corpora):
        raise InputError("A comparison needs at least one vocabulary and some text.")
    counted = measure(TokenCounts(vocabularies, corpora), list(vocabularies), tolerated=())
    speed = measure(EncodingSpeed(vocabularies, corpora), list(vocabularies), tolerated=())
    rows = []
    for name, tokenizer in vocabularies.items():
        total, by_language = Count(), dict[str, Count]()
        for corpus, count, _ in counted.made[name]:
            total += count
            if corpus.language:
                by_language[corpus.language] = by_language.get(corpus.language, Count()) + count
        rows.append(VocabularyRow(name, len(tokenizer), total, by_language, max(speed.scores(name))))
    return VocabularyComparison(tuple(rows), tuple(corpus.name for corpus in corpora))


@dataclass(frozen=True)
class TokenCounts(Task[str, Corpus, Count]):
    """How much a token of each vocabulary holds, on every corpus.

    Attributes:
        vocabularies: tokenizers by name.
        corpora: the text.
    """

    name: ClassVar[str] = "counting"  # type: ignore[misc]
    metric: ClassVar[str] = "bytes per token"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = True  # type: ignore[misc]

    vocabularies: Mapping[str, PreTrainedTokenizerBase]
    corpora: Sequence[Corpus]

    def items(self, limit: int | None = None) -> Sequence[Corpus]:
        """The corpora."""
        return self.corpora[:limit]

    def run(self, subject: str, item: Corpus) -> Count:
        """The tokens of a corpus."""
        return count_tokens(self.vocabularies[subject], item.documents)

    def score(self, output: Count, item: Corpus) -> float | None:
        """Bytes in a token."""
        return output.bytes_per_token


@dataclass(frozen=True)
class EncodingSpeed(Task[str, int, float]):
    """How fast each vocabulary's tokenizer is on a little text of each corpus, in several rounds with empty caches.

    Attributes:
        vocabularies: tokenizers by name.
        corpora: the text.
    """

    name: ClassVar[str] = "encoding"  # type: ignore[misc]
    metric: ClassVar[str] = "MB/s"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = True  # type: ignore[misc]

    vocabularies: Mapping[str, PreTrainedTokenizerBase]
    corpora: Sequence[Corpus]

    @cached_property
    def texts(self) -> list[str]:
        """A little text of each corpus."""
        return [corpus.text(_SPEED_BYTES // len(self.corpora) + 1) for corpus in self.corpora]

    def items(self, limit: int | None = None) -> Sequence[int]:
        """The rounds."""
        return range(_ROUNDS)[:limit]

    def run(self, subject: str, item: int) -> float:
        """Seconds of process time that the text takes."""
        core = _plain(self.vocabularies[subject])  # a new one has no cache
        started = time.process_time()
        for text in self.texts:
            core.encode(text, add_special_tokens=False)
        return time.process_time() - started

    def score(self, output: float, item: int) -> float:
        """Megabytes encoded in a second."""
        return sum(len(text.encode()) for text in self.texts) / max(output, 1e-9) / 1e6


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Count:
    """Encode texts as they are, without special tokens, and count."""
    core = _plain(tokenizer)
    unknown_id = tokenizer.unk_token_id
    found = Count()
    for text in texts:
        encoding = core.encode(text, add_special_tokens=False)
        unknown = [i for i, token in enumerate(encoding.ids) if token == unknown_id]
        lost = sum(len(text[slice(*encoding.offsets[i])].encode()) for i in unknown)
        found += Count(len(text.encode()), len(text.split()), len(encoding.ids), len(unknown), lost)
    return found


def _plain(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's core alone: nothing cut off or filled up, and no special token read out of the text."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = True
    return core


def vocabulary_tables(comparison: VocabularyComparison) -> Group:
    """The comparison for the terminal: one row a vocabulary, and a table of languages where there is more than one."""
    lossy = any(row.total.lost for row in comparison.rows)
    table = _table("vocabulary", "entries", "bytes per token", "tokens per word", "tokens/s", "MB/s")
    if lossy:
        table.add_column("no token for", justify="right")
    for row in comparison.rows:
        cells = [_figure(row.total.bytes_per_token), _figure(row.total.fertility)]
        speed = [f"{row.tokens_per_second:,.0f}", f"{row.mb_per_second:.1f}"]
        lost = [f"{100 * row.total.lost_share:.2f} %"] if lossy else []
        table.add_row(row.name, f"{row.size:,}", *cells, *speed, *lost)
    if len(comparison.languages) < 2:
        return Group(table)
    languages = _table("bytes per token", *comparison.languages)
    for row in comparison.rows:
        languages.add_row(row.name, *(_language(row.by_language[name]) for name in comparison.languages))
    return Group(table, "", languages, *(["\n* has no token for some of the text"] if lossy else []))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _language(count: Count) -> str:
    return _figure(count.bytes_per_token) + ("*" if count.lost else "")


def plot(comparison: VocabularyComparison, *, width: float = 900) -> Canvas:
    """Bytes per token as bars, grouped by language (or one group, where languages are unknown)."""
    groups = comparison.languages or ("all text",)
    bars = {
        group: [row.by_language.get(group, row.total).bytes_per_token or 0.0 for row in comparison.rows]
        for group in groups
    }
    top, bottom, left = 30.0, 300.0, 44.0
    legend = bottom + 44
    canvas = Canvas(width, legend + 22 * len(comparison.rows))
    most = max(max(values) for values in bars.values()) or 1.0
    unit = max(1, round(most / 6))
    for tick in range(0, int(most) + 1, unit):
        y = bottom - (bottom - top) * tick / most
        canvas.line([(left, y), (width - 10, y)], "grid")
        canvas.text((left - 8, y + 4), str(tick), colour="muted", anchor="end")
    slot = (width - 10 - left) / len(groups)
    bar = min(40.0, 0.84 * slot / len(comparison.rows))
    for i, (group, values) in enumerate(bars.items()):
        for j, value in enumerate(values):
            x = left + slot * (i + 0.5) + bar * (j - len(values) / 2)
            y = bottom - (bottom - top) * value / most
            name = comparison.rows[j].name
            corners = [(x, bottom), (x, y), (x + bar * 0.92, y), (x + bar * 0.92, bottom)]
            canvas.area(
                corners, PALETTE[j % len(PALETTE)], series=name, title=f"{name}, {group}: {value:.2f}"
            )
        canvas.text((left + slot * (i + 0.5), bottom + 18), group, anchor="middle")
    canvas.text((4, 16), "bytes per token", size=12.5, bold=True)
    for j, row in enumerate(comparison.rows):
        y = legend + 22 * j
        colour = PALETTE[j % len(PALETTE)]
        canvas.area([(left, y - 10), (left, y), (left + 14, y), (left + 14, y - 10)], colour)
        canvas.text((left + 22, y), f"{row.name} ({row.size:,} entries)")
    return canvas


def check_plot(path: Path) -> None:
    """See that a plot can have this name, before any work is done.

    Raises:
        InputError: another ending than .svg and .png, or no folder to write into.
    """
    if path.suffix not in (".svg", ".png"):
        ending = path.suffix or "a name without an ending"
        raise InputError(f"A plot is written as .svg or .png, not {ending} ({path}).")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: there is no folder {path.parent}.")


def save_plot(comparison: VocabularyComparison, path: Path) -> None:
    """Write the plot, as SVG or PNG by the ending of its name.

    Raises:
        InputError: another ending, or a file that cannot be written.
    """
    check_plot(path)
    canvas = plot(comparison)
    with whole_file(path) as scratch:
        if path.suffix == ".png":
            canvas.png().save(scratch)
        else:
            scratch.write_text(_standalone(canvas), encoding="utf-8")


def _standalone(canvas: Canvas) -> str:
    """The drawing as a file of its own, on white; in a report the page gives the colours."""
    colours = "--ink:#16202c;--muted:#5b6673;--grid:#dfe4ea;--paper:#ffffff;background:#ffffff;font-family:sans-serif"
    svg = str(canvas.svg("Bytes per token of several vocabularies"))
    return svg.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="{colours}" ', 1) + "\n"
