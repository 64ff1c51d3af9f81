"""What a tokenizer costs and what a language model knows, per byte or per word - never per token.

Two tokenizers cut the same text into different numbers of tokens, so figures per token of theirs cannot be compared.
Bytes are UTF-8 and words are what white space separates throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tokenry.hosts.encoding import encode_plain, start_id
from tokenry.hosts.upstream import longest_text
from tokenry.tokens.errors import InputError

_LOGITS: Final = 1 << 26  # logits at once: 256 MB of float32


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds one text.

    Attributes:
        nats: Negative log-likelihood of its scored tokens, together.
        n_tokens: Number of scored tokens.
        n_bytes: Bytes that they stand for.
    """

    nats: float
    n_tokens: int
    n_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """The score per byte, in bits."""
        return self.nats / (math.log(2) * self.n_bytes)


def bits_per_byte(
    model: Any, tokenizer: Any, texts: Iterable[str], *, window: int = 1024, stride: int | None = None
) -> float:
    """Return how many bits a causal language model needs for a byte of these texts, all of them together.

    The likelihood is that of the one encoding that the tokenizer gives, special tokens in the text taken literally. See
    `score_texts` for the first token and for long texts.

    Args:
        model: Any causal language model of transformers' form, in evaluation mode.
        tokenizer: Its fast tokenizer.
        texts: The texts; empty ones do not count.
        window: Tokens that the model sees at once, at most; never more than its configuration allows.
        stride: Tokens by which the window moves on over a long text; half the window unless told. What was before the
            stride is context and not scored again: every token is scored once, and each but the first `window` with at
            least `window - stride` tokens before it.

    Raises:
        InputError: If there is no text to score, or see `score_texts`.
    """
    scores = score_texts(model, tokenizer, texts, window=window, stride=stride)
    size = sum(score.n_bytes for score in scores)
    if size == 0:
        raise InputError("There is no text to score: all texts are empty.")
    return sum(score.nats for score in scores) / (math.log(2) * size)


def score_texts(
    model: Any, tokenizer: Any, texts: Iterable[str], *, window: int = 1024, stride: int | None = None
) -> tuple[TextScore, ...]:
    """Score texts one by one; arguments as for `bits_per_byte`.

    The first token is predicted from the tokenizer's bos token, or from its eos token if it has no bos (models that
    pack documents see it there). With neither, the first token is not scored and its bytes are not counted.

    Rows of the model's output for which the tokenizer has no token (padding to a round number) get no probability.
    Log-softmax is taken in float32.

    Returns:
        One score a text that has a token to score, in order.

    Raises:
        InputError: If the tokenizer meets characters that it has no token for, if its ids do not fit the model, or if
            the window is too small.
    """
    limit = longest_text(model.config)
    window = min(window, limit or window)
    stride = window // 2 if stride is None else stride
    if not 1 <= stride < window:
        raise InputError(f"Stride must be at least 1 and below the window of {window} tokens, got {stride}")
    n_ids = max(tokenizer.get_vocab().values()) + 1
    scores: list[TextScore] = []
    pieces: list[_Piece] = []
    for ids, first, n_bytes in _encode(tokenizer, texts):
        scores.append(TextScore(0.0, len(ids) - first, n_bytes))
        pieces += _pieces(len(scores) - 1, ids, first, window, stride)
    nats = [0.0] * len(scores)
    for group in _batches(pieces, n_ids):
        for piece, total in zip(group, _score(model, group, n_ids), strict=True):
            nats[piece.text] += total
    return tuple(
        TextScore(total, score.n_tokens, score.n_bytes) for total, score in zip(nats, scores, strict=True)
    )


