"""A tokenizer's vocabulary as bytes: the one form in which tokens of different tokenizers can be compared.

Three surface conventions are undone here and nowhere else: the byte-level alphabet of GPT-2 ("Ġ" is a space),
SentencePiece's "▁" and "<0xAB>" pieces, and WordPiece's "##" (a piece without it starts a word).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tokenry.tokens.errors import InputError, UnsupportedError

Kind = Literal["byte-level", "sentencepiece", "wordpiece"]

_METASPACE = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED = re.compile(r"[\udc80-\udcff]")  # how Python writes bytes that are not UTF-8 ("surrogateescape")


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's convention).

    Printable Latin-1 characters stand for themselves; the other bytes take the code points from 256 on, in order.
    """
    spare = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


_ALPHABET = byte_alphabet()
_TO_SURFACE = dict(enumerate(_ALPHABET))  # for str.translate of Latin-1
_TO_BYTE = {char: byte for byte, char in enumerate(_ALPHABET)}


def to_surface(data: bytes) -> str:
    """A byte string as byte-level vocabularies write it: one character of `byte_alphabet` for each byte."""
    return data.decode("latin-1").translate(_TO_SURFACE)


def from_surface(piece: str) -> bytes:
    """The bytes of what `to_surface` wrote.

    Raises:
        KeyError: a character that stands for no byte.
    """
    return bytes(map(_TO_BYTE.__getitem__, piece))


