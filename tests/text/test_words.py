"""Cutting text into words: published examples, nothing lost, and a cut that does not depend on what follows."""

import time

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenry.text.words import SplitKind, WordSplitter, pieces
from tokenry.tokens.errors import InputError

KINDS: tuple[SplitKind, ...] = ("unicode", "whitespace", "punctuation", "gpt2")
# Characters on which the rules of UAX 29 turn: joiners, flags, marks, quotes between letters, kinds of whitespace.
TRICKY = st.sampled_from(
    [
        *"aBéñ9 .,'\"_-:;·\n\r\t\v日本語カナ한글ไทย\u00a0\u2003\u3000\u0301\u200d\u00ad\ufe0f\u2044\u02d7\u066cשׁא",
        "👩",
        "🇩",
        "🇪",
        "İ",
    ]
)
TEXT = st.lists(TRICKY | st.characters(exclude_categories=["Cs"]), max_size=24).map("".join)


@pytest.mark.parametrize(
    ("text", "cap", "words"),
    [
        ("Hello, world!", None, ["Hello,", " world!"]),
        ("howAreYou", None, ["how", "Are", "You"]),
        ("how_are_you", None, ["how_", "are_", "you"]),
        ("Hello, world!", 4, ["Hell", "o,", " wor", "ld!"]),
        ("für", 2, ["f", "ü", "r"]),
        ("", None, []),
        ("don't (stop)", None, ["don'", "t", " (", "stop)"]),
        ("a  b\n\tc", None, ["a", "  ", "b", "\n", "\t", "c"]),
        ("a\r\nb", None, ["a", "\r\n", "b"]),
        ("3.14 日本", None, ["3.", "14", " 日", "本"]),
        ("👩\u200d👧🇩🇪", None, ["👩\u200d👧", "🇩🇪"]),
    ],
)
def test_unicode_words_are_those_of_hat(text: str, cap: int | None, words: list[str]) -> None:
    assert WordSplitter("unicode", cap).split(text) == [word.encode() for word in words]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("whitespace", ["  ", "I'll ", "go,  ", "now!\n"]),
        ("punctuation", ["  I", "'", "ll", " go", ",", "  now", "!", "\n"]),
        ("gpt2", [" ", " I", "'ll", " go", ",", " ", " now", "!", "\n"]),
    ],
)
def test_the_other_kinds(kind: SplitKind, words: list[str]) -> None:
    assert WordSplitter(kind).split("  I'll go,  now!\n") == [word.encode() for word in words]


def test_punctuation_words_are_those_of_berts_basic_tokenizer() -> None:
    from tokenizers.pre_tokenizers import BertPreTokenizer

    text = "L'été, $5.00 (a+b) = x_1; 'so' e-mail\tC++ #1!"
    words = [word.strip().decode() for word in WordSplitter("punctuation").split(text)]
    assert words == [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [None, 1, 3, 7])
@given(text=TEXT | st.binary(max_size=24))
@settings(deadline=None, max_examples=100)
def test_joining_the_words_gives_the_text_back(kind: SplitKind, cap: int | None, text: str | bytes) -> None:
    words = WordSplitter(kind, cap).split(text)
    assert WordSplitter.join(words) == (text if isinstance(text, bytes) else text.encode())
    assert all(words)
    if cap is not None:
        assert max(map(len, words), default=0) <= cap


@given(text=TEXT)
@settings(deadline=None, max_examples=100)
def test_a_cap_of_a_whole_character_never_cuts_characters(text: str) -> None:
    for word in WordSplitter("unicode", 4).split(text):
        word.decode()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if WordSplitter(kind).prefix_stable])
@pytest.mark.parametrize("cap", [None, 4, 5])
@given(text=TEXT)
@example(text="a\u2044b can't 1,0")
@example(text="👩\u200d👧 🇩🇪🇫\r\n  aB")
@settings(deadline=None, max_examples=300)
def test_the_words_of_a_prefix_are_words_of_the_text(kind: SplitKind, cap: int | None, text: str) -> None:
    splitter = WordSplitter(kind, cap)
    whole = splitter.split(text)
    for end in range(len(text)):
        kept = splitter.split(text[:end])[:-1]
        assert kept == whole[: len(kept)]


def test_pieces_of_a_long_word_take_time_in_its_length() -> None:
    def seconds(n: int) -> float:
        start = time.process_time()
        assert len(pieces(b"a" * n, 8)) == n // 8
        return time.process_time() - start

    short, long = (min(seconds(n) for _ in range(3)) for n in (200_000, 1_600_000))
    # Eight times the word; with a copy of the rest for every piece, 64 times the time.
    assert long < 24 * short


def test_gpt2_says_that_it_is_not_stable() -> None:
    splitter = WordSplitter("gpt2")
    assert not splitter.prefix_stable
    assert splitter.split("x'l")[:-1] != splitter.split("x'll")[:2]


@given(text=TEXT)
@settings(deadline=None, max_examples=200)
def test_no_hat_word_goes_past_a_boundary_that_hat_cuts_at(text: str) -> None:
    for word in WordSplitter("unicode").split(text):
        assert not regex.search(r"\p{Ll}\p{Lu}|\p{P}[^\p{P}\p{WB=MidNum}]|\S\s|\s\s\S", word.decode()), word


def test_bytes_that_are_no_utf8_are_kept() -> None:
    assert WordSplitter("unicode").split(b"ab\xff\xc3 cd") == [b"ab", b"\xff", b"\xc3", b" cd"]


@pytest.mark.parametrize(
    ("kind", "cap", "message"), [("bpe", None, "Kind must be"), ("gpt2", 0, "max_bytes")]
)
def test_a_splitter_that_cannot_be_is_refused(kind: str, cap: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WordSplitter(kind, cap)


@pytest.mark.parametrize("code", [0xD800, 0xDCFF])
def test_half_a_surrogate_pair_is_refused(code: int) -> None:
    with pytest.raises(InputError, match="half a surrogate pair"):
        WordSplitter().split(f"a{chr(code)}b")
