"""Words of many lengths as tensors, and networks that look at one word at a time.

A batch of texts is a tensor ``[batch, words, length]`` of unit ids (bytes, as a rule), padded at the end of each word
and with whole words of padding. Two things keep a network that runs inside words from computing what nobody reads:
words of about the same length run together, so that one long word does not cost everyone, and a network whose output
depends on the word alone runs once for words that are equal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError

_BITS = 9  # of a unit id, when several are packed into one number to find equal words
_STEPS = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # bucket widths; beyond them, multiples of the last


def pad_words(
    documents: Sequence[Sequence[bytes]], pad: int, *, offset: int = 0, left: bool = False
) -> Int[Tensor, "batch words length"]:
    """Texts that have been cut into words as one tensor.

    Args:
        documents: the words of each text.
        pad: id of padding.
        offset: added to each byte (1 where id 0 is padding).
        left: put words of padding in front of a short text instead of behind it.

    Raises:
        InputError: if there is no word at all, or an empty one.
    """
    n_words = max(map(len, documents), default=0)
    if not n_words:
        raise InputError("There is no word in these texts: hand in at least one that is not empty.")
    if not all(word for words in documents for word in words):
        raise InputError("A word of zero bytes is not a word: leave it out.")
    longest = max(len(word) for words in documents for word in words)
    out = torch.full((len(documents), n_words, longest), pad, dtype=torch.int64)
    for row, words in zip(out, documents, strict=True):
        if words:
            lengths = torch.tensor([len(word) for word in words])
            flat = torch.frombuffer(bytearray(b"".join(words)), dtype=torch.uint8).long() + offset
            part = row[n_words - len(words) :] if left else row[: len(words)]
            part[torch.arange(longest) < lengths[:, None]] = flat
    return out


def by_length(lengths: Int[Tensor, " n"]) -> Iterator[tuple[Int[Tensor, " some"], int]]:
    """Groups of words of similar length.

    Args:
        lengths: units of each word, all at least 1.

    Yields:
        Which words, and the width that holds all of them.
    """
    if not len(lengths):
        return
    order = lengths.argsort(stable=True)
    ordered = lengths[order]
    longest = int(ordered[-1])
    widths = [*(width for width in _STEPS if width < longest), *range(2 * _STEPS[-1], longest, _STEPS[-1])]
    ends = torch.searchsorted(ordered, torch.tensor(widths, device=lengths.device), right=True).tolist()
    start = 0
    for width, end in zip([*widths, longest], [*ends, len(order)], strict=True):
        if end > start:
            yield order[start:end], width
        start = end


@dataclass(frozen=True)
class RaggedWords:
    """The words of a batch, each once.

    Attributes:
        rows: the distinct words, padded.
        lengths: units of each.
        index: which row each place of the batch has; -1 where there is padding.
    """

    rows: Int[Tensor, "distinct length"]
    lengths: Int[Tensor, " distinct"]
    index: Int[Tensor, "batch words"]

    @classmethod
    def of(cls, words: Int[Tensor, "batch words length"], pad: int, *, merge: bool = True) -> "RaggedWords":
        """Collect the words of a batch.

        Args:
            words: unit ids below 512, padded.
            pad: id of padding; a word of padding only is none.
            merge: whether equal words share a row.
        """
        flat = words.flatten(0, 1)
        lengths = word_lengths(flat, pad)
        (places,) = torch.nonzero(lengths, as_tuple=True)
        flat, lengths = flat[places], lengths[places]
        rows = torch.arange(len(places), device=words.device)
        if merge and len(places):
            rows, first = _distinct(flat)
            flat, lengths = flat[first], lengths[first]
        index = torch.full((words.shape[0] * words.shape[1],), -1, dtype=torch.int64, device=words.device)
        index[places] = rows
        return cls(flat, lengths, index.view(words.shape[:2]))

    @property
    def mask(self) -> Bool[Tensor, "batch words"]:
        """Where there is a word."""
        return self.index >= 0

    def encode(self, network: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "batch words *width"]:
        """Run a network on every distinct word and hand each place of the batch the output for its word.

        Args:
            network: ids ``[n, length]`` and where they are real ``[n, length]`` to vectors ``[n, *width]``.

        Returns:
            Vectors; zeros where there is padding.

        Raises:
            InputError: if the batch has no word.
        """
        if not len(self.rows):
            raise InputError("This batch is padding only: hand in at least one word.")
        places, vectors = [], []
        for some, width in by_length(self.lengths):
            real = torch.arange(width, device=some.device) < self.lengths[some, None]
            vectors.append(network(self.rows[some, :width], real))
            places.append(some)
        gathered = torch.cat([*vectors, torch.zeros_like(vectors[0][:1])])
        position = torch.full((len(self.rows) + 1,), len(self.rows), device=self.rows.device)
        position[torch.cat(places)] = torch.arange(len(self.rows), device=self.rows.device)
        # index -1 is the last position, which is the row of zeros
        return gathered[position[self.index]]


def word_lengths(words: Int[Tensor, "*batch length"], pad: int) -> Int[Tensor, "*batch"]:
    """Units of each word; 0 for a word of padding."""
    return (words != pad).sum(-1)


def _distinct(words: Int[Tensor, "n length"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " distinct"]]:
    """Which distinct word each word is, and one place of each of those."""
    per = 63 // _BITS
    padded = torch.nn.functional.pad(words, (0, -words.shape[1] % per))
    shifts = _BITS * torch.arange(per, device=words.device)
    packed = (padded.unflatten(1, (-1, per)) << shifts).sum(-1)
    unique, rows = torch.unique(packed, dim=0, return_inverse=True)
    first = torch.empty(len(unique), dtype=torch.int64, device=words.device)
    first[rows] = torch.arange(len(words), device=words.device)
    return rows, first