@dataclass(frozen=True, eq=False)
class ByteVocab:
    """The byte strings of a tokenizer's tokens, and encoding from and to bytes.

    This is the tokenizer without what depends on the occasion: no special tokens are added or recognised in the text,
    no space is put in front, and Unicode normalisation is left off (except for WordPiece, whose pieces are lower-cased
    or stripped of accents to begin with). For the byte-level and SentencePiece kinds, decoding what was encoded
    therefore gives the same bytes; `encode` is what the tokenizer itself gives for text that normalisation leaves as
    it is.

    Make one with `ByteVocab.from_tokenizer`.

    Attributes:
        tokenizer: the transformers tokenizer it describes.
        kind: "byte-level", "sentencepiece" or "wordpiece".
        token_bytes: bytes of each id; None for special tokens and ids that nothing uses.
        special_ids: ids of special tokens.
        prefix_space: whether the tokenizer itself puts a space before a text.
        normalizer: kind of the normalisation that is left off, if the tokenizer has one.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    token_bytes: tuple[bytes | None, ...]
    special_ids: frozenset[int]
    prefix_space: bool
    normalizer: str | None
    _backend: Tokenizer

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase | str | Path) -> Self:
        """Read a tokenizer's vocabulary.

        Args:
            tokenizer: a fast tokenizer, or the folder of one.

        Raises:
            InputError: the folder holds no tokenizer.
            UnsupportedError: a tokenizer without a `tokenizers` backend, or of a kind whose tokens are no byte strings.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = load_tokenizer(tokenizer)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedError(
                f"{type(tokenizer).__name__} runs in Python without a `tokenizers` backend, so its tokens cannot be "
                "read as bytes; convert it to a fast tokenizer (tokenizer.json) first."
            )
        spec = json.loads(backend.to_str())
        kind = _kind(spec)
        added = {entry["id"]: entry for entry in spec["added_tokens"] or ()}
        special = {i for i, entry in added.items() if entry["special"]} | set(tokenizer.all_special_ids)
        token_bytes: list[bytes | None] = [None] * (max(tokenizer.get_vocab().values(), default=-1) + 1)
        for piece, token in tokenizer.get_vocab().items():
            if token not in special:
                raw = added.get(token)
                token_bytes[token] = raw["content"].encode() if raw else _bytes_of(piece, kind)
        prefix_space, left_off = _strip(spec, kind)
        plain = Tokenizer.from_str(json.dumps(spec))
        plain.encode_special_tokens = True  # "<s>" in a text is four characters, not a control token
        return cls(tokenizer, kind, tuple(token_bytes), frozenset(special), prefix_space, left_off, plain)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.token_bytes)

    @cached_property
    def least_rows(self) -> int:
        """Embedding rows that a model with this tokenizer has at least: one for every ordinary token.

        Special tokens may lie beyond: a text model that shares its tokenizer with siblings that see (Gemma 3) has no
        row for a picture's placeholder.
        """
        return max((i for i, data in enumerate(self.token_bytes) if data is not None), default=-1) + 1

    @cached_property
    def longest(self) -> int:
        """Length of the longest token in bytes."""
        return max((len(token) for token in self.token_bytes if token is not None), default=0)

    @cached_property
    def ids(self) -> Mapping[bytes, int]:
        """The id of each byte string.

        Where several tokens have the same bytes, the one that encoding uses: SentencePiece's byte pieces come last.
        """
        found: dict[bytes, int] = {}
        spare: dict[bytes, int] = {}
        for token, data in enumerate(self.token_bytes):
            if data is not None:
                (spare if self._is_byte_piece(token) else found).setdefault(data, token)
        return MappingProxyType({**spare, **found})

    @cached_property
    def byte_ids(self) -> tuple[int | None, ...]:
        """The id of the single-byte token for each byte, as encoding uses it for bytes that are no text."""
        if self.kind == "sentencepiece":
            vocabulary = self.tokenizer.get_vocab()
            return tuple(vocabulary.get(f"<0x{byte:02X}>") for byte in range(256))
        return tuple(self.ids.get(bytes([byte])) for byte in range(256))

    def encode(self, data: bytes) -> list[int]:
        """Token ids of a byte string; any bytes, also such as are not UTF-8.

        Raises:
            InputError: the tokenizer has no token for a character or byte and no byte fallback either.
        """
        self._refuse_missing(data)
        ids: list[int] = []
        for start, text in self._runs(data):
            if text is None:
                ids.append(self._byte_id(data[start], start))
                continue
            encoding = self._backend.encode(text, add_special_tokens=False)
            self._refuse_unknown(encoding.ids, text)
            ids.extend(encoding.ids)
        return ids

    def encode_pretoken(self, data: bytes) -> list[int]:
        """Token ids of a byte string taken as one pre-token: the model's merges alone, no splitting.

        Raises:
            InputError: bytes that are not UTF-8 in a vocabulary that is not byte-level; an unknown character.
        """
        if not data:
            return []
        self._refuse_missing(data)
        if self.kind == "byte-level":
            surface = to_surface(data)
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{data!r} is not UTF-8, and this {self.kind} vocabulary splits text: {error}"
                ) from None
            surface = text.replace(" ", _METASPACE) if self.kind == "sentencepiece" else text
        ids = [token.id for token in self._model.tokenize(surface)]
        self._refuse_unknown(ids, surface)
        return ids

    def pretoken_spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where the pre-tokenizer splits: (start, end) of each pre-token in bytes, in order.

        Bytes that are not UTF-8 are pre-tokens of their own. WordPiece leaves the white space between spans out.
        """
        splitter = self._backend.pre_tokenizer
        spans: list[tuple[int, int]] = []
        for start, text in self._runs(data):
            if text is None:
                spans.append((start, start + 1))
                continue
            offsets = [start, *accumulate((len(char.encode()) for char in text), initial=start)][1:]
            if splitter is None:
                spans.append((offsets[0], offsets[-1]))
            else:
                spans.extend(
                    (offsets[a], offsets[b]) for _, (a, b) in splitter.pre_tokenize_str(text) if a < b
                )
        return spans

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of token ids; special tokens have none.

        Raises:
            InputError: an id that the vocabulary does not have.
        """
        pieces = []
        for token in ids:
            if not 0 <= token < self.size:
                raise InputError(f"Token id {token} is outside the vocabulary of {self.size}.")
            pieces.append(self.token_bytes[token] or b"")
        data = b"".join(pieces)
        return data.removeprefix(b" ") if self.kind == "wordpiece" else data

    @cached_property
    def _model(self) -> Any:
        return self._backend.model

    @cached_property
    def _unknown(self) -> int | None:
        name = getattr(self._model, "unk_token", None) or self.tokenizer.unk_token
        found = None if name is None else self._backend.token_to_id(str(name))
        # GPT-2 and its kin name a control token as unknown, which a complete byte alphabet never needs.
        return found if self.kind != "byte-level" else None

    def _refuse_unknown(self, ids: list[int], text: str) -> None:
        if self._unknown is not None and self._unknown in ids:
            raise InputError(
                f"The tokenizer has no tokens for something in {text[:60]!r} and no bytes to fall back on; its own "
                "encoding would say only that it is unknown."
            )

    @cached_property
    def _missing(self) -> re.Pattern[bytes] | None:
        """Bytes that a byte-level vocabulary lacks: `tokenizers` drops them from a text without a word."""
        if self.kind != "byte-level" or None not in self.byte_ids:
            return None
        lacking = bytes(byte for byte, token in enumerate(self.byte_ids) if token is None)
        return re.compile(b"[" + re.escape(lacking) + b"]")

    def _refuse_missing(self, data: bytes) -> None:
        if self._missing is not None and (found := self._missing.search(data)):
            raise InputError(
                f"Byte 0x{found[0][0]:02X} at offset {found.start()}: this vocabulary has no token for it, and the "
                "tokenizer would drop it silently. Remove it from the text, or use a tokenizer with all 256 bytes."
            )

    def _byte_id(self, byte: int, at: int) -> int:
        found = self.byte_ids[byte]
        if found is None:
            raise InputError(
                f"Byte 0x{byte:02X} at offset {at} is not UTF-8, and the vocabulary has no token for it alone."
            )
        return found

    def _is_byte_piece(self, token: int) -> bool:
        return self.kind == "sentencepiece" and token in self._byte_pieces

    @cached_property
    def _byte_pieces(self) -> frozenset[int]:
        return frozenset(token for token in self.byte_ids if token is not None)

    @staticmethod
    def _runs(data: bytes) -> Iterator[tuple[int, str | None]]:
        """Stretches of text with where they start in bytes; None for a byte that is not UTF-8."""
        text = data.decode("utf-8", errors="surrogateescape")
        at = position = 0
        for broken in _ESCAPED.finditer(text):
            run = text[position : broken.start()]
            if run:
                yield at, run
            at += len(run.encode())
            yield at, None
            at, position = at + 1, broken.end()
        if text[position:]:
            yield at, text[position:]


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        if not (
            Path(folder) / "tokenizer.json"
        ).is_file():  # what transformers says then is a list of its classes
            raise InputError(
                f"{folder} holds no tokenizer: there is no tokenizer.json. Save the model's tokenizer there "
                "(tokenizer.save_pretrained), or name the folder that has it."
            ) from error
        raise InputError(
            f"{folder} holds no tokenizer that transformers can load: {str(error).splitlines()[0]}"
        ) from error
    return loaded


