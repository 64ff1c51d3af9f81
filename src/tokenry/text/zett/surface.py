"""Surface forms: tokens of any vocabulary as pieces of the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

PAD = -1


class Surfaces:
    """Surface forms under one source vocabulary, remembered between calls.

    A token that is itself a source token is that token: so the source vocabulary maps to itself even where a token's
    bytes would not come out of its own merges. (The published code runs the merges for these too.) Other tokens are
    encoded as one pre-token, without pre-tokenisation and without a space in front, and cut after `pieces` pieces.

    Args:
        source: vocabulary of the language model.
        rows: rows of its embedding: ids from here on stand for single bytes that the vocabulary lacks.
        pieces: longest surface form.
    """

    def __init__(self, source: ByteVocab, rows: int, pieces: int = 7) -> None:
        if rows < source.least_rows:
            raise InputError(
                f"The tokenizer has ordinary tokens up to id {source.least_rows - 1:,}, but the model only {rows:,} "
                "embedding rows: that is not its own tokenizer."
            )
        self.source, self.rows, self.pieces = source, rows, pieces
        self._trie = ByteTrie.build(source.token_bytes)
        self._known: dict[bytes, tuple[int, ...]] = {}

    def of(self, token: bytes) -> tuple[int, ...]:
        """Source ids of one token, at most `pieces`."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._decompose(token)[: self.pieces]
        return found

    def matrix(self, tokens: Sequence[bytes]) -> Int[Tensor, "v p"]:
        """Surface forms of several tokens, padded with -1 to the longest.

        Raises:
            InputError: an empty token.
        """
        rows = [self.of(token) for token in tokens]
        width = max(map(len, rows), default=1)
        return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows]).reshape(len(rows), width)

    def _decompose(self, token: bytes) -> tuple[int, ...]:
        if not token:
            raise InputError("An empty token has no surface form.")
        if token in self.source.ids:
            return (self.source.ids[token],)
        # WordPiece is longest-match by definition, and its model would take a continuation for a word.
        if self.source.kind != "wordpiece":
            try:
                return tuple(self.source.encode_pretoken(token))
            except InputError:
                pass  # bytes that the vocabulary lacks, or half a character: piece by piece
        ids: list[int] = []
        at = 0
        while at < len(token):
            found, length = self._trie.longest_prefix(token, at)
            ids.append(found if length else self.rows + token[at])
            at += max(1, length)
        return tuple(ids)
