"""Spelling noise: as much as was asked for, and nothing but letters."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.text.noise import replace_letters, swap_letters
from tokenry.text.words import WordSplitter
from tokenry.tokens.errors import InputError

TEXT = "It was the best of times, it was the worst of times. " * 400


@pytest.mark.parametrize("noise", [swap_letters, replace_letters])
@given(text=st.text(max_size=40), share=st.floats(0, 1))
@settings(deadline=None)
def test_only_letters_change(noise, text: str, share: float) -> None:  # type: ignore[no-untyped-def]
    noisy = noise(text, share)
    assert len(noisy) == len(text)
    assert all(a == b or (a.isalpha() and b.isalpha()) for a, b in zip(text, noisy, strict=True))
    assert noise(text, 0.0) == text


@given(text=st.text(alphabet="abcDE é,", max_size=30), share=st.floats(0, 1), seed=st.integers(0, 50))
@settings(deadline=None)
def test_swapping_moves_each_letter_by_one_at_most(text: str, share: float, seed: int) -> None:
    noisy, i = swap_letters(text, share, seed), 0
    while i < len(text):
        if noisy[i] == text[i]:
            i += 1
        else:
            assert (noisy[i], noisy[i + 1]) == (text[i + 1], text[i])
            i += 2


def test_the_share_is_that_of_letters() -> None:
    letters = sum(c.isalpha() for c in TEXT)

    def changed(noisy: str) -> float:
        return sum(a != b for a, b in zip(TEXT, noisy, strict=True)) / letters

    assert 0.06 < changed(swap_letters(TEXT, 0.1)) <= 0.1
    assert 0.085 < changed(replace_letters(TEXT, 0.1)) < 0.11
    assert Counter(swap_letters(TEXT, 0.5)) == Counter(TEXT)
    assert swap_letters(TEXT, 0.1, seed=1) != swap_letters(TEXT, 0.1, seed=2)


def test_words_stay_words_and_capitals_capitals() -> None:
    split = WordSplitter("punctuation").split
    noisy = replace_letters(TEXT, 0.5)
    assert list(map(len, split(noisy))) == list(map(len, split(TEXT)))
    assert [c.isupper() for c in noisy] == [c.isupper() for c in TEXT]


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"1\.5"):
        swap_letters("a", 1.5)
