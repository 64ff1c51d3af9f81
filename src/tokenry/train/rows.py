"""What encoders are pre-trained on: a WordPiece vocabulary, rows of text, batches that depend on the step only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder
from tokenry.train import masking
from tokenry.train.loop import Batch

CONTINUES = "##"  # what a WordPiece inside a word begins with


@dataclass(frozen=True)
class SpecialIds:
    """The ids an encoder's batches need.

    Attributes:
        pad, cls, sep, mask: ids of the special tokens.
        special: all ids that are never hidden and never stand in for a hidden token.
        ordinary: the other ids; random replacements are drawn from them.
        continues: by id, whether the token continues the word before it.
    """

    pad: int
    cls: int
    sep: int
    mask: int
    special: frozenset[int]
    ordinary: Int[Tensor, "o"]
    continues: Bool[Tensor, "v"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
        """Read them off a tokenizer.

        Raises:
            InputError: if the tokenizer has no [PAD], [CLS], [SEP] or [MASK].
        """
        names = ("pad", "cls", "sep", "mask")
        found = {name: getattr(tokenizer, f"{name}_token_id") for name in names}
        if missing := [name for name, value in found.items() if value is None]:
            raise InputError(
                f"The tokenizer has no {', '.join(missing)} token, which encoders need: "
                "use a BERT-type tokenizer, or train one."
            )
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        continues = torch.tensor([bool(t) and t.startswith(CONTINUES) and len(t) > 2 for t in tokens])
        special = frozenset(tokenizer.all_special_ids)
        ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
        return cls(**found, special=special, ordinary=ordinary, continues=continues)

    def candidates(self, rows: EncodedRows) -> Bool[Tensor, "b n"]:
        """Positions of rows that may be hidden."""
        return masking.candidates(rows.ids, rows.mask, self.special)


@dataclass(frozen=True)
class EncodedRows:
    """Encoded texts of one length, padded.

    Attributes:
        ids: token ids.
        mask: 1 where there is text.
        types: 0 in the first segment, 1 in the second.
        labels: one a row, where rows are to be classified.
    """

    ids: Int[Tensor, "b n"]
    mask: Int[Tensor, "b n"]
    types: Int[Tensor, "b n"]
    labels: Int[Tensor, "b"] | None = None

    def __getitem__(self, index: Int[Tensor, "i"]) -> EncodedRows:
        """Some of the rows, cut to the longest of them."""
        mask = self.mask[index]
        longest = max(1, int(mask.sum(1).max()))
        labels = None if self.labels is None else self.labels[index]
        return EncodedRows(
            self.ids[index][:, :longest], mask[:, :longest], self.types[index][:, :longest], labels
        )

    def __len__(self) -> int:
        return len(self.ids)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of every text, nothing added."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def rows_of(segments: Sequence[Sequence[np.ndarray]], length: int, ids: SpecialIds) -> EncodedRows:
    """Rows ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``; what does not fit is cut from the end of the longer segment.

    Args:
        segments: one or two arrays of ids a row.
        length: of a row, special tokens included.
        ids: of the tokenizer.
    """
    out = np.full((len(segments), length), ids.pad, dtype=np.int64)
    mask, types = np.zeros_like(out), np.zeros_like(out)
    for row, parts in enumerate(segments):
        sizes = _fitting([len(part) for part in parts], length - 1 - len(parts))
        out[row, 0], at = ids.cls, 1
        for kind, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            out[row, at : at + size] = part[:size]
            out[row, at + size] = ids.sep
            types[row, at : at + size + 1] = kind
            at += size + 1
        mask[row, :at] = 1
    return EncodedRows(torch.from_numpy(out), torch.from_numpy(mask), torch.from_numpy(types))


def _fitting(sizes: list[int], room: int) -> list[int]:
    """Sizes of one or two segments after cutting the longer one, then both alike, to the room there is."""
    if sum(sizes) <= room:
        return sizes
    if len(sizes) == 1:
        return [room]
    second = min(sizes[1], max(room // 2, room - sizes[0]))
    return [room - second, second]


def pack(
    documents: Sequence[np.ndarray],
    length: int,
    ids: SpecialIds,
    *,
    seed: int = 0,
    single: float = 0.1,
    shorter: float = 0.05,
) -> EncodedRows:
    """Cut documents into rows of two segments, as ELECTRA's published code does (no next-sentence prediction).

    Args:
        documents: token ids.
        length: of a row, special tokens included.
        ids: of the tokenizer.
        seed: of where rows are cut.
        single: share of rows with one segment.
        shorter: share of rows that aim at a random shorter length.

    Raises:
        InputError: if there is no text, or ``length`` has no room for it.
    """
    if length < 8:
        raise InputError(f"Rows of {length} tokens have no room for text: use at least 8.")
    rng = np.random.default_rng(seed)
    segments: list[list[np.ndarray]] = []
    for document in documents:
        at = 0
        while at < len(document):
            alone = rng.random() < single
            room = length - (2 if alone else 3)
            if rng.random() < shorter:
                room = int(rng.integers(5, room + 1)) if room > 5 else room
            piece = document[at : at + room]
            at += room
            cut = int(rng.integers(1, len(piece))) if not alone and len(piece) > 1 else 0
            segments.append([piece[:cut], piece[cut:]] if cut else [piece])
    if not segments:
        raise InputError("There is no text to train on: every document is empty.")
    return rows_of(segments, length, ids)


Prepare = Callable[[EncodedRows, torch.Generator], Batch]
"""Turns rows of text into the batch of an objective: what is hidden, and what is asked."""


def shuffled(count: int, size: int, step: int, seed: int) -> Int[Tensor, " size"]:
    """Which of ``count`` rows are in the batch of a step: each once an epoch, in a new order every epoch."""
    epoch, at = divmod(step, count // size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return torch.from_numpy(order[at * size : (at + 1) * size])


@dataclass(frozen=True)
class RowBatches:
    """Step -> batch: shuffled rows, a new order every epoch, and masks of its own for every step.

    Attributes:
        rows: all rows.
        size: rows a batch.
        prepare: what the objective makes of them.
        seed: of order and masks.
    """

    rows: EncodedRows
    size: int
    prepare: Prepare
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.size > len(self.rows):
            raise InputError(
                f"A batch of {self.size} rows cannot be drawn from {len(self.rows)}: give more text or a smaller batch."
            )

    def __call__(self, step: int) -> Batch:
        index = shuffled(len(self.rows), self.size, step, self.seed)
        words = np.random.SeedSequence((self.seed, 1, step)).generate_state(1)
        return self.prepare(self.rows[index], torch.Generator().manual_seed(int(words[0])))


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write a model and its tokenizer as one folder that `from_pretrained` loads; complete or not there at all.

    Raises:
        InputError: if the folder cannot be written (a full disk); what was there before stays.
    """
    with whole_folder(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    return folder
