"""Templated reviews: they say what they claim to say, and a shorter series is the beginning of a longer one."""

import pytest

from tokenry.data.text.reviews import ASPECTS, aspects_in, product_reviews
from tokenry.tokens.errors import InputError


def test_a_review_speaks_of_the_aspects_that_it_has_opinions_on_and_of_no_other() -> None:
    for seed in range(3):
        for review in product_reviews(100, seed):
            assert 2 <= len(review.opinions) <= 4
            assert aspects_in(review.text) == set(review.opinions), review.text


def test_reviews_hang_on_the_seed_and_begin_alike() -> None:
    assert product_reviews(5, 1) == product_reviews(20, 1)[:5]
    assert product_reviews(5, 1) != product_reviews(5, 2)
    assert len({review.text for review in product_reviews(75)}) == 75


def test_opinions_lean_to_one_side() -> None:
    shares = []
    for seed in range(5):
        reviews = product_reviews(200, seed)
        for aspect in ASPECTS:
            said = [r.opinions[aspect] for r in reviews if aspect in r.opinions]
            shares.append(sum(said) / len(said))
    assert min(shares) < 0.25
    assert max(shares) > 0.75


def test_no_reviews_and_fewer() -> None:
    assert product_reviews(0) == ()
    with pytest.raises(InputError, match="-1"):
        product_reviews(-1)
