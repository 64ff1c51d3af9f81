"""Supertokens (arXiv 2505.09738): a vocabulary in which some tokens are several words.

*Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning*. Ordinary BPE
stops at word boundaries; here its last part goes on over them, up to line ends, digits and punctuation. The paper says
only that text is cut into "probabilistic chunks"; how long they are, and how much of the vocabulary is for words, is
our choice. Random boundaries are also how KL3M's experimental vocabularies (arXiv 2503.17247) are trained.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokenry.text.training import (
    END_OF_TEXT,
    as_fast,
    byte_level,
    check_size,
    documents,
    learn_merges,
    special,
    train_core,
)
from tokenry.tokens.errors import InputError

# GPT-2's boundaries without those between words: words that single spaces join are one piece.
_HARD = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+(?: \p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PRIVATE = 0xF0000  # two planes of characters that no text uses: one for each token of the first stage
_MOST = 0x20000
_SEPARATOR = "\ue000"


def train_supertokens(
    texts: Iterable[str],
    size: int,
    *,
    words: float = 0.7,
    boundary: float = 0.5,
    max_words: int = 4,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    seed: int = 0,
    progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE vocabulary with supertokens (arXiv 2505.09738), in two stages.

    First merges within words, as ever. Then the text, written in the tokens of the first stage and cut into random
    chunks of a few words, is trained on further, with merges within chunks. The result is one BPE model with the merges
    of both stages in this order: a text is cut into the tokens of the first stage, and these are then joined.

    Args:
        texts: documents.
        size: entries of the vocabulary, special tokens included.
        words: share of the merges that belongs to the first stage.
        boundary: probability that a chunk ends at a space.
        max_words: words in a chunk at most.
        min_frequency: occurrences a pair needs to be merged, in either stage.
        special_tokens: ids 0, 1, ... in this order. The first ends and begins a text.
        seed: of the chunks.
        progress: show bars.

    Returns:
        The tokenizer; `len(tokenizer) == size`.

    Raises:
        InputError: as `train_bpe`, or shares that are none.
    """
    if not 0 < words <= 1 or not 0 <= boundary <= 1 or max_words < 1:
        raise InputError(
            f"words={words} and boundary={boundary} are shares up to 1 (words more than 0), and max_words={max_words} "
            "is at least 1."
        )
    check_size(size, special_tokens)
    least = 256 + len(special_tokens)
    first = least + round(words * (size - least))
    if first > _MOST:
        raise InputError(
            f"At most {_MOST:,} entries can be for words, not {first:,}; lower `size` or `words`."
        )
    corpus = list(documents(texts))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = byte_level("gpt2")
    learn_merges(
        core, corpus, first, min_frequency=min_frequency, special_tokens=special_tokens, progress=progress
    )
    chunks = _Chunks(core, boundary, max_words, random.Random(seed))
    further = _merges_of_chunks(
        chain.from_iterable(map(chunks.cut, corpus)),
        core.get_vocab_size(),
        # Some may repeat a token that the first stage made of other parts.
        size - core.get_vocab_size() + 256,
        min_frequency,
        progress,
    )
    composed = _compose(core, further, size)
    if composed.get_vocab_size() < size:
        raise InputError(
            f"The corpus has pairs for {composed.get_vocab_size():,} entries, not for {size:,}. Ask for a smaller "
            "size, lower min_frequency, or give more text."
        )
    composed.pre_tokenizer = byte_level(Regex(_HARD))
    composed.decoder = decoders.ByteLevel()
    composed.add_special_tokens([special(token) for token in special_tokens])
    end = special_tokens[0] if special_tokens else None
    return as_fast(composed, bos_token=end, eos_token=end)


class _Chunks:
    """Cuts texts into chunks, written with one character for each token of the first stage."""

    def __init__(self, core: Tokenizer, boundary: float, max_words: int, draw: random.Random) -> None:
        self._core = core
        self._split = pre_tokenizers.Split(Regex(_HARD), "isolated")
        self._boundary, self._max_words, self._draw = boundary, max_words, draw.random
        self._written: dict[str, str] = {}

    def cut(self, text: str) -> Iterator[str]:
        """Runs of chunks of a text, separated."""
        for piece, _ in self._split.pre_tokenize_str(text):
            lead = " " if piece.startswith(" ") and len(piece) > 1 else ""
            words = [f" {word}" for word in piece[len(lead) :].split(" ")] if piece.strip() else [piece]
            words[0] = piece if len(words) == 1 else lead + words[0][1:]
            out, length = [self._write(words[0])], 1
            for word in words[1:]:
                if length == self._max_words or self._draw() < self._boundary:
                    out.append(_SEPARATOR)
                    length = 0
                out.append(self._write(word))
                length += 1
            yield "".join(out)

    def _write(self, word: str) -> str:
        if word not in self._written:
            self._written[word] = "".join(chr(_PRIVATE + i) for i in self._core.encode(word).ids)
        return self._written[word]


def _merges_of_chunks(
    chunks: Iterator[str], alphabet: int, merges: int, min_frequency: int, progress: bool
) -> list[tuple[str, str]]:
    """Train BPE on chunks; its merges, in the characters that stand for tokens of the first stage."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Split(_SEPARATOR, "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet + merges,
        min_frequency=min_frequency,
        initial_alphabet=[chr(_PRIVATE + i) for i in range(alphabet)],
        show_progress=progress,
    )
    train_core(core, chunks, trainer)
    return [(left, right) for left, right in _model(core)["merges"]]


def _compose(core: Tokenizer, further: Sequence[tuple[str, str]], size: int) -> Tokenizer:
    """One BPE model with the merges of both stages, cut off where it has `size` entries."""
    model = _model(core)
    vocabulary: dict[str, int] = model["vocab"]
    surface = {token: text for text, token in vocabulary.items()}
    merges = [(left, right) for left, right in model["merges"]]
    for pair in further:
        left, right = ("".join(surface[ord(char) - _PRIVATE] for char in side) for side in pair)
        if left + right not in vocabulary:
            if len(vocabulary) == size:
                break
            vocabulary[left + right] = len(vocabulary)
        merges.append((left, right))
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges))


def _model(core: Tokenizer) -> dict[str, Any]:
    """Vocabulary and merges of a BPE model; the library shows them only in its JSON form."""
    model: dict[str, Any] = json.loads(core.to_str())["model"]
    return model