def bytes_per_token(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the compression: bytes of all texts by number of their tokens.

    Raises:
        InputError: If there is no text.
    """
    count = _count_tokens(tokenizer, texts)
    if count == 0:
        raise InputError("There is no text to measure: all texts are empty.")
    return sum(len(text.encode("utf-8")) for text in texts) / count


def fertility(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the number of tokens per word. Of languages that put no space between words it says nothing.

    Raises:
        InputError: If there is no word.
    """
    return _count_tokens(tokenizer, texts) / _count_words(texts)


def bytes_per_word(texts: Iterable[str]) -> float:
    """Return bytes of all texts, white space included, by number of their words.

    Raises:
        InputError: If there is no word.
    """
    texts = list(texts)
    return sum(len(text.encode("utf-8")) for text in texts) / _count_words(texts)


def perplexity_ratio(bpb_new: float, bpb_old: float, bytes_per_word: float | None = None) -> float:
    """Return how many times larger a new perplexity is than an old one, per byte or per word.

    Args:
        bpb_new: Bits per byte now.
        bpb_old: Bits per byte before.
        bytes_per_word: Length of a word in bytes, for the ratio per word; None for the ratio per byte.
    """
    return float(2.0 ** ((bpb_new - bpb_old) * (1.0 if bytes_per_word is None else bytes_per_word)))


def word_accuracy(predicted: Sequence[str | bytes], expected: Sequence[str | bytes]) -> float:
    """Return the share of words of which every byte is right.

    Raises:
        InputError: If there is no word, or not one prediction for each.
    """
    if len(predicted) != len(expected) or not expected:
        raise InputError(
            f"Word accuracy needs one prediction for each word, got {len(predicted)} for {len(expected)}"
        )
    right = sum(_as_bytes(word) == _as_bytes(true) for word, true in zip(predicted, expected, strict=True))
    return right / len(expected)


# -------------------------------------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Piece:
    """What the model sees at once: `ids`, of which those from `first` on are scored; part of text number `text`."""

    text: int
    ids: list[int]
    first: int


def _encode(tokenizer: Any, texts: Iterable[str]) -> Iterator[tuple[list[int], int, int]]:
    """Give ids with what starts them, index of the first to score, and number of bytes that are scored."""
    kept = [text for text in texts if text]
    start = start_id(tokenizer)
    for text, ids in zip(kept, encode_plain(tokenizer, kept), strict=True):
        n_bytes = len(text.encode("utf-8"))
        if start is not None:
            yield [start, *ids], 1, n_bytes
        elif len(ids) > 1:
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            yield ids, 1, n_bytes - len(text[: spans["offset_mapping"][0][1]].encode("utf-8"))


def _pieces(text: int, ids: list[int], first: int, window: int, stride: int) -> Iterator[_Piece]:
    done = first
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        yield _Piece(text, ids[begin:end], done - begin)
        done = end
        if end == len(ids):
            return


def _batches(pieces: list[_Piece], n_ids: int) -> Iterator[list[_Piece]]:
    """Put pieces of like length together, as many as fit."""
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: len(piece.ids), reverse=True):
        if group and (len(group) + 1) * len(group[0].ids) * n_ids > _LOGITS:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


@torch.inference_mode()
def _score(model: Any, pieces: list[_Piece], n_ids: int) -> list[float]:
    longest = max(len(piece.ids) for piece in pieces)
    ids = torch.zeros(len(pieces), longest, dtype=torch.long)
    scored = torch.zeros(len(pieces), longest, dtype=torch.bool)
    mask = torch.zeros_like(ids)
    for row, piece in enumerate(pieces):
        size = len(piece.ids)
        ids[row, :size] = torch.tensor(piece.ids)
        mask[row, :size] = 1
        scored[row, piece.first : size] = True
    rows = model.get_input_embeddings().num_embeddings
    if int(ids.max()) >= rows:
        raise InputError(
            f"The tokenizer gives id {int(ids.max())} and the model has {rows} embeddings: they do not belong together."
        )
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    nats = _token_nats(logits[:, :-1], ids[:, 1:].to(device), n_ids)
    totals: list[float] = (nats * scored[:, 1:].to(device)).double().sum(dim=1).tolist()
    return totals


def _token_nats(
    logits: Float[Tensor, "b t v"], targets: Int[Tensor, "b t"], n_ids: int
) -> Float[Tensor, "b t"]:
    """Negative log-likelihood of each target; rows from `n_ids` on are no tokens and get no probability."""
    return F.cross_entropy(
        logits[..., :n_ids].float().flatten(0, 1), targets.flatten(), reduction="none"
    ).view(targets.shape)


def _count_tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    return sum(len(ids) for ids in encode_plain(tokenizer, texts))


def _count_words(texts: Iterable[str]) -> int:
    count = sum(len(text.split()) for text in texts)
    if count == 0:
        raise InputError("There is no text to measure: no word in any text.")
    return count


def _as_bytes(word: str | bytes) -> bytes:
    return word.encode("utf-8") if isinstance(word, str) else word
