"""Which tokens may follow which in what byte-level BPE gives, with a splitting pattern that may look ahead."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from tokenry.predict.lm.byte_probabilities.pairs import PairValidity
from tokenry.predict.lm.byte_probabilities.shapes import completing_kinds, kinds, shape, split_partial
from tokenry.predict.lm.byte_probabilities.splits import Ahead, SplitOutcome, Splits, Splitter, armed_at
from tokenry.predict.lm.byte_probabilities.validity import Validity, ValidityContext
from tokenry.text.vocabulary import ByteVocab

_LEAD = 32  # how far back the marks of a context are looked at


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
        self.splitter = Splitter(vocab, pairs.reachable, remembered)
        self._masks: OrderedDict[tuple[object, ...], Bool[np.ndarray, " v"]] = OrderedDict()
        self._remembered = remembered
        self._known: dict[tuple[int, Ahead], bool] = {}
        self._fits: dict[Ahead, tuple[Int[np.ndarray, " n"], list[tuple[int, Ahead]]]] = {}
        self._reads: dict[tuple[bytes, int], list[tuple[Int[np.ndarray, " n"], _Read]]] = {}

    def extend(self, context: ValidityContext, token: int) -> ValidityContext:
        """The context after one more token."""
        data = self.splitter.bytes[token]
        text = context.text + data
        edges = [edge + len(data) for edge in context.edges]
        joins = [edge + len(data) for edge in context.joins]
        if context.text:
            edges.append(len(data))
            if not self.pairs.pair(context.last, token):
                joins.append(len(data))
        cuts = self.splitter.cuts(text)
        inside = {len(text) - cut for cut in cuts if 0 < cut < len(text)}
        final = inside <= set(edges) and set(joins) <= inside
        text = text[self.splitter.start(text) :]
        return ValidityContext(
            text,
            tuple(e for e in edges if e < len(text)),
            tuple(e for e in joins if e < len(text)),
            token,
            final,
        )

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

    def mask(self, context: ValidityContext) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""
        armed = armed_at(context.text)
        form = shape(context.text)
        table = self.splitter.after(context.text, form, armed)
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

    def _mask(self, context: ValidityContext, table: Splits) -> Bool[np.ndarray, " v"]:
        kinds, kind_of = table.kinds, table.of
        row = self.pairs.row(context.last) if context.last >= 0 else self.pairs.reachable
        edges, joins = set(context.edges), set(context.joins)
        # 0: no; 1: yes; 2: if it is a valid pair with the last token
        verdicts = np.zeros(len(kinds), np.int8)
        later: list[tuple[int, list[SplitOutcome]]] = []
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

    def _goes_on(self, token: int, ahead: Ahead) -> bool:
        """Whether some tokens that begin as ``ahead`` says may follow inside the same pre-token."""
        key = (token, ahead)
        if key not in self._known:
            whole, begun = self._fitting(ahead)
            self._known[key] = bool(self.pairs.row(token)[whole].any()) or any(
                self.pairs.pair(token, v) and self._goes_on(v, further) for v, further in begun
            )
        return self._known[key]

    def _fitting(self, ahead: Ahead) -> tuple[Int[np.ndarray, " n"], list[tuple[int, Ahead]]]:
        """Tokens that are all of what has to come next, and those that are the first of it, with what is left."""
        if ahead not in self._fits:
            whole: list[Int[np.ndarray, " n"]] = []
            begun: list[tuple[int, Ahead]] = []
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
                found = [
                    (np.array([token]), self.splitter.bytes[token]) for token in self.splitter.continuing
                ]
            else:
                tokens, shape_of = self.splitter.token_shapes(armed)
                order = np.argsort(shape_of, kind="stable")
                parts = np.split(order, np.cumsum(np.bincount(shape_of, minlength=len(tokens)))[:-1])
                found = [
                    (part, self.splitter.bytes[token]) for part, token in zip(parts, tokens, strict=True)
                ]
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

    def fills(self, ahead: Ahead) -> bool:
        """Whether this is all of what has to come next."""
        n = len(ahead.rest)
        if self.kinds[:n] != ahead.rest:
            return False
        if ahead.closed:
            return len(self.kinds) == n and not self.tail
        return all(_goes_with(kind, ahead.rest[-1]) for kind in self.kinds[n:])

    def left(self, ahead: Ahead) -> Ahead | None:
        """What has still to come, if this is the first of it."""
        n = len(self.kinds)
        if n >= len(ahead.rest) or self.kinds != ahead.rest[:n]:
            return None
        if self.tail and ahead.rest[n] not in completing_kinds(self.tail):
            return None
        return Ahead(self.tail, ahead.rest[n:], ahead.closed, self.armed)


@lru_cache(maxsize=1 << 16)
def _read(data: bytes, armed: int) -> _Read:
    body, tail = split_partial(data)
    found, armed = kinds(body.decode("utf-8", "surrogateescape"), armed)
    return _Read(tuple(found), armed, tail)


def _goes_with(kind: str, last: str) -> bool:
    """Whether a kind of character may be in one pre-token with what came last, as far as kinds can tell."""
    return kind == last or (kind[0] in "LM" and last[0] in "LM") or (kind.isspace() and last.isspace())
