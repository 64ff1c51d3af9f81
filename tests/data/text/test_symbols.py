"""Riddles of symbols have one answer, and it follows from what is shown."""

import pytest
import torch

from tokenry.data.text.symbols import lookup_riddles, permutation_riddles
from tokenry.tokens.errors import InputError

SYMBOLS = torch.arange(100, 120)


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_answer_of_a_lookup_was_shown_beside_what_is_asked(repeats: int) -> None:
    riddles = lookup_riddles(SYMBOLS, 5, 200, repeats=repeats, seed=1)
    assert riddles.ids.shape == (200, 5 * 2 * repeats + 1)
    for ids, answer in zip(riddles.ids.tolist(), riddles.answers.tolist(), strict=True):
        shown = list(zip(ids[:-1:2], ids[1::2], strict=True))
        assert {b for a, b in shown if a == ids[-1]} == set(answer)
        assert len(set(ids)) == 10
        assert all(shown.count(pair) == repeats for pair in shown)
    assert set(riddles.ids.unique().tolist()) == set(SYMBOLS.tolist())


def test_one_order_holds_within_a_permutation_riddle() -> None:
    riddles = permutation_riddles(SYMBOLS, 4, 3, 200, seed=1)
    orders = set()
    for ids, answer in zip(riddles.ids.tolist(), riddles.answers.tolist(), strict=True):
        lines = [*zip(*[iter(ids + answer)] * 8, strict=True)]
        assert len(lines) == 4
        found = {tuple(line[:4].index(symbol) for symbol in line[4:]) for line in lines}
        assert len(found) == 1
        orders |= found
    assert len(orders) == 24


def test_seeds_make_riddles() -> None:
    first, same = lookup_riddles(SYMBOLS, 3, 9, seed=2), lookup_riddles(SYMBOLS, 3, 9, seed=2)
    assert torch.equal(first.ids, same.ids)
    assert not torch.equal(first.ids, lookup_riddles(SYMBOLS, 3, 9, seed=3).ids)


def test_riddles_that_cannot_be() -> None:
    with pytest.raises(InputError, match="22 different symbols"):
        lookup_riddles(SYMBOLS, 11, 1)
    with pytest.raises(InputError, match="at most the 20"):
        permutation_riddles(SYMBOLS, 21, 1, 1)
