"""LiB (arXiv 2403.00417): a vocabulary learned as a reader learns words, by memorising and forgetting.

*Rethinking Tokenization: Crafting Better Tokenizers for Large Language Models*. The learner reads sentence by sentence
with the longest chunks it knows, memorises neighbouring chunks as one, forgets what does not come back, and moves
chunks up or down a ranked list by whether they shorten what it reads. Words are no bounds: the lexicon mixes parts of
words, words and phrases.

Two rules of segmentation, over the same lexicon and by the same measure - the fewest chunks, then the smallest sum of
ranks - give nearly, not exactly, the same chunks:

* `Lexicon.segment` is the paper's: at each place the path of the longest match is compared with that of the
  second-longest until the two meet, and the better one is taken. It runs in Python and is what learning uses.
* `Lexicon.tokenizer` is what `AutoTokenizer` loads: a Unigram model of Hugging Face `tokenizers` whose scores make it
  find the best of *all* paths of a line. It never takes more chunks than the paper's rule, and runs at library speed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenry.hosts.encoding import byte_alphabet
from tokenry.text.lib.ranked import RankedLexicon
from tokenry.text.training import END_OF_TEXT, as_fast, byte_level, check_size, documents, special
from tokenry.text.vocabulary import to_surface
from tokenry.tokens.errors import InputError

Context = tuple[str, str]
_SENTENCE = r"[^\n]+\n*|\n+"
_sentences: Callable[[str], list[str]] = re.compile(_SENTENCE).findall


@dataclass(frozen=True)
class Lexicon:
    """A learned lexicon.

    Attributes:
        chunks: best first; the position is the rank.
    """

    chunks: tuple[str, ...]
    _ranked: RankedLexicon = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ranked", RankedLexicon(self.chunks))
        if len(self._ranked) < len(self.chunks):
            raise InputError("A chunk of the lexicon is empty or in it twice.")

    def segment(self, text: str) -> list[str]:
        """Cut a text into chunks by the paper's rule; joined, they are the text.

        A character that begins no chunk is one of its own. The authors' code also takes a single character where the
        longest match is the only one; that is plainly a slip, and the longest match is taken.
        """
        return [chunk for sentence in _sentences(text) for chunk in self._segment(sentence)]

    def _segment(self, sentence: str) -> Iterator[str]:
        ranked, at = self._ranked, 0
        while at < len(sentence):
            small, big = ranked.two_longest(sentence, at)
            default, end = [sentence[at : at + (big or 1)]], at + (big or 1)
            if small:
                other, other_end = [sentence[at : at + small]], at + small
                while end != other_end:
                    behind = min(end, other_end)
                    size = ranked.longest(sentence, behind) or 1
                    chunk = sentence[behind : behind + size]
                    if end < other_end:
                        default.append(chunk)
                        end += size
                    else:
                        other.append(chunk)
                        other_end += size
                if _better(other, default, ranked):
                    default = other
            yield from default
            at = end

    def split(self, chunk: str, levels: int = 2) -> tuple[str, ...]:
        """The parts of a chunk that all have better ranks than the chunk itself, found by halving `levels` times.

        Args:
            chunk: of the lexicon.
            levels: how deep to go.
        """
        rank = self._ranked.rank
        halves = ((chunk[:i], chunk[i:]) for i in range(len(chunk) - 1, 0, -1))
        known = [pair for pair in halves if pair[0] in self._ranked and pair[1] in self._ranked]
        best = min(known, key=lambda pair: (rank(pair[0]), rank(pair[1])), default=None)
        if levels < 1 or best is None or max(map(rank, best)) >= rank(chunk):
            return (chunk,)
        return self.split(best[0], levels - 1) + self.split(best[1], levels - 1)

    def efficiency(self, texts: Iterable[str]) -> float:
        """The paper's measure: mean length of a chunk in characters over the bits that name one of the lexicon.

        Raises:
            InputError: no text, or fewer than two chunks to tell apart.
        """
        cut = [self.segment(text) for text in texts]
        if not any(cut) or len(self.chunks) < 2:
            raise InputError("The measure needs some text and a lexicon of at least two chunks.")
        return sum(len(c) for text in cut for c in text) / sum(map(len, cut)) / math.log2(len(self.chunks))

    def tokenizer(
        self,
        *,
        rule: Literal["fewest", "longest"] = "fewest",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
    ) -> PreTrainedTokenizerFast:
        """The lexicon as an ordinary tokenizer that encodes at library speed and loses nothing.

        Ids: the 256 bytes (for characters that no chunk covers), the chunks by rank, the special tokens. A chunk of one
        byte is that byte's entry.

        Args:
            rule: "fewest": of all ways to cut a line the one with the fewest chunks, then the smallest sum of ranks.
                "longest": the longest match, from left to right.
            special_tokens: the first ends and begins a text.
        """
        surface = byte_alphabet()
        scores = dict.fromkeys(surface, 0.0)
        step = 2.0 ** -(len(self.chunks).bit_length() + 10)
        for byte, character in enumerate(surface):
            # A character that no chunk covers counts as one chunk of the worst rank: its first byte pays for all.
            scores[character] = 0.0 if 0x80 <= byte < 0xC0 else -(1 + step * len(self.chunks))
        for rank, chunk in enumerate(self.chunks):
            # A power of two as step: sums of scores are exact, so a chunk less outweighs ranks over 1,000 chunks.
            scores[to_surface(chunk.encode())] = -(1 + step * rank)
        if rule == "fewest":
            core = Tokenizer(models.Unigram(list(scores.items())))
            core.pre_tokenizer = byte_level(Regex(_SENTENCE))
        else:
            entries = {entry: i for i, entry in enumerate(scores)}
            core = Tokenizer(
                # All bytes are entries, so nothing is ever unknown and no line too long.
                models.WordPiece(
                    entries,
                    unk_token=surface[0],
                    continuing_subword_prefix="",
                    max_input_chars_per_word=2**62,
                )
            )
            # Left to itself the model tries, at every chunk, each of the line's ends: the cube of the line's length.
            core.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(_SENTENCE), "isolated"), byte_level(Regex(_longest(self.chunks)))]
            )
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens([special(token) for token in special_tokens])
        end = special_tokens[0] if special_tokens else None
        return as_fast(core, bos_token=end, eos_token=end)


def _longest(chunks: Iterable[str]) -> str:
    """A regular expression for the longest of some chunks that begins at a place; where none does, one character."""
    follow: list[dict[str, int]] = [{}]  # a trie: nodes by number, children behind their parents
    ends = set()
    for chunk in chunks:
        node = 0
        for char in chunk:
            node = follow[node].setdefault(char, len(follow))
            if node == len(follow):
                follow.append({})
        ends.add(node)
    patterns = [""] * len(follow)
    for node in reversed(range(len(follow))):
        ways = "|".join(re.escape(char) + patterns[child] for char, child in follow[node].items())
        patterns[node] = f"(?:{ways}){'?' if node in ends else ''}" if ways else ""
    # The library's expressions are Ruby's, where this flag lets the dot stand for line ends, too.
    return "|".join(filter(None, (patterns[0], "(?m:.)")))


@dataclass(frozen=True, kw_only=True)
class Lib:
    """How a lexicon is learned (LiB, arXiv 2403.00417); the defaults are the paper's where it has any.

    What it looks at: the text alone, sentence by sentence (here: lines). Cost: linear in the text.

    Attributes:
        in_rate: probability of memorising a chunk together with the one before it (alpha).
        out_rate: share of the list, from its end, that is put on probation after each article (omega).
        life: articles within which a chunk on probation must come back (tau).
        update_rate: share of its rank by which a chunk moves (Delta).
        inspect_context: whether a chunk that comes back in the context it was memorised in is taken for a part of a
            longer one, instead of passing its probation.
        max_chunk_length: longest chunk in characters; None: no limit.
        article: sentences between two updates.
        passes: readings of the corpus, its articles in a new order each time. More than one rewards what was memorised
            from the very same text, which costs compression of other text.
        seed: of the order and of what is memorised.
    """

    in_rate: float = 0.25
    out_rate: float = 1e-4
    life: int = 10
    update_rate: float = 0.1
    inspect_context: bool = True
    max_chunk_length: int | None = None
    article: int = 200
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("in_rate", "out_rate", "update_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it is a share between 0 and 1.")
        for name in ("life", "article", "passes", "max_chunk_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}; it is at least 1.")

    def learn(self, texts: Iterable[str], *, progress: bool = False) -> Lexicon:
        """Read a corpus and keep what has passed its probation.

        Args:
            texts: documents; lines are the sentences.
            progress: show a bar.

        Raises:
            InputError: no text, or text that is not Unicode.
        """
        sentences = [sentence for text in documents(texts) for sentence in _sentences(text)]
        articles = [sentences[i : i + self.article] for i in range(0, len(sentences), self.article)]
        reader = Reader(self)
        for number in range(self.passes):
            order = random.Random(f"{self.seed}/{number}").sample(range(len(articles)), len(articles))
            title = f"reading, pass {number + 1} of {self.passes}"
            for i in track(order, title, transient=True) if progress else order:
                for sentence in articles[i]:
                    reader.read(sentence)
                reader.update()
        reader.lexicon.forget(reader.probation)
        return Lexicon(tuple(reader.lexicon))


@dataclass
class _Probation:
    """What is known of a chunk that has yet to come back."""

    life: int
    context: Context | None


@dataclass
class _Comparison:
    """Two ways to read on from one place: by the longest match, which is being done, and by the second-longest."""

    default: list[str]
    other: list[str]
    end: int  # of the other way


class Reader:
    """The learner's state while it reads.

    Attributes:
        lexicon: what it knows.
        probation: chunks that have yet to come back.
        rewards: moves that the next `update` makes: chunk, and -1 for a better or +1 for a worse rank.
    """

    def __init__(self, settings: Lib, chunks: Iterable[str] = ()) -> None:
        self.settings = settings
        self.lexicon = RankedLexicon(chunks)
        self.probation: dict[str, _Probation] = {}
        self.rewards: list[tuple[str, int]] = []
        self._random = random.Random(settings.seed).random

    def memorise(self, chunk: str, context: Context | None = None) -> None:
        """Put a chunk at the end of the list, on probation; nothing happens if it is known or too long.

        Args:
            chunk: what was read, a character or several chunks as one.
            context: the chunks to its left and right at that place.
        """
        limit = self.settings.max_chunk_length
        if chunk not in self.lexicon and (limit is None or len(chunk) <= limit):
            self.lexicon.append(chunk)
            self.probation[chunk] = _Probation(self.settings.life, context)

    def read(self, sentence: str) -> None:
        """Read one sentence, memorising on the way and noting which chunks were worth having."""
        lexicon, alpha = self.lexicon, self.settings.in_rate
        pending: list[_Comparison] = []
        before = previous = ""  # the two chunks before this place
        at = 0
        while at < len(sentence):
            if pending:
                pending = [c for c in pending if not self._evaluate(c, sentence, at)]
            small, size = lexicon.two_longest(sentence, at)
            chunk = sentence[at : at + (size or 1)]
            for comparison in pending:
                comparison.default.append(chunk)
            if size:
                if chunk in self.probation:
                    self._inspect(chunk, (before, previous), sentence, at + size)
                if small:
                    pending.append(_Comparison([chunk], [sentence[at : at + small]], at + small))
                if previous and self._random() < alpha and previous + chunk not in lexicon:
                    self.memorise(previous + chunk, (before, self._next(sentence, at + size)))
            else:
                self.memorise(chunk, (previous, self._next(sentence, at + 1)))
            before, previous = previous, chunk
            at += size or 1

    def update(self) -> None:
        """End an article: forget what did not come back, move what was rewarded, put the list's end on probation."""
        for chunk in self.probation:
            self.probation[chunk].life -= 1
        self.lexicon.forget([chunk for chunk, state in self.probation.items() if state.life <= 0])
        self.lexicon.rerank(self.rewards, self.settings.update_rate)
        self.rewards.clear()
        self.probation = {c: state for c, state in self.probation.items() if c in self.lexicon}
        tail = int(len(self.lexicon) * (1 - self.settings.out_rate))
        for chunk in list(self.lexicon)[tail:]:
            self.probation.setdefault(chunk, _Probation(self.settings.life, None))

    def _next(self, sentence: str, at: int) -> str:
        return sentence[at : at + (self.lexicon.longest(sentence, at) or 1)]

    def _inspect(self, chunk: str, preceding: tuple[str, str], sentence: str, end: int) -> None:
        """A chunk on probation came back: in a new context it stands by itself, in the old one not."""
        context = self.probation[chunk].context if self.settings.inspect_context else None
        if context is None:
            del self.probation[chunk]
            return
        before, previous = preceding
        following = self._next(sentence, end)
        left, right = context
        if not (left or right or previous or following):
            return
        same_left = bool(left and previous) and (previous.endswith(left) or left.endswith(previous))
        same_right = bool(right and following) and (
            following.startswith(right) or right.startswith(following)
        )
        if same_left:
            self.memorise(previous + chunk, (before, following))
        if same_right:
            self.memorise(chunk + following, (previous, self._next(sentence, end + len(following))))
        if not (same_left or same_right):
            self.rewards.append((chunk, -1))
            del self.probation[chunk]

    def _evaluate(self, comparison: _Comparison, sentence: str, at: int) -> bool:
        """Follow the other way up to this place; if the two meet here, reward the better one."""
        while comparison.end < at:
            chunk = self._next(sentence, comparison.end)
            comparison.other.append(chunk)
            comparison.end += len(chunk)
        if comparison.end > at:
            return False
        big = comparison.default[0]
        if _better(comparison.other, comparison.default, self.lexicon):
            self.rewards += [(comparison.other[0], -1), (big, 1)]
        else:
            self.rewards.append((big, -1))
        return True


