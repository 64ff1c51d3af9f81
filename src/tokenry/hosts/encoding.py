"""Texts encoded as they are by tokenizers of other people's, which drop bytes and read control tokens out of texts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from tokenry.hosts.plain_text import PlainText
from tokenry.tokens.errors import InputError


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's convention).

    Printable Latin-1 characters stand for themselves; the other bytes take the code points from 256 on, in order.
    """
    spare = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


def start_id(tokenizer: Any) -> int | None:
    """Return the token that a text's first token is predicted from: bos, or else eos, or None."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return None


def encode_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as they are: no special token added, and none read out of the text.

    Raises:
        InputError: If the tokenizer has no token for something and would only say that it is unknown, or would leave it
            out without a word. White space and accents that its normalisation takes off knowingly are no such thing.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
    _refuse_dropped(tokenizer, texts, encoded)
    found: list[list[int]] = encoded["input_ids"]
    # Vocabularies of WordPiece and Unigram models hold special tokens as ordinary pieces too.
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for i, ids in enumerate(found):
        if not special.isdisjoint(ids):
            found[i] = PlainText(tokenizer).ids(texts[i], add_special_tokens=False)
    _refuse_unknown(tokenizer, texts, found)
    return found


def missing_bytes(backend: Tokenizer) -> re.Pattern[bytes] | None:
    """Bytes that a byte-level vocabulary lacks, as a pattern; None if it lacks none or is of another kind.

    `tokenizers` drops these from a text without a word.
    """
    if "ByteLevel" not in component_types(
        pre_tokenizer=component_spec(backend.pre_tokenizer), decoder=component_spec(backend.decoder)
    ):
        return None
    lacking = bytes(byte for byte, char in enumerate(byte_alphabet()) if backend.token_to_id(char) is None)
    return re.compile(b"[" + re.escape(lacking) + b"]") if lacking else None


def component_spec(component: Any) -> Mapping[str, Any] | None:
    """The specification of one component, without that of the whole tokenizer and its vocabulary."""
    return None if component is None else json.loads(component.__getstate__())


def component_types(**components: Mapping[str, Any] | None) -> set[str]:
    return {part["type"] for component in components.values() for part in component_parts(component)}


def component_parts(component: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder, with sequences unfolded."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for key in ("normalizers", "pretokenizers", "decoders"):
            for part in component.get(key, ()):
                yield from component_parts(part)
    else:
        yield dict(component)


def _refuse_unknown(tokenizer: Any, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    for text, ids in zip(texts, encoded, strict=True):
        if unknown in ids:
            raise InputError(
                f"The tokenizer has no token for something in {text[:60]!r} and says only {tokenizer.unk_token!r}: "
                "what it leaves out cannot be measured."
            )


def _refuse_dropped(tokenizer: Any, texts: Sequence[str], encoded: Any) -> None:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None or encoded.encodings is None:
        return  # tokenizers in Python say "unknown" instead
    missing = missing_bytes(core)
    for text, encoding in zip(texts, encoded.encodings, strict=True):
        char = None
        if missing is not None and (found := missing.search(text.encode("utf-8", "surrogatepass"))):
            char = next(c for c in text if found[0] in c.encode("utf-8", "surrogatepass"))
        else:
            char = _left_out(core.normalizer, text, encoding.offsets)
        if char is not None:
            raise InputError(
                f"The tokenizer leaves {char!r} (U+{ord(char):04X}) out of {text[:60]!r} without a word, and what it "
                "leaves out cannot be measured: remove it first, or use a tokenizer that has a token for it."
            )


def _left_out(normalizer: Any, text: str, offsets: Sequence[tuple[int, int]]) -> str | None:
    """A character in no token's span that normalisation leaves as it is, or takes out as if there were none."""
    seen = bytearray(len(text))
    for start, end in offsets:
        seen[start:end] = b"\1" * (end - start)
    left_out = {
        char
        for char, covered in zip(text, seen, strict=True)
        if not covered and not char.isspace() and not unicodedata.category(char).startswith("M")
    }
    if normalizer is not None and left_out:
        # A character that is not in it was composed with its neighbour.
        normal = normalizer.normalize_str(text)
        left_out = {char for char in left_out if char in normal or not normalizer.normalize_str(char)}
    return min(left_out, default=None)
