"""Which tokens may follow which, for a token sequence to be the beginning of what the tokenizer gives for some text.

A sequence t is *viable* if ``encode(decode(t) + y)`` begins with t for some y, where y completes the character that t
ends inside, if it does. Arithmetic over covers needs this, not
``encode(decode(t)) == t``, as soon as the pre-tokenizer looks ahead: GPT-2's gives "Hi\\n\\nYou" as Hi, \\n, \\n, You,
but "Hi\\n\\n" alone as Hi, \\n\\n. With the stricter definition, an everyday text would have no cover at all after its
second line break. Where nothing looks ahead (plain BPE inside one pre-token) the two are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int

from tokenry.predict.lm.byte_probabilities.pairs import PairValidity
from tokenry.predict.lm.byte_probabilities.shapes import (
    borders,
    check_splitting,
    completing_kinds,
    completions,
    kinds,
    shape,
    split_partial,
    uncovered,
)
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import UnsupportedError

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
_LEAD = 32  # how far back the marks of a context are looked at


@dataclass(frozen=True)
class Context:
    """All that validity can depend on of the tokens so far.

    Attributes:
        text: bytes from the last place where the pre-tokenizer splits whatever follows.
        edges: ends of tokens inside it, counted from its end.
        joins: those of them at which the two tokens would merge if no pre-token ended there.
        last: last token, -1 at the beginning.
        final: whether the text may end here.
    """

    text: bytes = b""
    edges: tuple[int, ...] = ()
    joins: tuple[int, ...] = ()
    last: int = -1
    final: bool = True


class Validity(ABC):
    """Which tokens may follow a context."""

    @abstractmethod
    def extend(self, context: Context, token: int) -> Context:
        """The context after one more token."""

    @abstractmethod
    def mask(self, context: Context) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""

    @abstractmethod
    def boundary(self, data: bytes) -> int:
        """A place in a text where tokens end in every encoding of every text that starts so."""


def validity_of(vocab: ByteVocab) -> Validity:
    """The rules of a vocabulary.

    Raises:
        UnsupportedError: a tokenizer whose rules are not known (see `PairValidity`, `check_splitting`).
    """
    if vocab.normalizer:
        raise UnsupportedError(
            f"This tokenizer normalises text ({vocab.normalizer}), so the bytes it is given are not those it encodes; "
            "exact byte probabilities do not support it."
        )
    if vocab.kind == "sentencepiece":
        return SentencePieceValidity(vocab, PairValidity(vocab))
    pairs = PairValidity(vocab)  # refuses what is not BPE
    check_splitting(vocab)
    return ByteLevelValidity(vocab, pairs)


@dataclass(frozen=True)
class _Ahead:
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
class _Outcome:
    """How a text and a token after it are split, for one way in which the text could go on.

    Attributes:
        cuts: boundaries inside the text, counted from its end.
        seam: whether there is one between text and token.
        ahead: what has to come next for this, if the last pre-token goes on with it.
    """

    cuts: tuple[int, ...]
    seam: bool
    ahead: _Ahead | None = None


@dataclass(frozen=True)
class _Kinds:
    """How each token of a vocabulary is split after a text.

    Attributes:
        kinds: the different ways.
        of: which of them is each token's.
        open: the tokens of those kinds that depend on what comes next.
        borders: of the texts for which this holds; () for all of their shape, as nothing is split inside them.
    """

    kinds: list[tuple[_Outcome, ...]]
    of: Int[np.ndarray, " v"]
    open: Mapping[int, Int[np.ndarray, " n"]]
    borders: tuple[int, ...]


class ByteLevelValidity(Validity):
    """Rules of byte-level BPE with a splitting pattern of GPT-2's kind.

    A token may follow iff, for some continuation, no pre-token ends inside it, pre-tokens end inside the text only
    where tokens do, and all neighbours inside one pre-token are valid pairs. Which continuations can make a difference
    is asked of the pre-tokenizer: white space, apostrophes and, with some patterns, capitals wait for what follows. How
    a text and a token are split depends on their `shape` alone, so the tokenizer's own pre-tokenizer is run once for
    each pair of shapes (a vocabulary of 49,000 has some 600), and one mask costs a few operations on whole
    vocabularies.

    Bytes that are no UTF-8 are pre-tokens of their own, as in `ByteVocab.encode`. Only a character that has begun and
    could still be completed is taken for one that will be.

    Args:
        vocab: the vocabulary.
        pairs: its pairs.
        remembered: how many masks are kept, and how many tables of splits.
    """

    def __init__(self, vocab: ByteVocab, pairs: PairValidity, remembered: int = 256) -> None:
        self.vocab = vocab
        self.pairs = pairs
        self._masks: OrderedDict[tuple[object, ...], Bool[np.ndarray, " v"]] = OrderedDict()
        self._remembered = remembered
        self._kinds: OrderedDict[tuple[object, ...], _Kinds] = OrderedDict()
        self._known: dict[tuple[int, _Ahead], bool] = {}
        self._fits: dict[_Ahead, tuple[Int[np.ndarray, " n"], list[tuple[int, _Ahead]]]] = {}
        self._reads: dict[tuple[bytes, int], list[tuple[Int[np.ndarray, " n"], _Read]]] = {}
        self._nexts: dict[tuple[str, ...], tuple[bytes, ...]] = {}
        self._begins: OrderedDict[bytes, int] = OrderedDict()
        self._bytes = [data or b"" for data in vocab.token_bytes]

    def extend(self, context: Context, token: int) -> Context:
        """The context after one more token."""
        data = self._bytes[token]
        text = context.text + data
        edges = [edge + len(data) for edge in context.edges]
        joins = [edge + len(data) for edge in context.joins]
        if context.text:
            edges.append(len(data))
            if not self.pairs.pair(context.last, token):
                joins.append(len(data))
        cuts = self._cuts(text)
        inside = {len(text) - cut for cut in cuts if 0 < cut < len(text)}
        final = inside <= set(edges) and set(joins) <= inside
        text = text[self._start(text) :]
        return Context(
            text,
            tuple(e for e in edges if e < len(text)),
            tuple(e for e in joins if e < len(text)),
            token,
            final,
        )

    def _cuts(self, text: bytes) -> list[int]:
        return [end for _, end in self.vocab.pretoken_spans(text)]

    def _start(self, text: bytes) -> int:
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
        followed = [(y, self._cuts(body + y)) for y in map(str.encode, _NEXT)]
        for start in starts[:0:-1]:
            if all(
                start in cuts
                and [c for c in cuts if c > start] == [start + c for c in self._cuts(body[start:] + y)]
                for y, cuts in followed
            ):
                return start
        return 0

    def boundary(self, data: bytes) -> int:
        """The start of the last pre-token but two, if what follows it is not all white space.

        The patterns look at most two characters ahead, so whatever is appended leaves it where it is.
        """
        body, _ = split_partial(data)
        spans = self.vocab.pretoken_spans(body)
        for k in range(len(spans) - 3, 0, -1):
            start = spans[k][0]
            if (
                body[start:].strip()
                and not body[start : spans[k][1]].isspace()
                and not body[:start].endswith(b"'")
            ):
                return start
        return 0

    def mask(self, context: Context) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""
        armed = _armed(context.text)
        form = shape(context.text)
        table = self._kinds_after(context.text, form, armed)
        # In a long word, splits can change only near its end; in white space, anywhere.
        near = len(context.text) if context.text.isspace() else _LEAD
        marks = tuple(e for e in context.edges if e <= near or e in table.borders), context.joins
        key = (form, marks, context.last, split_partial(context.text)[1], table.borders)
        found = self._masks.get(key)
        if found is not None:
            self._masks.move_to_end(key)
            return found
        found = self._mask(context, table)
        found.setflags(write=False)
        self._masks[key] = found
        if len(self._masks) > self._remembered:
            self._masks.popitem(last=False)
        return found

    def _mask(self, context: Context, table: _Kinds) -> Bool[np.ndarray, " v"]:
        kinds, kind_of = table.kinds, table.of
        row = self.pairs.row(context.last) if context.last >= 0 else self.pairs.reachable
        edges, joins = set(context.edges), set(context.joins)
        # 0: no; 1: yes; 2: if it is a valid pair with the last token
        verdicts = np.zeros(len(kinds), np.int8)
        later: list[tuple[int, list[_Outcome]]] = []
        for k, outcomes in enumerate(kinds):
            fit = [o for o in outcomes if edges.issuperset(o.cuts) and joins.issubset(o.cuts)]
            sure = [o for o in fit if o.ahead is None]
            if sure:
                verdicts[k] = 1 if any(o.seam for o in sure) else 2
            if open_ := [o for o in fit if o.ahead is not None]:
                later.append((k, open_))
        verdict = verdicts[kind_of]
        mask = ((verdict == 1) | ((verdict == 2) & row)) & self.pairs.reachable
        for k, open_ends in later:
            tokens = table.open[k]
            paired = row[tokens]
            for token, pair in zip(
                tokens[~mask[tokens]].tolist(), paired[~mask[tokens]].tolist(), strict=True
            ):
                mask[token] = any(
                    (pair or o.seam) and o.ahead is not None and self._goes_on(token, o.ahead)
                    for o in open_ends
                )
        return mask

    def _kinds_after(self, text: bytes, form: tuple[str, ...], armed: int) -> _Kinds:
        """The different ways in which tokens are split after a text, and which one is each token's.

        Texts of one shape are split alike, but where that is, counted in bytes, depends on how long their runs of
        letters and symbols are: what is found for one text holds for another with the same borders, and for any other
        only if nothing is split inside it.
        """
        _, partial = split_partial(text)
        ends = borders(text)
        for key in ((form, partial, ()), (form, partial, ends)):
            if key in self._kinds:
                self._kinds.move_to_end(key)
                return self._kinds[key]
        tokens, shape_of = self._token_shapes(armed)
        numbers: dict[tuple[_Outcome, ...], int] = {}
        of_shape = np.array(
            [numbers.setdefault(self._split(text, self._bytes[t]), len(numbers)) for t in tokens], np.int32
        )
        kind_of = of_shape[shape_of]
        if partial:  # tokens that complete the character: what they are depends on both halves
            seen: dict[tuple[str, ...], int] = {}
            for token in self._continuing:
                joint = shape(partial + self._bytes[token], 2)
                if joint not in seen:
                    seen[joint] = numbers.setdefault(self._split(text, self._bytes[token]), len(numbers))
                kind_of[token] = seen[joint]
        splits = any(outcome.cuts for outcomes in numbers for outcome in outcomes)
        open_ = {
            k: np.flatnonzero((kind_of == k) & self.pairs.reachable)
            for outcomes, k in numbers.items()
            if any(outcome.ahead is not None for outcome in outcomes)
        }
        found = _Kinds(list(numbers), kind_of, open_, ends if splits else ())
        self._kinds[form, partial, found.borders] = found
        if len(self._kinds) > self._remembered:
            self._kinds.popitem(last=False)
        return found

    def _token_shapes(self, armed: int) -> tuple[list[int], Int[np.ndarray, " v"]]:
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
        shape_of = np.zeros(len(self._bytes), np.int64)
        for token, data in enumerate(self._bytes):
            form = shape(data, armed)
            number = numbers.setdefault(form, len(numbers))
            if number == len(tokens):
                tokens.append(token)
            shape_of[token] = number
        return tokens, shape_of

    @cached_property
    def _continuing(self) -> list[int]:
        return [token for token, data in enumerate(self._bytes) if data and 0x80 <= data[0] < 0xC0]

    def _split(self, text: bytes, token: bytes) -> tuple[_Outcome, ...]:
        """The ways in which a token after a text can be split, depending on what comes after it."""
        if not token:
            return ()
        whole = text + token
        body, partial = split_partial(whole)
        armed = _armed(body)
        found: dict[_Outcome, None] = {}
        for longer in self._continued(body, partial):
            cuts = self._cuts(longer)
            inside = [cut for cut in cuts if cut < len(whole)]
            if any(cut > len(text) for cut in inside):
                continue
            ahead = None
            if len(whole) not in cuts:
                end = min(cut for cut in cuts if cut > len(whole))
                rest = kinds(longer[len(body) : end].decode(), armed)[0]
                ahead = _Ahead(partial, tuple(rest), end < len(longer), armed)
            found.setdefault(
                _Outcome(
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
            end, armed = len(tail.encode()), _armed(text)
            ways: dict[tuple[tuple[int, ...], tuple[str, ...]], bytes] = {}
            for y in ("", *_NEXT):
                cuts = self._cuts((tail + y).encode())
                joined = () if end in cuts else tuple(kinds(y, armed)[0])
                ways.setdefault((tuple(c for c in cuts if c < end), joined), y.encode())
            alike = len({before for before, _ in ways}) == 1
            self._nexts[key] = (b"",) if alike else tuple(ways.values())
        return self._nexts[key]

    def _goes_on(self, token: int, ahead: _Ahead) -> bool:
        """Whether some tokens that begin as ``ahead`` says may follow inside the same pre-token."""
        key = (token, ahead)
        if key not in self._known:
            whole, begun = self._fitting(ahead)
            self._known[key] = bool(self.pairs.row(token)[whole].any()) or any(
                self.pairs.pair(token, v) and self._goes_on(v, further) for v, further in begun
            )
        return self._known[key]

    def _fitting(self, ahead: _Ahead) -> tuple[Int[np.ndarray, " n"], list[tuple[int, _Ahead]]]:
        """Tokens that are all of what has to come next, and those that are the first of it, with what is left."""
        if ahead not in self._fits:
            whole: list[Int[np.ndarray, " n"]] = []
            begun: list[tuple[int, _Ahead]] = []
            for tokens, read in self._beginning(ahead.begun, ahead.armed):
                if read.fills(ahead):
                    whole.append(tokens)
                elif (further := read.left(ahead)) is not None:
                    begun.extend((token, further) for token in tokens.tolist())
            self._fits[ahead] = np.concatenate([np.zeros(0, np.int64), *whole]), begun
        return self._fits[ahead]

    def _beginning(self, begun: bytes, armed: int) -> list[tuple[Int[np.ndarray, " n"], _Read]]:
        """What tokens are where a character has begun; where none has, together those of one shape."""
        key = (begun, armed)
        if key not in self._reads:
            if begun:
                found = [(np.array([token]), self._bytes[token]) for token in self._continuing]
            else:
                tokens, shape_of = self._token_shapes(armed)
                order = np.argsort(shape_of, kind="stable")
                parts = np.split(order, np.cumsum(np.bincount(shape_of, minlength=len(tokens)))[:-1])
                found = [(part, self._bytes[token]) for part, token in zip(parts, tokens, strict=True)]
            self._reads[key] = [(tokens, _read(begun + data, armed)) for tokens, data in found if data]
        return self._reads[key]


@dataclass(frozen=True)
class _Read:
    """What a token's characters are, after the beginning of one.

    Attributes:
        kinds: of its whole characters.
        armed: how many characters after them may belong to a contraction.
        tail: the beginning of a character that it ends with.
    """

    kinds: tuple[str, ...]
    armed: int
    tail: bytes

    def fills(self, ahead: _Ahead) -> bool:
        """Whether this is all of what has to come next."""
        n = len(ahead.rest)
        if self.kinds[:n] != ahead.rest:
            return False
        if ahead.closed:
            return len(self.kinds) == n and not self.tail
        return all(_goes_with(kind, ahead.rest[-1]) for kind in self.kinds[n:])

    def left(self, ahead: _Ahead) -> _Ahead | None:
        """What has still to come, if this is the first of it."""
        n = len(self.kinds)
        if n >= len(ahead.rest) or self.kinds != ahead.rest[:n]:
            return None
        if self.tail and ahead.rest[n] not in completing_kinds(self.tail):
            return None
        return _Ahead(self.tail, ahead.rest[n:], ahead.closed, self.armed)


@lru_cache(maxsize=1 << 16)
def _read(data: bytes, armed: int) -> _Read:
    body, tail = split_partial(data)
    found, armed = kinds(body.decode("utf-8", "surrogateescape"), armed)
    return _Read(tuple(found), armed, tail)


def _goes_with(kind: str, last: str) -> bool:
    """Whether a kind of character may be in one pre-token with what came last, as far as kinds can tell."""
    return kind == last or (kind[0] in "LM" and last[0] in "LM") or (kind.isspace() and last.isspace())


def _armed(text: bytes) -> int:
    """How many of the next characters could belong to a contraction that has begun."""
    if text.endswith(b"'"):
        return 2
    return 1 if text[-2:-1] == b"'" else 0


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

    def extend(self, context: Context, token: int) -> Context:
        """The context after one more token."""
        text = b""
        if self._pieces[token]:
            text = context.text + self._bytes[token]
            if not completions(text):
                text = b""
        return Context(text=text, last=token, final=not text)

    def mask(self, context: Context) -> Bool[np.ndarray, " v"]:
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


class Anything(Validity):
    """No rules: every way of cutting a text into tokens counts. What sampling tokens amounts to."""

    def __init__(self, vocab: ByteVocab) -> None:
        self._all = np.array([data is not None for data in vocab.token_bytes], bool)

    def extend(self, context: Context, token: int) -> Context:
        """The context after one more token."""
        return Context(last=token)

    def mask(self, context: Context) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""
        return self._all

    def boundary(self, data: bytes) -> int:
        """There is none but the beginning."""
        return 0