def _better(other: Sequence[str], default: Sequence[str], lexicon: RankedLexicon) -> bool:
    """Whether the other way has fewer chunks, or as many with a smaller sum of ranks."""
    if len(other) != len(default):
        return len(other) < len(default)
    return sum(map(lexicon.rank, other)) < sum(map(lexicon.rank, default))


def train_lib(
    texts: Iterable[str],
    size: int,
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    progress: bool = False,
    **settings: Any,
) -> PreTrainedTokenizerFast:
    """Less-is-Better vocabulary (arXiv 2403.00417): a ranked lexicon of parts of words, words and phrases.

    The lexicon is learned by `Lib` and becomes a tokenizer of exactly `size` entries: bytes, the best chunks, special
    tokens.

    Args:
        texts: documents.
        size: entries of the vocabulary.
        special_tokens: the first ends and begins a text.
        progress: show a bar.
        **settings: fields of `Lib`.

    Returns:
        The tokenizer; see `Lexicon.tokenizer`.

    Raises:
        InputError: no text, settings that `Lib` does not have, a size that does not hold the bytes and special tokens,
            or text from which fewer chunks are learned than `size` asks for.
    """
    check_size(size, special_tokens)
    lexicon = _configured(settings).learn(texts, progress=progress)
    return fit(lexicon, size - 256 - len(special_tokens)).tokenizer(special_tokens=special_tokens)


def fit(lexicon: Lexicon, room: int) -> Lexicon:
    """The best part of a lexicon that takes exactly `room` entries beside the 256 bytes.

    Raises:
        InputError: it has not that many.
    """
    kept: list[str] = []
    for chunk in lexicon.chunks:
        if not chunk.isascii() or len(chunk) > 1:
            if room == 0:
                break
            room -= 1
        kept.append(chunk)
    if room:
        raise InputError(
            f"Only {len(kept):,} chunks were learned from the corpus, {room:,} too few for this size. Ask for a "
            "smaller size, give more text, or raise `passes` or `in_rate`."
        )
    return Lexicon(tuple(kept))


def _configured(settings: Mapping[str, Any]) -> Lib:
    known = [field.name for field in fields(Lib)]
    if unknown := sorted(settings.keys() - known):
        raise InputError(f"LiB has no setting {', '.join(unknown)}; its settings: {', '.join(known)}.")
    try:
        return Lib(**settings)
    except TypeError as error:  # a text where a number belongs, mostly
        raise InputError(f"LiB cannot be set up with {dict(settings)}: {error}.") from error
