"""How a pre-tokenizer splits a text and a token behind it, for every way in which the text could go on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from tokenry.predict.lm.byte_probabilities.shapes import borders, completions, kinds, shape, split_partial
from tokenry.text.vocabulary import ByteVocab

# What may come next, for every way of splitting to show: each kind of character, and the ends of contractions.
_NEXT = (
    "a",
    "A",
    "1",
    "中",
    ".",
    "'",
    "/",
    "\u0301",
    " ",
    "\n",
    "\r",
    *"stmdelSTMDEL",
    "re",
    "ve",
    "ll",
    "RE",
    "VE",
    "LL",
)


@dataclass(frozen=True)
class Ahead:
    """What has to come next inside the pre-token that a token ends in.

    Attributes:
        begun: bytes of the character that the token ends inside.
        rest: kinds of the next characters, of which the first completes the one that has begun.
        closed: whether the pre-token ends with them; otherwise more of the last kind may follow.
        armed: how many of them may belong to a contraction.
    """

    begun: bytes
    rest: tuple[str, ...]
    closed: bool
    armed: int


@dataclass(frozen=True)
class SplitOutcome:
    """How a text and a token after it are split, for one way in which the text could go on.

    Attributes:
        cuts: boundaries inside the text, counted from its end.
        seam: whether there is one between text and token.
        ahead: what has to come next for this, if the last pre-token goes on with it.
    """

    cuts: tuple[int, ...]
    seam: bool
    ahead: Ahead | None = None


@dataclass(frozen=True)
class Splits:
    """How each token of a vocabulary is split after a text.

    Attributes:
        kinds: the different ways.
        of: which of them is each token's.
        open: the tokens of those kinds that depend on what comes next.
        borders: of the texts for which this holds; () for all of their shape, as nothing is split inside them.
    """

    kinds: list[tuple[SplitOutcome, ...]]
    of: Int[np.ndarray, " v"]
    open: Mapping[int, Int[np.ndarray, " n"]]
    borders: tuple[int, ...]


class Splitter:
    """What the tokenizer's own pre-tokenizer says of texts and tokens, asked once for each pair of shapes.

    Args:
        vocab: the vocabulary.
        reachable: the tokens that the tokenizer ever gives.
        remembered: how many tables of splits are kept.
    """

    def __init__(self, vocab: ByteVocab, reachable: Bool[np.ndarray, " v"], remembered: int = 256) -> None:
        self.vocab = vocab
        self.reachable = reachable
        self.bytes = [data or b"" for data in vocab.token_bytes]
        self._remembered = remembered
        self._splits: OrderedDict[tuple[object, ...], Splits] = OrderedDict()
        self._nexts: dict[tuple[str, ...], tuple[bytes, ...]] = {}
        self._begins: OrderedDict[bytes, int] = OrderedDict()

    def cuts(self, text: bytes) -> list[int]:
        """Where the pre-tokens of a text end."""
        return [end for _, end in self.vocab.pretoken_spans(text)]

    def start(self, text: bytes) -> int:
        """The last place where a pre-token starts whatever follows, and from which on nothing before it matters.

        Asked of the pre-tokenizer with everything that could follow: white space is divided by what comes after it, and
        some patterns join a contraction, or a capital, to the word before.
        """
        body, _ = split_partial(text)
        found = self._begins.get(body)
        if found is None:
            found = self._begins[body] = self._find_start(body)
            if len(self._begins) > 16 * self._remembered:
                self._begins.popitem(last=False)
        return found

    def _find_start(self, body: bytes) -> int:
        starts = [start for start, _ in self.vocab.pretoken_spans(body)]
        followed = [(y, self.cuts(body + y)) for y in map(str.encode, _NEXT)]
        for start in starts[:0:-1]:
            if all(
                start in cuts
                and [c for c in cuts if c > start] == [start + c for c in self.cuts(body[start:] + y)]
                for y, cuts in followed
            ):
                return start
        return 0

    def after(self, text: bytes, form: tuple[str, ...], armed: int) -> Splits:
        """The different ways in which tokens are split after a text, and which one is each token's.

        Texts of one shape are split alike, but where that is, counted in bytes, depends on how long their runs of
        letters and symbols are: what is found for one text holds for another with the same borders, and for any other
        only if nothing is split inside it.
        """
        _, partial = split_partial(text)
        ends = borders(text)
        for key in ((form, partial, ()), (form, partial, ends)):
            if key in self._splits:
                self._splits.move_to_end(key)
                return self._splits[key]
        tokens, shape_of = self.token_shapes(armed)
        numbers: dict[tuple[SplitOutcome, ...], int] = {}
        of_shape = np.array(
            [numbers.setdefault(self._split(text, self.bytes[t]), len(numbers)) for t in tokens], np.int32
        )
        kind_of = of_shape[shape_of]
        if partial:  # tokens that complete the character: what they are depends on both halves
            seen: dict[tuple[str, ...], int] = {}
            for token in self.continuing:
                joint = shape(partial + self.bytes[token], 2)
                if joint not in seen:
                    seen[joint] = numbers.setdefault(self._split(text, self.bytes[token]), len(numbers))
                kind_of[token] = seen[joint]
        splits = any(outcome.cuts for outcomes in numbers for outcome in outcomes)
        open_ = {
            k: np.flatnonzero((kind_of == k) & self.reachable)
            for outcomes, k in numbers.items()
            if any(outcome.ahead is not None for outcome in outcomes)
        }
        found = Splits(list(numbers), kind_of, open_, ends if splits else ())
        self._splits[form, partial, found.borders] = found
        if len(self._splits) > self._remembered:
            self._splits.popitem(last=False)
        return found

    def token_shapes(self, armed: int) -> tuple[list[int], Int[np.ndarray, " v"]]:
        """One token of each shape, and the number of each token's shape; see `shape`."""
        return self._plain_shapes if not armed else self._armed_shapes[armed - 1]

    @cached_property
    def _plain_shapes(self) -> tuple[list[int], Int[np.ndarray, " v"]]:
        return self._group(0)

    @cached_property
    def _armed_shapes(self) -> tuple[tuple[list[int], Int[np.ndarray, " v"]], ...]:
        return self._group(1), self._group(2)

    def _group(self, armed: int) -> tuple[list[int], Int[np.ndarray, " v"]]:
        """One token of each shape, and the number of each token's shape."""
        numbers: dict[tuple[str, ...], int] = {}
        tokens: list[int] = []
        shape_of = np.zeros(len(self.bytes), np.int64)
        for token, data in enumerate(self.bytes):
            form = shape(data, armed)
            number = numbers.setdefault(form, len(numbers))
            if number == len(tokens):
                tokens.append(token)
            shape_of[token] = number
        return tokens, shape_of

    @cached_property
    def continuing(self) -> list[int]:
        """Tokens that begin inside a character."""
        return [token for token, data in enumerate(self.bytes) if data and 0x80 <= data[0] < 0xC0]

    def _split(self, text: bytes, token: bytes) -> tuple[SplitOutcome, ...]:
        """The ways in which a token after a text can be split, depending on what comes after it."""
        if not token:
            return ()
        whole = text + token
        body, partial = split_partial(whole)
        armed = armed_at(body)
        found: dict[SplitOutcome, None] = {}
        for longer in self._continued(body, partial):
            cuts = self.cuts(longer)
            inside = [cut for cut in cuts if cut < len(whole)]
            if any(cut > len(text) for cut in inside):
                continue
            ahead = None
            if len(whole) not in cuts:
                end = min(cut for cut in cuts if cut > len(whole))
                rest = kinds(longer[len(body) : end].decode(), armed)[0]
                ahead = Ahead(partial, tuple(rest), end < len(longer), armed)
            found.setdefault(
                SplitOutcome(
                    tuple(len(text) - cut for cut in inside if cut < len(text)), len(text) in inside, ahead
                )
            )
        sure = {(outcome.cuts, outcome.seam) for outcome in found if outcome.ahead is None}
        return tuple(o for o in found if o.ahead is None or (o.cuts, o.seam) not in sure)

    def _continued(self, body: bytes, partial: bytes) -> Iterator[bytes]:
        """The ways in which a text could go on that can make a difference to how it is split."""
        for char in completions(partial) if partial else ("",):
            whole = body + char.encode()
            yield from (whole + y for y in self._following(whole))

    def _following(self, text: bytes) -> tuple[bytes, ...]:
        """What can follow a text, one for each way of splitting its end; nothing, if all are alike."""
        tail = text[-12:].decode("utf-8", "ignore")[-3:]
        key = tuple(kinds(tail)[0])
        if key not in self._nexts:
            end, armed = len(tail.encode()), armed_at(text)
            ways: dict[tuple[tuple[int, ...], tuple[str, ...]], bytes] = {}
            for y in ("", *_NEXT):
                cuts = self.cuts((tail + y).encode())
                joined = () if end in cuts else tuple(kinds(y, armed)[0])
                ways.setdefault((tuple(c for c in cuts if c < end), joined), y.encode())
            alike = len({before for before, _ in ways}) == 1
            self._nexts[key] = (b"",) if alike else tuple(ways.values())
        return self._nexts[key]


def armed_at(text: bytes) -> int:
    """How many of the next characters could belong to a contraction that has begun."""
    if text.endswith(b"'"):
        return 2
    return 1 if text[-2:-1] == b"'" else 0
