"""KL3M: reserved strings, exact powers of two, short tokens, and what errors do to token boundaries."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from tokenry.text.kl3m import (
    SPECIAL_TOKENS,
    Corrupted,
    abbreviations,
    boundary_consistency,
    corrupt,
    domain_strings,
    train_characters,
    train_domain,
)
from tokenry.tokens.errors import InputError

NFKC = normalizers.NFKC().normalize_str


@pytest.fixture(scope="module")
def domain(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return train_domain(texts, 4096, extra=("MUST NOT", "Section 7"))


@pytest.fixture(scope="module")
def characters(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return train_characters(texts, 1024)


@pytest.fixture(scope="module")
def both(
    domain: PreTrainedTokenizerFast, characters: PreTrainedTokenizerFast
) -> tuple[PreTrainedTokenizerFast, ...]:
    return domain, characters


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_decoding_gives_the_normal_form(both: tuple[PreTrainedTokenizerFast, ...], text: str) -> None:
    for tokenizer in both:
        assert tokenizer.decode(tokenizer.encode(text)) == NFKC(text)


def test_the_librarys_normal_form_is_unicodes() -> None:
    """Of characters that are as old as the library's tables."""
    old = "".join(chr(c) for c in range(0x250)) + "ﬁ①Ⅳ㎏가ﾊﾞｶﾞ𝔘½"
    assert NFKC(old) == unicodedata.normalize("NFKC", old)


def test_special_tokens_are_the_first_thirteen(both: tuple[PreTrainedTokenizerFast, ...]) -> None:
    for tokenizer in both:
        assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(13))
        roles = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
        assert roles == ("<|start|>", "<|end|>", "<|pad|>", "<|unk|>")
        assert (tokenizer.sep_token, tokenizer.cls_token, tokenizer.mask_token) == SPECIAL_TOKENS[4:7]


def test_padding_is_on_the_left(both: tuple[PreTrainedTokenizerFast, ...]) -> None:
    for tokenizer in both:
        short, long = tokenizer(["a", "a longer text"], padding=True)["input_ids"]
        assert len(short) == len(long)
        assert short[0] == tokenizer.pad_token_id != short[-1]


@pytest.mark.parametrize("size", [2048, 4096])
def test_the_size_is_the_power_of_two(texts: tuple[str, ...], size: int) -> None:
    tokenizer = train_domain(texts, size)
    assert len(tokenizer) == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))


def test_each_custom_string_is_one_token(domain: PreTrainedTokenizerFast) -> None:
    strings = (*domain_strings(), "MUST NOT", "Section 7")
    assert [text for text in strings if len(domain.encode(text)) != 1] == []
    assert domain.tokenize("Section 7: MUST NOT")[0] == "Section 7"


def test_added_strings_are_found_inside_longer_ones(domain: PreTrainedTokenizerFast) -> None:
    assert domain.tokenize("12345") == ["123", "45"]
    assert domain.tokenize("2010s") == ["2010", "s"]


def test_what_fills_up_is_longer_than_what_is_reserved(domain: PreTrainedTokenizerFast) -> None:
    runs = [t for t in domain.get_vocab() if t and set(t) <= {" "} and len(t) > 1]
    assert {" " * n for n in range(2, 9)} <= set(runs)
    assert len(runs) > 7  # some of the reserved strings were learned anyway, and their places are filled
    assert domain.convert_tokens_to_ids(" " * 8) < domain.convert_tokens_to_ids(" " * 9)


def test_uncased_folds_text_and_strings(texts: tuple[str, ...]) -> None:
    tokenizer = train_domain(texts, 2048, lowercase=True, extra=("MUST",))
    assert tokenizer.decode(tokenizer.encode("You MUST <DIV")) == "you must <div"
    assert tokenizer.tokenize("MUST") == ["must"]
    assert all(len(tokenizer.encode(text)) == 1 for text in domain_strings(lowercase=True))


def test_the_reserved_strings_are_those_of_the_recipe() -> None:
    strings = domain_strings()
    assert list(strings) == sorted(set(strings))
    assert min(map(len, strings)) == 2
    for text in ("\n" * 8, "\r\n", "\t ", "######", "![", "https://", "........", "<div", "<DIV", "</div>", " href=",
                 '":"', "null", "]]>", "1776", "2049", "(a)", "(Z)", "(99)", "(ix)", "(IX)", "10", "999"):  # fmt: skip
        assert text in strings
    for text in ("1775", "2050", "(0)", "(100)", "1000", "9", "(i)x"):
        assert text not in strings
    folded = domain_strings(lowercase=True)
    assert set(folded) == {text.lower() for text in strings}


