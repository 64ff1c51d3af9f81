"""Which tokens may follow which, against the tokenizer itself."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest
from tokenizers import Regex
from transformers import PreTrainedTokenizerFast

from tests.predict.test_byte_probabilities import CORPUS, TEXTS
from tests.predict.toys import GPT2, GPT4O, bpe, random_merges, sentencepiece
from tokenry.predict.lm.byte_probabilities.pairs import PairValidity
from tokenry.predict.lm.byte_probabilities.rules import validity_of
from tokenry.predict.lm.byte_probabilities.shapes import completions, shape, split_partial
from tokenry.predict.lm.byte_probabilities.validity import ValidityContext
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab

# Texts that could follow: enough kinds of characters for every way of splitting to show.
AFTER = ["", *"aAz1.'e l\n\r\t(中é\u0301ł🙂ᚠ𐐀żя—\u00a0½", "re", "ve", "s", "x y", " b", "\n\nb"]


@pytest.mark.parametrize("seed", range(8))
def test_pairs_equal_encoding(seed: int) -> None:
    rng = random.Random(seed)
    merges = random_merges(b"abc", 12, rng)
    if seed >= 4:
        rng.shuffle(merges)  # merges of tokens that are made later
    vocab = ByteVocab.from_tokenizer(bpe(merges, b"abc"))
    pairs = PairValidity(vocab, remembered=3)
    regular = [token for token, data in enumerate(vocab.token_bytes) if data]
    for u in regular:
        alone = vocab.encode_pretoken(vocab.token_bytes[u]) == [u]
        assert pairs.reachable[u] == alone
        row = pairs.row(u)
        for v in regular:
            both = vocab.encode_pretoken(vocab.token_bytes[u] + vocab.token_bytes[v]) == [u, v]
            assert row[v] == pairs.pair(u, v) == both


def test_several_merges_of_one_token() -> None:
    """A converted tokenizer lists every way to make a token; only one of them happens."""
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b"a"), (b"c", b"a")]
    vocab = ByteVocab.from_tokenizer(bpe(merges, b"abc"))
    pairs = PairValidity(vocab)
    for u in vocab.ids.values():
        for v in vocab.ids.values():
            both = vocab.encode_pretoken(vocab.token_bytes[u] + vocab.token_bytes[v]) == [u, v]
            assert pairs.row(u)[v] == both


@pytest.mark.parametrize("name", ["gpt2", "gpt4", "words"])
@pytest.mark.parametrize("size", [300, 360])
def test_masks_equal_the_tokenizer(name: str, size: int) -> None:
    tokenizer: PreTrainedTokenizerFast = train_bpe(CORPUS, size, pre_tokenizer=name, min_frequency=1)
    vocab = ByteVocab.from_tokenizer(tokenizer)
    validity = validity_of(vocab)
    rng = random.Random(size)
    regular = [token for token, data in enumerate(vocab.token_bytes) if data]
    ahead = [y.encode() for y in AFTER]
    for text in TEXTS:
        tokens = vocab.encode(text.encode())
        cut = rng.randrange(len(tokens) + 1)
        context = ValidityContext()
        for token in tokens[:cut]:
            assert validity.mask(context)[token]
            context = validity.extend(context, token)
        before = vocab.decode(tokens[:cut])
        assert context.final == (vocab.encode(before) == tokens[:cut])
        mask = validity.mask(context)
        for token in rng.sample(regular, 40):
            whole = before + vocab.token_bytes[token]
            body, partial = split_partial(whole)
            bodies = [body + char.encode() for char in completions(partial)] if partial else [whole]
            found = any(
                vocab.encode(full + y)[: cut + 1] == [*tokens[:cut], token] for full in bodies for y in ahead
            )
            if found:
                assert mask[token], (text, before, vocab.token_bytes[token])
            elif mask[token]:  # only where what would have to follow is not among the texts tried
                assert partial, (text, before, vocab.token_bytes[token])


SPACES = [
    [(b"\xe3", b"\x80"), (b" ", b" "), (b" ", b"a"), (b"\xc2", b"\xa0"), (b" ", b"\xc2"), (b"'", b"'")],
    [(b" ", b"\xe3"), (b"\x80", b"\x80"), (b"a", b"'"), (b" ", b"\xc2"), (b"\xa0", b" ")],
    [
        (b"\xe3", b"\x80"),
        (b"\xe3\x80", b"\x80"),
        (b" ", b"\xe3"),
        (b" \xe3", b"\x80"),
        (b" ", b"'"),
        (b"\xa0", b"a"),
    ],
]
LETTERS = [
    [(b"a", b"'"), (b"'", b"r"), (b"r", b"e"), (b"B", b"a"), (b" ", b"a"), (b"\xaa", b"B")],
    [
        (b"'", b"s"),
        (b"r", b"e"),
        (b"'", b"re"),
        (b"\xc2", b"\xaa"),
        (b"\xc2\xaa", b"B"),
        (b"a", b"a"),
        (b"\n", b"\n"),
    ],
]


@pytest.mark.parametrize("pattern", [GPT2, GPT4O], ids=["gpt2", "gpt4o"])
@pytest.mark.parametrize(
    ("alphabet", "merges"),
    [
        *(("\u00a0 a\u3000'\u0080\u3020\u3800\u3820", m) for m in SPACES),
        *(("'ares B\nª", m) for m in LETTERS),
    ],
    ids=["spaces 1", "spaces 2", "spaces 3", "letters 1", "letters 2"],
)
def test_masks_are_all_that_the_tokenizer_gives_for_any_text(
    pattern: str, alphabet: str, merges: list[tuple[bytes, bytes]]
) -> None:
    """Every viable sequence over an alphabet that holds all characters its bytes can make, and no other."""
    data = bytes(sorted(set(alphabet.encode())))
    vocab = ByteVocab.from_tokenizer(bpe(merges, data, pattern))
    validity = validity_of(vocab)
    viable: dict[tuple[int, ...], set[int]] = {}
    for length in range(5):
        for text in itertools.product(alphabet, repeat=length):
            tokens = vocab.encode("".join(text).encode())
            for k, token in enumerate(tokens):
                viable.setdefault(tuple(tokens[:k]), set()).add(token)
    todo: list[tuple[tuple[int, ...], ValidityContext]] = [((), ValidityContext())]
    seen = 0
    while todo:
        tokens_, context = todo.pop()
        before, mask = vocab.decode(tokens_), validity.mask(context)
        for token in viable[tokens_]:
            assert mask[token], (before, vocab.token_bytes[token])
            # Two characters more tell what is viable and what is not.
            if len(characters(before + vocab.token_bytes[token])) <= 2:
                todo.append(((*tokens_, token), validity.extend(context, token)))
        for token in np.flatnonzero(mask).tolist():
            whole = characters(before + vocab.token_bytes[token])
            if len(whole) <= 2 and not BROKEN.search(whole):
                assert token in viable[tokens_], (before, vocab.token_bytes[token])
        seen += 1
    assert seen > 50


BROKEN = re.compile("[\udc80-\udcff]")


def characters(data: bytes) -> str:
    """A text without the beginning of a character at its end; bytes that are none at all stand for themselves."""
    return split_partial(data)[0].decode("utf-8", "surrogateescape")


def test_byte_pieces_lead_only_to_characters_without_a_piece() -> None:
    """SentencePiece: no lead byte of which every character has a piece, and never the sign that is read as a space."""
    pieces = [chr(code) for code in range(0x80, 0xC0)]  # everything that begins with 0xC2
    vocab = ByteVocab.from_tokenizer(sentencepiece(["▁", *pieces], []))
    validity = validity_of(vocab)
    start = validity.mask(ValidityContext())
    assert not start[vocab.byte_ids[0xC2]]
    assert start[vocab.byte_ids[0xC3]]
    context = ValidityContext()
    for byte in b"\xe2\x96":
        assert validity.mask(context)[vocab.byte_ids[byte]]
        context = validity.extend(context, vocab.byte_ids[byte])
    assert not validity.mask(context)[vocab.byte_ids[0x81]]  # U+2581
    assert validity.mask(context)[vocab.byte_ids[0x82]]


WORDS = ["comp", "compiler", "x", "rest", "ve", "élan", "日本", "12", "a1"]


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
def test_what_is_remembered_holds_for_the_text_at_hand(name: str) -> None:
    """Texts of one shape share tables, but a word behind a quote is cut elsewhere if it is longer."""
    vocab = ByteVocab.from_tokenizer(train_bpe([*CORPUS, *WORDS], 320, pre_tokenizer=name, min_frequency=1))
    validity = validity_of(vocab)
    for quote in (" '", "'", "''", "«'", "!!!'", '"', "\n    '"):
        for word in WORDS:
            context = ValidityContext()
            for token in vocab.encode(f"[{quote}{word}".encode()):
                assert validity.mask(context)[token]
                context = validity.extend(context, token)
            np.testing.assert_array_equal(validity.mask(context), validity_of(vocab).mask(context))


def test_boundaries_hold_whatever_follows() -> None:
    rng = random.Random(0)
    for name in ("gpt2", "gpt4", "words", Regex(GPT4O)):
        vocab = ByteVocab.from_tokenizer(train_bpe(CORPUS, 320, pre_tokenizer=name, min_frequency=1))
        validity = validity_of(vocab)
        for text in (*TEXTS, "中Bc 日本Ja's we'Re AÉb'll"):
            for end in range(len(text) + 1):
                data = text[:end].encode()
                at = validity.boundary(data)
                head = vocab.encode(data[:at])
                for after in rng.sample(AFTER, 8):
                    assert vocab.encode(data + after.encode())[: len(head)] == head


def test_partial_characters() -> None:
    assert split_partial("aż".encode()) == ("aż".encode(), b"")
    assert split_partial("aż".encode()[:-1]) == (b"a", b"\xc5")
    assert split_partial("🙂".encode()[:3]) == (b"", "🙂".encode()[:3])
    assert split_partial(b"a\x80\x80") == (b"a\x80\x80", b"")
    assert split_partial(b"\xc0") == (b"\xc0", b"")
    assert completions(b"\xff") == ()
    assert all(c.encode().startswith(b"\xc2") for c in completions(b"\xc2"))
    assert "\u00a0" in completions(b"\xc2")


def test_shapes_keep_what_splitting_can_see() -> None:
    assert shape(b"abcdef") == shape(b"xyz") != shape(b"x y")
    assert shape(b"'s") != shape(b"'x")
    assert shape(b"12") != shape(b"123")
    assert shape(b"re") == shape(b"xa")
    assert shape(b"re", armed=2) != shape(b"xa", armed=2)


def test_masks_are_read_only() -> None:
    vocab = ByteVocab.from_tokenizer(bpe([(b"a", b"b")], b"abc"))
    mask = validity_of(vocab).mask(ValidityContext())
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True
    assert np.array_equal(mask, validity_of(vocab).mask(ValidityContext()))
