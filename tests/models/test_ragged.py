"""Words as tensors: padding, equal words once, runs of similar length, and the same numbers as without all that."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenry.models.language.ragged import RaggedWords, by_length, pad_words, word_lengths
from tokenry.tokens.errors import InputError

PAD = 253
WORD = st.binary(min_size=1, max_size=9).map(lambda word: word.replace(b"\xfd", b"x"))
DOCUMENTS = st.lists(
    st.lists(WORD | st.sampled_from([b"the", b" of"]), max_size=6), min_size=1, max_size=4
).filter(any)


def digest(ids: Tensor, real: Tensor) -> Tensor:
    """A network of one word that minds the order of the units: two numbers a word."""
    places = torch.arange(1, ids.shape[1] + 1)
    return torch.stack([(ids * places * real).sum(1), real.sum(1)], dim=1).double()


def test_words_are_padded_behind_and_documents_on_the_side_that_is_asked_for() -> None:
    documents = [[b"ab", b"c"], [b"d"]]
    assert pad_words(documents, PAD).tolist() == [[[97, 98], [99, PAD]], [[100, PAD], [PAD, PAD]]]
    assert pad_words(documents, 0, offset=1, left=True).tolist() == [[[98, 99], [100, 0]], [[0, 0], [101, 0]]]


@given(documents=DOCUMENTS, merge=st.booleans())
@settings(deadline=None)
def test_encoding_is_that_of_each_word_alone(documents: list[list[bytes]], merge: bool) -> None:
    words = pad_words(documents, PAD)
    ragged = RaggedWords.of(words, PAD, merge=merge)
    encoded = ragged.encode(digest)
    assert encoded.shape == (*words.shape[:2], 2)
    for row, document in enumerate(documents):
        for column in range(words.shape[1]):
            word = document[column] if column < len(document) else b""
            expected = [sum(i * byte for i, byte in enumerate(word, 1)), len(word)]
            assert encoded[row, column].tolist() == expected
            assert bool(ragged.mask[row, column]) == bool(word)
    distinct = {word for document in documents for word in document}
    assert len(ragged.rows) == (len(distinct) if merge else sum(map(len, documents)))


@given(documents=DOCUMENTS, seed=st.integers(0, 9))
@settings(deadline=None)
def test_the_order_of_words_does_not_matter(documents: list[list[bytes]], seed: int) -> None:
    words = pad_words(documents, PAD)
    order = torch.randperm(words.shape[1], generator=torch.Generator().manual_seed(seed))
    straight = RaggedWords.of(words, PAD).encode(digest)
    assert torch.equal(RaggedWords.of(words[:, order], PAD).encode(digest), straight[:, order])


@given(lengths=st.lists(st.integers(1, 400), max_size=30))
@settings(deadline=None)
def test_groups_by_length_hold_every_word_once_and_are_never_twice_as_wide_as_needed(
    lengths: list[int],
) -> None:
    groups = list(by_length(torch.tensor(lengths, dtype=torch.int64)))
    assert sorted(i for some, _ in groups for i in some.tolist()) == list(range(len(lengths)))
    for some, width in groups:
        assert all(max(4, lengths[i]) <= max(4, width) < max(5, 2 * lengths[i] + 64) for i in some.tolist())
        assert width <= max(lengths)


def test_gradients_of_equal_words_add_up() -> None:
    table = torch.zeros(256, 1, requires_grad=True)
    words = pad_words([[b"a", b"b", b"a"]], PAD)
    RaggedWords.of(words, PAD).encode(lambda ids, real: table[ids[:, 0]]).sum().backward()
    assert table.grad is not None
    assert table.grad[[97, 98]].flatten().tolist() == [2, 1]


def test_lengths_of_words() -> None:
    assert word_lengths(pad_words([[b"ab", b"c"], [b"d"]], PAD), PAD).tolist() == [[2, 1], [1, 0]]


def test_no_word_and_empty_words_are_refused() -> None:
    with pytest.raises(InputError, match="no word in these texts"):
        pad_words([[], []], PAD)
    with pytest.raises(InputError, match="zero bytes"):
        pad_words([[b"a", b""]], PAD)
    with pytest.raises(InputError, match="padding only"):
        RaggedWords.of(torch.full((1, 2, 3), PAD), PAD).encode(digest)