def test_abbreviations_are_taken_from_the_text() -> None:
    text = "See 42 U.S.C. 1983 and 5 F.2d 12, No. 7. The end. Sec. 3 of U.S.C. applies to Smith. Vol. 2, U.S.C. 1"
    assert abbreviations([text], least=2) == ("U.S.C.",)
    assert set(abbreviations([text], least=1)) == {"U.S.C.", "F.2d", "No.", "Sec.", "Vol."}
    assert abbreviations([text], least=1, limit=1) == ("U.S.C.",)


@pytest.mark.parametrize("longest", [2, 3, 4])
def test_character_tokens_are_no_longer_than_asked(texts: tuple[str, ...], longest: int) -> None:
    vocabulary = train_characters(texts, 512, max_chars=longest).get_vocab()
    assert max(len(token) for token in vocabulary.keys() - set(SPECIAL_TOKENS)) == longest


def test_three_characters_unless_the_vocabulary_is_large(characters: PreTrainedTokenizerFast) -> None:
    assert max(len(token) for token in characters.get_vocab().keys() - set(SPECIAL_TOKENS)) == 3


# --- errors in the text -----------------------------------------------------------------------------------------------


def test_identical_texts_have_all_boundaries_in_common(
    both: tuple[PreTrainedTokenizerFast, ...], texts: tuple[str, ...]
) -> None:
    for tokenizer in both:
        assert boundary_consistency(tokenizer, texts[1], texts[1]) == 1
        assert boundary_consistency(tokenizer, texts[1], corrupt(texts[1], 0.0)) == 1
        assert boundary_consistency(tokenizer, "", "") == 1


def test_consistency_is_shared_over_all_boundaries(characters: PreTrainedTokenizerFast) -> None:
    clean, noisy = "the parser", "tXe parser"

    def starts(text: str) -> set[int]:
        return {a for a, _ in characters(text, return_offsets_mapping=True)["offset_mapping"]}

    shared, union = starts(clean) & starts(noisy), starts(clean) | starts(noisy)
    assert shared < union
    assert boundary_consistency(characters, clean, noisy) == len(shared) / len(union)


def test_short_tokens_keep_more_boundaries(
    characters: PreTrainedTokenizerFast, domain: PreTrainedTokenizerFast, texts: tuple[str, ...]
) -> None:
    noisy = corrupt(texts[1], 0.05)
    assert boundary_consistency(characters, texts[1], noisy) > boundary_consistency(domain, texts[1], noisy)


@settings(deadline=None)
@given(
    text=st.text("abl1O0 é"),
    rate=st.floats(0, 1),
    seed=st.integers(0, 9),
    errors=st.lists(st.sampled_from(("substitute", "confuse", "drop", "swap")), min_size=1),
)
def test_errors_say_where_the_rest_comes_from(text: str, rate: float, seed: int, errors: list[str]) -> None:
    noisy = corrupt(text, rate, seed=seed, errors=errors)
    assert noisy == corrupt(text, rate, seed=seed, errors=errors)
    assert len(noisy.origin) == len(noisy.text) + 1
    assert noisy.origin[-1] == len(text)
    assert list(noisy.origin) == sorted(noisy.origin)
    if rate == 0:
        assert noisy == Corrupted(text, tuple(range(len(text) + 1)))
    if set(errors) == {"substitute"} and rate == 1:
        assert all(a != b for a, b in zip(text, noisy.text, strict=True))
    if set(errors) == {"drop"} and rate == 1:
        assert noisy.text == ""


def test_the_rate_is_a_share_of_the_characters() -> None:
    text = "x" * 10_000
    changed = sum(char != "x" for char in corrupt(text, 0.05, seed=3).text)
    assert 400 < changed < 600


def test_a_swap_exchanges_neighbours() -> None:
    assert corrupt("abcd", 1.0, errors=("swap",)).text == "badc"
    assert corrupt("abc", 1.0, errors=("swap",)).text == "bac"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 300, 3000, 4095])
def test_other_sizes_are_refused(size: int) -> None:
    for train in (train_domain, train_characters):
        with pytest.raises(InputError, match="power of two"):
            train(["text"], size)


def test_a_size_below_the_reserved_strings_is_refused() -> None:
    with pytest.raises(InputError, match="256 bytes, 13 special tokens and 1655 further entries"):
        train_domain(["text"], 1024)


def test_too_little_text_is_told() -> None:
    with pytest.raises(InputError, match="makes more than 3 bytes"):
        train_characters(["to be or not to be"], 1024)
    with pytest.raises(InputError, match="no text"):
        train_domain([], 2048)


def test_noisy_text_of_another_length_must_say_more(characters: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="3 characters, the clean one 4"):
        boundary_consistency(characters, "abcd", "abc")


@pytest.mark.parametrize(("rate", "errors"), [(-0.1, ("drop",)), (1.1, ("drop",)), (0.5, ("smear",))])
def test_errors_that_are_none_are_told(rate: float, errors: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"share between 0 and 1|not known"):
        corrupt("text", rate, errors=errors)
