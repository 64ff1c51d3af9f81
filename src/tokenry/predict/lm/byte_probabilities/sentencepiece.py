"""Which tokens may follow which in what SentencePiece-style BPE with byte fallback gives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from tokenry.predict.lm.byte_probabilities.pairs import PairValidity
from tokenry.predict.lm.byte_probabilities.shapes import completions, uncovered
from tokenry.predict.lm.byte_probabilities.validity import Validity, ValidityContext
from tokenry.text.vocabulary import ByteVocab


class SentencePieceValidity(Validity):
    """Rules of SentencePiece-style BPE with byte fallback: no pre-tokens, or one for each space.

    Byte pieces stand only for characters that the vocabulary lacks: those above 0x7F begin a character or continue the
    one that has begun, and never lead to none but such as have a piece of their own.

    Args:
        vocab: the vocabulary.
        pairs: its pairs.
    """

    def __init__(self, vocab: ByteVocab, pairs: PairValidity) -> None:
        self.vocab = vocab
        self.pairs = pairs
        self._pieces = np.zeros(vocab.size, bool)
        self._pieces[[token for token in vocab.byte_ids if token is not None]] = True
        self._byte_masks: dict[bytes, Bool[np.ndarray, " v"]] = {}
        # Characters that byte pieces never spell: those with a piece, and the sign that is read as a space.
        self._whole = frozenset(vocab.ids) | {"\u2581".encode()}
        self._splits = len(vocab.pretoken_spans(b"a a")) > 1
        data = [d or b"" for d in vocab.token_bytes]
        self._bytes = data
        self._spaced = np.array([d.startswith(b" ") for d in data], bool)
        self._crosses = any(b" " in d.lstrip(b" ") for d in data)
        self._inner = np.array([self._splits and b" " in d[1:] for d in data], bool)

    def extend(self, context: ValidityContext, token: int) -> ValidityContext:
        """The context after one more token."""
        text = b""
        if self._pieces[token]:
            text = context.text + self._bytes[token]
            if not completions(text):
                text = b""
        return ValidityContext(text=text, last=token, final=not text)

    def mask(self, context: ValidityContext) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""
        if context.text:
            return self._byte_mask(context.text)
        row = self.pairs.row(context.last) if context.last >= 0 else self.pairs.reachable
        if self._splits:
            row = (row | self._spaced) & self.pairs.reachable & ~self._inner
        return np.where(self._pieces, self._byte_mask(b""), row)

    def _byte_mask(self, partial: bytes) -> Bool[np.ndarray, " v"]:
        if partial not in self._byte_masks:
            mask = np.zeros(self.vocab.size, bool)
            for byte, token in enumerate(self.vocab.byte_ids):
                if token is not None:
                    mask[token] = self._spells(partial + bytes([byte]), token)
            self._byte_masks[partial] = mask
        return self._byte_masks[partial]

    def _spells(self, data: bytes, token: int) -> bool:
        """Whether some bytes, of which a byte piece is the last, are a character without a piece or begin one."""
        if completions(data):
            return uncovered(data, self._whole)
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return data not in self._whole or self.vocab.ids.get(data) == token

    def boundary(self, data: bytes) -> int:
        """The last space after something else, if no token reaches across such a place."""
        if self._crosses:
            return 0
        for at in range(len(data) - 1, 0, -1):
            if data[at] == 0x20 and data[at - 1] != 0x20:
                return at
        return 0
