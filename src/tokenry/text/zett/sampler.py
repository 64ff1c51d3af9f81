"""Tokenizers drawn at random from the text in hand: what a hypernetwork is trained over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Split

from tokenry.hosts.encoding import byte_alphabet
from tokenry.text.training import byte_level
from tokenry.text.vocabulary import from_surface, to_surface
from tokenry.tokens.errors import InputError

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2's, with marks
_IMPOSSIBLE = -100_000.0
_SPACES = " \n\t"
_SPACE_RUN = 16


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How tokenizers are drawn.

    Attributes:
        size: tokens of a sampled vocabulary, bytes and special tokens included.
        stride: a substring may start at every n-th character of a pre-token.
        longest: characters of the longest substring.
        noise_median, noise_sigma: every tokenizer draws one z from a log-normal with this median and this sigma of the
            logarithm; its tokens' probabilities get normal noise of standard deviation z.
    """

    size: int = 32768
    stride: int = 4
    longest: int = 15
    noise_median: float = 1e-5
    noise_sigma: float = 4.0

    def __post_init__(self) -> None:
        if self.size < 512:
            raise InputError(
                f"A sampled vocabulary holds 256 bytes and the runs of white space; size must be at least 512, "
                f"got {self.size}"
            )
        if min(self.stride, self.longest) < 1:
            raise InputError(f"Stride and longest must be at least 1, got {self.stride}, {self.longest}")


@dataclass(frozen=True, eq=False)
class SampledTokenizer:
    """One drawn tokenizer.

    Attributes:
        backend: the `tokenizers` tokenizer; it adds no space in front and no special tokens.
        token_bytes: bytes of each id; None for special tokens.
        special: its special tokens' ids -> ids of the model's own tokens of the same role.
    """

    backend: Tokenizer
    token_bytes: tuple[bytes | None, ...]
    special: Mapping[int, int]

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of texts, each with one space put in front."""
        encodings = self.backend.encode_batch_fast([f" {text}" for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Pre-tokens of texts, each with one space put in front, and how often they occur."""
    splitter = Split(Regex(PATTERN), "isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(f" {text}"))
    return counts


def substring_scores(words: Mapping[str, int], stride: int = 4, longest: int = 15) -> dict[str, int]:
    """Score of every substring of the words: its occurrences times its length in bytes.

    Counted over distinct words with their counts, so the cost grows with the vocabulary of a text and not its length.
    True byte lengths and true starts are used; the published code counts the leading space twice and is one character
    off in all pre-tokens but the first.

    Args:
        words: pre-tokens with counts (`count_words`).
        stride: starts at every n-th character of a word.
        longest: longest substring in characters.
    """
    scores: dict[str, int] = {}
    for word, count in words.items():
        plain = word.isascii()
        for start in range(0, len(word), stride):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                piece = word[start:end]
                size = end - start if plain else len(piece.encode())
                scores[piece] = scores.get(piece, 0) + count * size
    return scores


def sample_tokenizer(
    scores: Mapping[str, int],
    settings: SamplerSettings,
    rng: np.random.Generator,
    special_tokens: Mapping[str, int],
    *,
    z: float | None = None,
) -> SampledTokenizer:
    """Draw a Unigram tokenizer.

    Its vocabulary: 256 bytes with the smallest probability there is; runs of 2 to 16 white-space characters (one, then
    repetitions of one) with log-probability 0; and the most probable substrings of more than one byte and at most one
    byte of white space. Special tokens stand at the ids that they have in the model's own vocabulary, or at the end.

    Args:
        scores: of substrings (`substring_scores`).
        settings: sizes and noise.
        rng: draws the noise.
        special_tokens: special tokens of the model and their ids.
        z: standard deviation of the noise, drawn if not given.

    Raises:
        InputError: no scores at all.
    """
    if not scores:
        raise InputError("No tokenizer can be sampled from an empty text.")
    if z is None:
        z = float(np.exp(np.log(settings.noise_median) + settings.noise_sigma * rng.standard_normal()))
    pieces = list(scores)
    p = np.fromiter(scores.values(), np.float64, len(pieces))
    p = p / p.sum() + z * rng.standard_normal(len(pieces))
    log_p = np.full(len(p), _IMPOSSIBLE)
    log_p[p > 0] = np.log(p[p > 0])
    floor = float(np.log(p[p > 0].min())) if (p > 0).any() else _IMPOSSIBLE

    vocabulary: dict[str, float] = dict.fromkeys(byte_alphabet(), floor)
    for first in _SPACES:
        for repeated in _SPACES:
            for times in range(1, _SPACE_RUN):
                vocabulary[to_surface((first + repeated * times).encode())] = 0.0
    room = settings.size - len(special_tokens)
    # More candidates than places, because some are skipped; a stable order makes the draw reproducible.
    order = np.argsort(-log_p, kind="stable")
    for index in order.tolist():
        if len(vocabulary) >= room:
            break
        piece = pieces[index]
        if sum(piece.count(space) for space in _SPACES) >= 2:
            continue
        surface = to_surface(piece.encode())
        if len(surface) > 1:
            vocabulary.setdefault(surface, float(log_p[index]))
    return _assemble(vocabulary, special_tokens)


def _assemble(vocabulary: Mapping[str, float], special_tokens: Mapping[str, int]) -> SampledTokenizer:
    """The tokenizer of surfaces and log-probabilities, with special tokens at their reference ids."""
    entries: list[tuple[str, float]] = list(vocabulary.items())
    token_bytes: list[bytes | None] = [from_surface(surface) for surface in vocabulary]
    places = {}
    for name, reference in sorted(special_tokens.items(), key=lambda item: item[1]):
        if name in vocabulary:
            raise InputError(f"The special token {name!r} is also ordinary text of the corpus.")
        at = min(reference, len(entries))
        entries.insert(at, (name, _IMPOSSIBLE))
        token_bytes.insert(at, None)
        places[at] = reference
    backend = Tokenizer(Unigram(entries, unk_id=None, byte_fallback=False))
    backend.pre_tokenizer = byte_level(Regex(PATTERN))
    backend.decoder = ByteLevelDecoder()
    return SampledTokenizer(backend, tuple(token_bytes), places)
