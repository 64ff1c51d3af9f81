"""CuBERT's view of source code: lexer tokens, split by their looks, then into sub-words.

*Learning and Evaluating Contextual Embedding of Source Code*, arXiv 2001.00059 (ICML 2020). Three steps, each of
which can be undone:

1. `lex`: Python's own lexer; statements end in ``___NEWLINE___``, blocks in ``___INDENT___`` and ``___DEDENT___``.
2. `parts`: identifiers are cut at underscores and capitals, strings where the kind of character changes,
   everything at 15 characters. A part that is not the last of its token ends in the sentinel ``^``.
3. `CodeTokenizer`: a learned sub-word vocabulary over the parts.
"""

from __future__ import annotations

import enum
import io
import keyword
import re
import tokenize as python
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenry.text.training import as_fast, learn_merges, save_tokenizer
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError

NEWLINE, NL, INDENT, DEDENT = "___NEWLINE___", "___NL___", "___INDENT___", "___DEDENT___"
ERROR, EOS = "___ERROR___", "___EOS___"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_LONGEST = 15  # characters of a part
_SENTINEL = "^"
_SANITIZED = {"\n": "___NLCHAR___", "\r": "___CR___", "^": "___CARET___"}
_UNSANITIZED = {mark: char for char, mark in _SANITIZED.items()}
_MARKS = re.compile("|".join(_UNSANITIZED))
# Leading underscores are a part of their own; others stay with what they follow.
_SNAKE = re.compile(r"^_+|[^_]+_*")
# A run of capitals ends before the one that starts a capitalised word: HTTPServer is HTTP and Server.
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]+(?![a-z])_*|[A-Z]?[^A-Z]+|[A-Z]")
# Signs stand alone; so does a single space, and runs of blanks stay together.
_CLASSES = re.compile(r" +|\t+|[A-Z]+|[a-z]+|[0-9]+|[^\W\d_]+|\n|.", re.DOTALL)
_FSTRING = tuple(getattr(python, f"FSTRING_{end}", -1) for end in ("START", "END"))  # Python 3.12 and later


class Kind(enum.Enum):
    """What the lexer says a token is."""

    KEYWORD = enum.auto()
    IDENTIFIER = enum.auto()
    PUNCTUATION = enum.auto()
    NUMBER = enum.auto()
    STRING = enum.auto()
    COMMENT = enum.auto()
    LAYOUT = enum.auto()  # line ends, indentation, end of file


@dataclass(frozen=True)
class CodeToken:
    """A token of source code.

    Attributes:
        text: as it stands in the source; for layout its mark, ``___INDENT___`` followed by the white space.
        kind: what it is.
        line, column: where it starts, from 1 and from 0, in characters.
    """

    text: str
    kind: Kind
    line: int = 0
    column: int = 0


def lex(code: str, *, comments: bool = False) -> list[CodeToken]:
    """Cut Python source into tokens.

    The line end that the lexer adds to a last line without one is left out. Source that the lexer refuses becomes
    ``___ERROR___``, ``___EOS___``.

    Args:
        code: Python source.
        comments: keep comments; CuBERT drops them.
    """
    try:
        return [*_lex(code.rstrip(), comments), CodeToken(EOS, Kind.LAYOUT)]
    except (python.TokenError, SyntaxError, _LexingError):
        return [CodeToken(ERROR, Kind.LAYOUT), CodeToken(EOS, Kind.LAYOUT)]


class _LexingError(Exception):
    """A character that is no Python."""


def _lex(code: str, comments: bool) -> Iterator[CodeToken]:
    lines = code.splitlines(keepends=True)
    depth, opened = 0, (0, 0)  # of f-strings, which newer lexers take apart and CuBERT does not
    for token in python.generate_tokens(io.StringIO(code).readline):
        line, column = token.start
        if token.type == _FSTRING[0]:
            opened = opened if depth else token.start
            depth += 1
        elif token.type == _FSTRING[1]:
            depth -= 1
            if not depth:
                yield CodeToken(_slice(lines, opened, token.end), Kind.STRING, *opened)
        elif depth or token.type == python.ENDMARKER:
            continue
        elif token.type == python.ERRORTOKEN:
            raise _LexingError(token.string)
        elif token.type == python.NEWLINE:
            if token.string:
                yield CodeToken(NEWLINE, Kind.LAYOUT, line, column)
        elif token.type in (python.NL, python.DEDENT):
            yield CodeToken(NL if token.type == python.NL else DEDENT, Kind.LAYOUT, line, column)
        elif token.type == python.INDENT:
            yield CodeToken(INDENT + token.string, Kind.LAYOUT, line, column)
        elif token.type != python.COMMENT or comments:
            yield CodeToken(token.string, _kind(token), line, column)


