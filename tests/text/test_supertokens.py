"""Supertokens: the second stage goes on where the first stopped, and stays within hard boundaries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tokenry.text.training import train_bpe
from tokenry.text.transplant.tokenadapt.supertokens import train_supertokens
from tokenry.tokens.errors import InputError

SIZE = 1500
FIRST = 257 + round(0.7 * (SIZE - 257))


@pytest.fixture(scope="module")
def supertokens(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return train_supertokens(texts, SIZE)


@pytest.fixture(scope="module")
def words(texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """What the first stage alone learns."""
    return train_bpe(texts, FIRST)


def model(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]


def test_seven_tenths_of_the_merges_are_those_of_ordinary_bpe(
    supertokens: PreTrainedTokenizerFast, words: PreTrainedTokenizerFast
) -> None:
    first = model(words)["merges"]
    assert model(supertokens)["merges"][: len(first)] == first
    assert {t for t, i in supertokens.get_vocab().items() if i < FIRST} == set(words.get_vocab())


def _several(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Tokens in which a space follows a letter."""
    return [token for token in tokenizer.get_vocab() if re.search(r"[A-Za-z]Ġ", token)]


def test_some_tokens_are_several_words(supertokens: PreTrainedTokenizerFast) -> None:
    several = _several(supertokens)
    assert "ĠofĠthe" in several
    assert len(several) >= 20
    assert max(token.lstrip("Ġ").count("Ġ") for token in several) <= 3  # four words at most


def test_no_token_goes_over_digits_punctuation_or_lines(supertokens: PreTrainedTokenizerFast) -> None:
    for token in supertokens.get_vocab().keys() - {"<|endoftext|>"}:
        signs = {char.isalpha() and char.isascii() for char in token if char.isascii()}
        assert len(signs) <= 1 or token.startswith("'"), token


def test_supertokens_are_joined_tokens_of_the_first_stage(
    supertokens: PreTrainedTokenizerFast, words: PreTrainedTokenizerFast, texts: tuple[str, ...]
) -> None:
    """The composed model cuts nowhere that the first stage does not cut: its merges come first by rank."""
    held_out = (
        "the parser does not know whether the option takes an argument, or 2 of them; it's unclear\n    why"
    )
    for text in (held_out, texts[1]):
        coarse = [end for _, end in _spans(supertokens, text)]
        assert set(coarse) <= {end for _, end in _spans(words, text)}
        assert len(coarse) < len(_spans(words, text))


def test_second_stage_merges_are_made_in_the_order_they_were_learned(
    supertokens: PreTrainedTokenizerFast, words: PreTrainedTokenizerFast, texts: tuple[str, ...]
) -> None:
    """Encoding equals BPE over tokens of the first stage with the second stage's merges, worked out by hand."""
    merges = model(supertokens)["merges"][len(model(words)["merges"]) :]
    rank = {(left, right): i for i, (left, right) in enumerate(merges)}
    core = supertokens.backend_tokenizer
    for line in texts[0].splitlines()[:400]:
        expected: list[str] = []
        for piece, _ in core.pre_tokenizer.pre_tokenize_str(line):
            tokens = words.tokenize(_text(piece))
            while ranked := [(rank[p], i) for i, p in enumerate(pairwise(tokens)) if p in rank]:
                _, i = min(ranked)
                tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
            expected += tokens
        assert supertokens.tokenize(line) == expected


def test_they_shorten_text(supertokens: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> None:
    same_size = train_bpe(texts, SIZE)
    assert sum(len(supertokens.encode(t)) for t in texts) < sum(len(same_size.encode(t)) for t in texts)


def test_the_seed_decides_the_chunks(texts: tuple[str, ...]) -> None:
    first, again, other = (train_supertokens(texts, 900, seed=seed).get_vocab() for seed in (0, 0, 1))
    assert first == again != other


def test_boundaries_everywhere_are_ordinary_words(texts: tuple[str, ...]) -> None:
    tokenizer = train_supertokens(texts, 900, boundary=1.0)
    assert not _several(tokenizer)


@pytest.mark.parametrize("options", [{"words": 0.0}, {"words": 1.5}, {"boundary": -0.1}, {"max_words": 0}])
def test_shares_that_are_none_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="are shares up to 1"):
        train_supertokens(["some text"], 300, **options)


def test_too_little_text_is_told() -> None:
    with pytest.raises(InputError, match=r"pairs for .* not for 2,000"):
        train_supertokens(["to be or not to be"], 2000)


def _spans(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[int, int]]:
    return tokenizer(text, return_offsets_mapping=True)["offset_mapping"]


def _text(piece: str) -> str:
    """A pre-token of ASCII text, out of the byte-level alphabet."""
    return piece.replace("Ġ", " ").replace("Ċ", "\n").replace("ĉ", "\t")
