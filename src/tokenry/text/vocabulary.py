"""A tokenizer's vocabulary as bytes: the one form in which tokens of different tokenizers can be compared.

Three surface conventions are undone here and nowhere else: the byte-level alphabet of GPT-2 ("Ġ" is a space),
SentencePiece's "▁" and "<0xAB>" pieces, and WordPiece's "##" (a piece without it starts a word).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.hosts.encoding import (
    byte_alphabet,
    component_parts,
    component_types,
    missing_bytes,
)
from tokenry.models.pretrained import find
from tokenry.tokens.errors import InputError, UnsupportedError

Kind = Literal["byte-level", "sentencepiece", "wordpiece"]
Front = Literal["never", "missing", "always"]

_METASPACE = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED = re.compile(r"[\udc80-\udcff]")  # how Python writes bytes that are not UTF-8 ("surrogateescape")


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
    no space is put in front (see `as_seen`), and Unicode normalisation is left off (except for WordPiece, whose pieces
    are lower-cased or stripped of accents to begin with). `encode` is what the tokenizer itself gives for text that
    normalisation leaves as it is and that begins with the space it wants.

    For the byte-level and SentencePiece kinds, decoding what was encoded gives the same bytes; for WordPiece, the same
    text but for case, accents and white space. That is compared each time: what the tokenizer would drop or change
    beyond that is refused.

    Make one with `ByteVocab.from_tokenizer`.

    Attributes:
        tokenizer: the transformers tokenizer it describes.
        kind: "byte-level", "sentencepiece" or "wordpiece".
        token_bytes: bytes of each id; None for special tokens and ids that nothing uses.
        special_ids: ids of special tokens.
        front: when the tokenizer itself puts a space before a text: never, where there is none, or always.
        normalizer: kind of the normalisation that is left off, if the tokenizer has one.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    token_bytes: tuple[bytes | None, ...]
    special_ids: frozenset[int]
    front: Front
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
        tokenizer = as_tokenizer(tokenizer)
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
        front, left_off = _strip(spec, kind)
        plain = Tokenizer.from_str(json.dumps(spec))
        plain.encode_special_tokens = True  # "<s>" in a text is four characters, not a control token
        return cls(tokenizer, kind, tuple(token_bytes), frozenset(special), front, left_off, plain)

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

    def as_seen(self, data: bytes) -> bytes:
        """A text with the space that the tokenizer itself puts in front of it, if it does.

        An empty text counts as one that has yet to begin, and gets the space as well.

        Raises:
            InputError: a character that the tokenizer reads as a space.
            UnsupportedError: a tokenizer that puts spaces elsewhere too.
        """
        if self.kind == "sentencepiece" and (sign := _METASPACE.encode()) in data:
            raise InputError(_another(data, data.replace(sign, b" ")))
        if self.front == "never" or (self.front == "missing" and data.startswith(b" ")):
            return data
        if not self._only_in_front:
            raise UnsupportedError(
                "This tokenizer puts spaces inside a text too (its add_prefix_space acts on every piece that was split "
                "off before), so the text that it sees is not known; set add_prefix_space to false."
            )
        return b" " + data

    def writable(self, data: bytes) -> bytes:
        """What the vocabulary can write of a text: WordPiece without the characters that its normalisation drops."""
        if self.kind != "wordpiece" or self._backend.normalizer is None:
            return data
        return self._normal(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def encode(self, data: bytes) -> list[int]:
        """Token ids of a byte string; any bytes, also such as are not UTF-8.

        Raises:
            InputError: the tokenizer has no token for a character or byte and no byte fallback either, or what it gives
                is another text.
        """
        self._refuse_missing(data)
        ids: list[int] = []
        for start, text in self._runs(data):
            if text is None:
                ids.append(self._byte_id(data[start], start))
                continue
            with _knowing(text):
                found = self._backend.encode(text, add_special_tokens=False).ids
            self._refuse_unknown(found, text)
            ids.extend(found)
        self._refuse_another(data, ids)
        return ids

    def encode_pretoken(self, data: bytes) -> list[int]:
        """Token ids of a byte string taken as one pre-token: the model's merges alone, no splitting.

        Raises:
            InputError: bytes that are not UTF-8 in a vocabulary that is not byte-level; an unknown character, or one
                that comes back as another.
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
        with _knowing(surface):
            ids = [token.id for token in self._model.tokenize(surface)]
        self._refuse_unknown(ids, surface)
        if (written := self.decode(ids)) != data:
            raise InputError(_another(data, written))
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
            if text.isascii():
                offsets: Sequence[int] = range(start, start + len(text) + 1)
            else:
                offsets = list(accumulate((len(char.encode()) for char in text), initial=start))
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
            try:
                known = 0 <= token < self.size
            except TypeError:
                raise InputError(f"Token ids are whole numbers, got {token!r}.") from None
            if not known:
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
            raise InputError(_unwritable(text))

    def _refuse_another(self, data: bytes, ids: list[int]) -> None:
        """Refuse a text that its own tokens do not give back, whatever the reason."""
        if self.kind == "wordpiece":
            self._refuse_dropped(data.decode("utf-8", "surrogateescape"))
            data = b"".join(self.writable(data).split())
            written = b"".join(self.decode(ids).split())
        else:
            written = self.decode(ids)
        if written != data:
            raise InputError(_another(data, written))

    def _refuse_dropped(self, text: str) -> None:
        for char in sorted({*text} - {" "}):
            # Accents are what normalisation takes off knowingly; control characters, U+FEFF and U+FFFD just vanish.
            if not unicodedata.category(char).startswith("M") and not self._normal(char):
                raise InputError(
                    f"The tokenizer drops U+{ord(char):04X} from a text without a word. Remove it first "
                    "(ByteVocab.writable does)."
                )

    def _normal(self, text: str) -> str:
        normalizer = self._backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    @cached_property
    def _missing(self) -> re.Pattern[bytes] | None:
        return missing_bytes(self._backend)

    def _refuse_missing(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise InputError(
                f"What is encoded are bytes, not {type(data).__name__}; of a text, text.encode()."
            )
        if self._missing is not None and (found := self._missing.search(data)):
            raise InputError(
                f"Byte 0x{found[0][0]:02X} at offset {found.start()}: this vocabulary has no token for it, and the "
                "tokenizer would drop it silently. Remove it from the text, or use a tokenizer with all 256 bytes."
            )

    @cached_property
    def _only_in_front(self) -> bool:
        """Whether a text of several pieces gets one space in all: what splits before a space is added gets more."""
        core, text = self.tokenizer.backend_tokenizer, "a1b, c\nd"
        if core.pre_tokenizer is None or self.kind == "wordpiece":
            return True
        pieces = [piece for piece, _ in core.pre_tokenizer.pre_tokenize_str(text)]
        plain = [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]
        return len("".join(pieces)) - len("".join(plain)) <= 1

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


def as_tokenizer(given: PreTrainedTokenizerBase | str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer as it is, or that of a model by name (`load_tokenizer`).

    Raises:
        InputError: neither, or a folder without a tokenizer.
    """
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if not isinstance(given, str | Path):
        raise InputError(f"Expected a tokenizer or the name of one, got {type(given).__name__}.")
    return load_tokenizer(given)


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model by name.

    Args:
        name: "smollm2" or another packaged model (`tokenry.models.pretrained.PACKAGED`), a folder, or a hub id.
        trust_remote_code: whether Python code that lies there may be run.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    source = find(name, trust_remote_code=trust_remote_code, what="tokenizer")
    loaded: PreTrainedTokenizerBase = source.tokenizer()
    return loaded


def _unwritable(text: str) -> str:
    return (
        f"The tokenizer has no tokens for something in {text[:60]!r} and no bytes to fall back on; its own encoding "
        "would say only that it is unknown."
    )


@contextmanager
def _knowing(text: str) -> Iterator[None]:
    # `tokenizers` raises nothing more special for a unigram model without "unknown".
    try:
        yield
    except Exception as error:
        raise InputError(f"{_unwritable(text)} ({error})") from error


def _another(data: bytes, written: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(data, written, strict=False)) if a != b), len(written))
    near = f"{data[max(0, at - 10) : at + 20]!r}"
    if _METASPACE.encode() in data[max(0, at - 2) : at + 3]:
        return (
            f"The tokenizer reads U+2581 as a space, so the text near {near} (offset {at}) would come back as another. "
            "Replace the character."
        )
    return (
        f"The tokenizer's own tokens do not give the text near {near} (offset {at}) back: they say "
        f"{written[max(0, at - 10) : at + 20]!r}. Its vocabulary cannot write something there, or an added token takes "
        "white space along (lstrip, rstrip). Remove that from the text, or use a tokenizer that keeps it."
    )


# ------------------------------------------------------------------------------------- reading tokenizer.json


def _kind(spec: Mapping[str, Any]) -> Kind:
    types = component_types(pre_tokenizer=spec["pre_tokenizer"], decoder=spec["decoder"])
    model = spec["model"]
    if "ByteLevel" in types:
        return "byte-level"
    if model.get("type") == "WordPiece" or "WordPiece" in types:
        return "wordpiece"
    replaces = any(part.get("content") == _METASPACE for part in component_parts(spec["normalizer"]))
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


def _strip(spec: dict[str, Any], kind: Kind) -> tuple[Front, str | None]:
    """Take out of a specification what `ByteVocab` leaves off; return (space put in front, normaliser left off)."""
    spec["post_processor"] = spec["truncation"] = spec["padding"] = None
    if kind == "wordpiece":
        return "missing", None
    always = missing = False
    kept, left_off = [], []
    for part in component_parts(spec["normalizer"]):
        if part["type"] == "Prepend":
            always = True
        elif part["type"] == "Replace" and part.get("content") == _METASPACE:
            kept.append(part)
        else:
            left_off.append(part["type"])
    spec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    splitters = list(component_parts(spec["pre_tokenizer"]))
    for part in splitters:
        if part["type"] == "ByteLevel":
            missing |= part["add_prefix_space"]
            part["add_prefix_space"] = False
        elif part["type"] == "Metaspace":
            missing |= part.get("prepend_scheme", "always") != "never"
            part |= {"prepend_scheme": "never"}
    if splitters:
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": splitters}
    return "always" if always else "missing" if missing else "never", "+".join(left_off) or None