def _kind(token: python.TokenInfo) -> Kind:
    if token.type == python.NAME:
        return Kind.KEYWORD if keyword.iskeyword(token.string) else Kind.IDENTIFIER
    kinds = {python.NUMBER: Kind.NUMBER, python.STRING: Kind.STRING, python.COMMENT: Kind.COMMENT}
    return kinds.get(token.type, Kind.PUNCTUATION)


def _slice(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    found = list(lines[start[0] - 1 : end[0]])
    found[-1] = found[-1][: end[1]]
    found[0] = found[0][start[1] :]
    return "".join(found)


def split(token: CodeToken) -> list[str]:
    """Cut a token by its looks; joined, the parts are its text.

    Identifiers are cut at underscores, then at capitals; strings, comments and indentation where upper case, lower
    case, digits and signs meet. Nothing is longer than 15 characters. (The publication lets blanks run to 20, and
    then cuts at 15 as well.)
    """
    if token.kind is Kind.LAYOUT and not token.text.startswith(INDENT):
        return [token.text]
    if token.kind is Kind.LAYOUT:
        blanks = token.text.removeprefix(INDENT)
        return [INDENT, *(piece for run in _CLASSES.findall(blanks) for piece in _cut(run))]
    match token.kind:
        case Kind.IDENTIFIER:
            pieces = [piece for part in _SNAKE.findall(token.text) for piece in _CAMEL.findall(part)]
        case Kind.STRING | Kind.COMMENT:
            pieces = _CLASSES.findall(token.text)
        case _:
            pieces = [token.text]
    return [part for piece in pieces for part in _cut(piece)]


def _cut(piece: str) -> list[str]:
    return [piece[at : at + _LONGEST] for at in range(0, len(piece), _LONGEST)]


def parts(code: str | Sequence[CodeToken], *, comments: bool = False) -> list[str]:
    """Source as the parts that sub-words are learned from.

    Line ends, returns and carets inside a part are written ``___NLCHAR___``, ``___CR___`` and ``___CARET___``; each
    but the last part of a token ends in ``^``.

    Args:
        code: Python source, or what `lex` gave.
        comments: keep comments, if it is source.
    """
    tokens = lex(code, comments=comments) if isinstance(code, str) else code
    return [part for token in tokens for part in token_parts(token)]


def token_parts(token: CodeToken) -> list[str]:
    """The parts of one token, as `parts` writes them."""
    pieces = [re.sub(r"[\n\r^]", lambda found: _SANITIZED[found[0]], piece) for piece in split(token)]
    return [f"{piece}{_SENTINEL}" for piece in pieces[:-1]] + pieces[-1:]


def join(pieces: Iterable[str]) -> list[str]:
    """Undo `parts`: the texts of the tokens.

    Raises:
        InputError: the last part is not the end of a token.
    """
    found: list[str] = []
    open_: list[str] = []
    for piece in pieces:
        more = piece.endswith(_SENTINEL)
        open_.append(_MARKS.sub(lambda mark: _UNSANITIZED[mark[0]], piece.removesuffix(_SENTINEL)))
        if not more:
            found.append("".join(open_))
            open_ = []
    if open_:
        raise InputError(f"The parts end in the middle of a token, after {''.join(open_)!r}.")
    return found


def sentences(tokens: Sequence[CodeToken]) -> list[list[CodeToken]]:
    """Logical lines: each ends with its ``___NEWLINE___``; together they are the tokens."""
    found: list[list[CodeToken]] = [[]]
    for token in tokens:
        found[-1].append(token)
        if token.text == NEWLINE:
            found.append([])
    return [line for line in found if line]


def untokenize(texts: Iterable[str]) -> str:
    """Source with the given tokens: laid out differently, the same program.

    Args:
        texts: token texts, as of `join` or of `lex`.

    Raises:
        InputError: the tokens are those of source that could not be read.
    """
    levels, lines, line = [""], [], list[str]()
    for text in texts:
        if text == ERROR:
            raise InputError("These tokens stand for source that the lexer refused.")
        if text == EOS:
            break
        if text in (NEWLINE, NL):
            lines.append(line)
            line = []
        elif text.startswith(INDENT):
            levels.append(text.removeprefix(INDENT))
        elif text == DEDENT:
            levels.pop()
        else:
            line.append(text if line else levels[-1] + text)
    return "\n".join(" ".join(line) for line in [*lines, line])


# ------------------------------------------------------------------------------------------------ sub-words


@dataclass(frozen=True)
class EncodedCode:
    """Source as sub-word ids.

    Attributes:
        ids: of the sub-words, without special tokens.
        tokens: the lexer's tokens.
        starts: where in `ids` each token begins.
    """

    ids: tuple[int, ...]
    tokens: tuple[CodeToken, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class CodeTokenizer:
    """CuBERT's tokenizer for Python source (arXiv 2001.00059): lexer, splitting by looks, learned sub-words.

    A part ends in a line end, which no part contains, so that sub-words tell where parts end and decoding is exact.
    The vocabulary is a byte-level BPE over parts, where CuBERT has tensor2tensor's sub-words; what is saved is an
    ordinary tokenizer folder whose texts are parts, one a line.

    Make one with `CodeTokenizer.train` or `CodeTokenizer.load`.

    Attributes:
        subwords: the trained sub-word tokenizer.
    """

    subwords: PreTrainedTokenizerFast

    @classmethod
    def train(cls, sources: Iterable[str], size: int = 50_000) -> Self:
        """Learn sub-words from source files; those that the lexer refuses are left out.

        Args:
            sources: Python source files.
            size: of the vocabulary, special tokens included.

        Raises:
            InputError: no source that can be read, or a size below the byte alphabet.
        """
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex("\n"), "merged_with_previous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        core.decoder = decoders.ByteLevel()
        lexed = (parts(source) for source in sources)
        texts = ["".join(f"{part}\n" for part in found) for found in lexed if found[0] != ERROR]
        if not texts:
            raise InputError("None of the sources is Python that the lexer can read.")
        learn_merges(core, texts, size, min_frequency=1, special_tokens=SPECIAL_TOKENS)
        pad, unk, cls_, sep, mask = SPECIAL_TOKENS
        return cls(
            as_fast(core, pad_token=pad, unk_token=unk, cls_token=cls_, sep_token=sep, mask_token=mask)
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read one that was saved.

        Raises:
            InputError: the folder holds no tokenizer, or one that was not made by `train`.
        """
        loaded = load_tokenizer(folder)
        if not isinstance(loaded, PreTrainedTokenizerFast) or loaded.encode(
            "a\nb\n", add_special_tokens=False
        ) == (loaded.encode("a", add_special_tokens=False) + loaded.encode("b", add_special_tokens=False)):
            raise InputError(f"The tokenizer in {folder} does not read parts of source code, one a line.")
        return cls(loaded)

    def save(self, folder: str | Path) -> None:
        """Write it as an ordinary tokenizer folder, whole or not at all."""
        save_tokenizer(self.subwords, Path(folder))

    def __len__(self) -> int:
        return len(self.subwords)

    def encode(self, code: str | Sequence[CodeToken]) -> EncodedCode:
        """Encode Python source, or tokens of it."""
        tokens = tuple(lex(code) if isinstance(code, str) else code)
        lines = ["".join(f"{part}\n" for part in token_parts(token)) for token in tokens]
        encoded = self.subwords.backend_tokenizer.encode_batch_fast(lines, add_special_tokens=False)
        ids: list[int] = []
        starts: list[int] = []
        for piece in encoded:
            starts.append(len(ids))
            ids.extend(piece.ids)
        return EncodedCode(tuple(ids), tokens, tuple(starts))

    def decode(self, ids: Sequence[int]) -> str:
        """Source with the same tokens as what was encoded; special tokens are left out."""
        text = self.subwords.decode(list(ids), skip_special_tokens=True)
        return untokenize(join(text.removesuffix("\n").split("\n")))