# ------------------------------------------------------------------------------------- reading tokenizer.json


def _parts(component: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder, with sequences unfolded."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for key in ("normalizers", "pretokenizers", "decoders"):
            for part in component.get(key, ()):
                yield from _parts(part)
    else:
        yield dict(component)


def _kind(spec: Mapping[str, Any]) -> Kind:
    types = {part["type"] for name in ("pre_tokenizer", "decoder") for part in _parts(spec[name])}
    model = spec["model"]
    if "ByteLevel" in types:
        return "byte-level"
    if model.get("type") == "WordPiece" or "WordPiece" in types:
        return "wordpiece"
    replaces = any(part.get("content") == _METASPACE for part in _parts(spec["normalizer"]))
    if "Metaspace" in types or replaces or model.get("byte_fallback"):
        return "sentencepiece"
    raise UnsupportedError(
        f"A {model.get('type')} tokenizer with pre-tokenizer and decoder {', '.join(sorted(types)) or 'none'} follows "
        "none of the known conventions (byte-level, SentencePiece, WordPiece), so its tokens cannot be read as bytes."
    )


def _bytes_of(piece: str, kind: Kind) -> bytes:
    if kind == "byte-level":
        try:
            return from_surface(piece)
        except KeyError:
            return piece.encode()  # added without "special", so it stands in the text as it is
    if kind == "sentencepiece":
        if found := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace(_METASPACE, " ").encode()
    return piece[2:].encode() if piece.startswith("##") else f" {piece}".encode()


def _strip(spec: dict[str, Any], kind: Kind) -> tuple[bool, str | None]:
    """Take out of a specification what `ByteVocab` leaves off; return (adds a space in front, normaliser left off)."""
    spec["post_processor"] = spec["truncation"] = spec["padding"] = None
    if kind == "wordpiece":
        return True, None
    prefix = False
    kept, left_off = [], []
    for part in _parts(spec["normalizer"]):
        if part["type"] == "Prepend":
            prefix = True
        elif part["type"] == "Replace" and part.get("content") == _METASPACE:
            kept.append(part)
        else:
            left_off.append(part["type"])
    spec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    splitters = list(_parts(spec["pre_tokenizer"]))
    for part in splitters:
        if part["type"] == "ByteLevel":
            prefix |= part["add_prefix_space"]
            part["add_prefix_space"] = False
        elif part["type"] == "Metaspace":
            prefix |= part.get("prepend_scheme", "always") != "never"
            part |= {"prepend_scheme": "never"}
    if splitters:
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": splitters}
    return prefix, "+".join(left_off) or None
