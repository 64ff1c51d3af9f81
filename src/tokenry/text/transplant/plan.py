"""What two vocabularies have in common: the rows that a transplanted model keeps, and those that must be made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from jaxtyping import Int

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Parts that special tokens play, as transformers names them (``tokenizer.bos_token`` ...)."""

_STAND_INS: Final = MappingProxyType(
    {
        "bos": ("cls", "eos"),
        "cls": ("bos", "eos"),
        "eos": ("sep", "bos"),
        "sep": ("eos", "bos"),
        "pad": ("eos", "bos", "sep"),
        "unk": (),
        "mask": (),
    }
)
"""Whose row a special token takes where the source has none of its role; a mask or unknown token has no stand-in."""


@dataclass(frozen=True, eq=False)
class TransplantPlan:
    """How the ids of a target vocabulary relate to those of a source vocabulary.

    Every target id is exactly one of: shared (the source has a token of the same bytes), special (it takes the row of
    a source special token), unique (a token that the source does not have), or idle (a special token without
    counterpart, or an id that no token uses). Tokens are compared by their bytes, so " the" of a byte-level vocabulary,
    "▁the" of SentencePiece and "the" of WordPiece are the same token.

    Make one with `TransplantPlan.between`.

    Attributes:
        source, target: the vocabularies.
        shared: (source id, target id) of tokens with equal bytes, ascending by target id; no id occurs twice.
        special: (source id, target id) of special tokens, ascending by target id; one source token may serve several.
        unique: ids of target tokens that the source does not have, ascending.
        idle: the other target ids, ascending.
    """

    source: ByteVocab
    target: ByteVocab
    shared: Int[np.ndarray, "shared 2"]
    special: Int[np.ndarray, "special 2"]
    unique: Int[np.ndarray, " unique"]
    idle: Int[np.ndarray, " idle"]

    @classmethod
    def between(cls, source: ByteVocab, target: ByteVocab, rows: int | None = None) -> Self:
        """Compare two vocabularies.

        Args:
            source, target: the vocabularies.
            rows: rows of the source model's embedding; special tokens beyond have none to give. None: all have one.
        """
        shared = _equal_bytes(source, target)
        special = _special_pairs(source, target, source.size if rows is None else rows)
        taken = {b for _, b in shared} | {b for _, b in special}
        rest = [t for t in range(target.size) if t not in taken]
        unique = [t for t in rest if target.token_bytes[t] is not None]
        idle = [t for t in rest if target.token_bytes[t] is None]
        return cls(
            source, target, _pairs(shared), _pairs(special), np.array(unique, int), np.array(idle, int)
        )

    @cached_property
    def copied(self) -> Int[np.ndarray, "copied 2"]:
        """(source id, target id) of all rows that are taken over unchanged: shared and special tokens."""
        return np.concatenate([self.shared, self.special])

    @cached_property
    def least_rows(self) -> int:
        """Rows that the source model's embedding must have."""
        return max(self.source.least_rows, 1 + int(self.copied[:, 0].max(initial=-1)))

    @cached_property
    def is_identity(self) -> bool:
        """Whether every target id keeps its source row at its own place: the same vocabulary."""
        return (
            self.source.size == self.target.size
            and not len(self.unique)
            and all(
                self.target.token_bytes[t] is None and self.source.token_bytes[t] is None for t in self.idle
            )
            and bool((self.copied[:, 0] == self.copied[:, 1]).all())
        )

    @cached_property
    def pieces(self) -> tuple[tuple[int, ...], ...]:
        """The source ids that each unique token falls into; none where the source cannot encode its bytes."""
        return tuple(self._encoded(self.target.token_bytes[token] or b"") for token in self.unique.tolist())

    def _encoded(self, data: bytes) -> tuple[int, ...]:
        try:
            return tuple(self.source.encode(data))
        except InputError:
            return ()

    def describe(self) -> dict[str, int]:
        """How many ids there are of each sort."""
        return {
            "source tokens": self.source.size,
            "target tokens": self.target.size,
            "shared": len(self.shared),
            "special": len(self.special),
            "new": len(self.unique),
            "idle": len(self.idle),
        }


def role_ids(vocabulary: ByteVocab) -> dict[str, int]:
    """The id of each role's special token, for the roles that a tokenizer fills."""
    ids = {role: getattr(vocabulary.tokenizer, f"{role}_token_id", None) for role in ROLES}
    return {role: token for role, token in ids.items() if token is not None}


def special_names(vocabulary: ByteVocab) -> dict[str, int]:
    """The id of each special token by its text."""
    return {
        str(vocabulary.tokenizer.convert_ids_to_tokens(token)): token
        for token in sorted(vocabulary.special_ids)
    }


def _equal_bytes(source: ByteVocab, target: ByteVocab) -> list[tuple[int, int]]:
    """Pairs of ids with equal bytes; the first token of some bytes goes with the first, the second with the second."""
    ours, theirs = _by_bytes(source), _by_bytes(target)
    pairs = [
        (a, b)
        for data, targets in theirs.items()
        if data in ours
        for a, b in zip(ours[data], targets, strict=False)
    ]
    return sorted(pairs, key=lambda pair: pair[1])


def _by_bytes(vocabulary: ByteVocab) -> dict[bytes, list[int]]:
    """The ids of each byte string, that which encoding uses first (SentencePiece has some bytes twice)."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for token, data in enumerate(vocabulary.token_bytes):
        if data is not None:
            found[data].append(token)
    for data, tokens in found.items():
        if len(tokens) > 1:
            used = vocabulary.ids[data]
            tokens.sort(key=lambda token: (token != used, token))
    return found


def _special_pairs(source: ByteVocab, target: ByteVocab, rows: int) -> list[tuple[int, int]]:
    """Special tokens of the same text; else of the same role; else of a role that can stand in for it."""
    names, roles = (
        {name: token for name, token in found.items() if token < rows}
        for found in (special_names(source), role_ids(source))
    )
    target_roles: dict[int, list[str]] = defaultdict(list)
    for role, token in role_ids(target).items():
        target_roles[token].append(role)
    pairs = []
    for name, token in special_names(target).items():
        wanted = target_roles.get(token, [])
        candidates = [roles.get(role) for role in wanted]
        candidates += [roles.get(stand_in) for role in wanted for stand_in in _STAND_INS[role]]
        found = next((c for c in (names.get(name), *candidates) if c is not None), None)
        if found is not None:
            pairs.append((found, token))
    return sorted(pairs, key=lambda pair: pair[1])


def _pairs(pairs: Sequence[tuple[int, int]]) -> Int[np.ndarray, "n 2"]:
    return np.array(pairs, int).reshape(-1, 2)
