"""Masking policies: exact counts, never a special or padding position, and what T5's and ELECTRA's rules say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenry.tokens.errors import InputError
from tokenry.train import masking

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (PAD, CLS, SEP, MASK)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [CLS] text [SEP] [PAD]..., each of the given real length (special tokens included)."""
    width = max(lengths)
    ids = torch.randint(10, 99, (len(lengths), width), generator=generator(seed))
    ids[:, 0] = CLS
    for row, length in enumerate(lengths):
        ids[row, length - 1] = SEP
        ids[row, length:] = PAD
    return ids, (ids != PAD).long()


@given(
    lengths=st.lists(st.integers(3, 40), min_size=1, max_size=5), seed=st.integers(0, 9), rate=st.floats(0, 1)
)
@settings(max_examples=40, deadline=None)
def test_no_policy_touches_special_or_padding_positions(lengths: list[int], seed: int, rate: float) -> None:
    ids, mask = batch(lengths, seed)
    allowed = masking.candidates(ids, mask, SPECIAL)
    words = torch.arange(ids.shape[1]).div(2, rounding_mode="floor").expand_as(ids)
    count = masking.rounded_counts(allowed, rate)
    policies = {
        "tokens": masking.choose(allowed, count, generator(seed)),
        "with replacement": masking.choose(allowed, count, generator(seed), replacement=True),
        "words": masking.choose_words(allowed, words, count, generator(seed)),
        "spans": masking.choose_spans(allowed, rate, 3.0, generator(seed)),
    }
    for chosen in policies.values():
        assert not (chosen & ~allowed).any()
    assert torch.equal(policies["tokens"].sum(1), count)
    assert (policies["with replacement"].sum(1) <= count).all()
    seen = masking.corrupt(ids, policies["tokens"], MASK, generator(seed), replacements=torch.arange(10, 99))
    off = ~policies["tokens"]
    assert torch.equal(seen[off], ids[off])
    assert torch.equal(masking.labels(ids, policies["tokens"]) == masking.IGNORE, off)


def test_the_same_generator_state_chooses_the_same() -> None:
    ids, mask = batch([30, 12])
    allowed = masking.candidates(ids, mask, SPECIAL)
    count = masking.rounded_counts(allowed, 0.3)
    first, again, other = (masking.choose(allowed, count, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bert_replaces_eighty_ten_ten() -> None:
    ids = torch.full((100, 500), 50)
    chosen = torch.rand(ids.shape, generator=generator()) < 0.5
    seen = masking.corrupt(ids, chosen, MASK, generator(1), replacements=torch.arange(60, 70))
    shares = [(seen[chosen] == MASK), (seen[chosen] == 50), (seen[chosen] >= 60)]
    assert [float(share.float().mean()) for share in shares] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert set(seen[chosen].tolist()) == {MASK, 50, *range(60, 70)}


def test_electra_masks_eighty_five_percent_and_keeps_the_rest() -> None:
    ids = torch.full((100, 500), 50)
    chosen = torch.ones_like(ids, dtype=torch.bool)
    seen = masking.corrupt(ids, chosen, MASK, generator(1), kept=0.15, random=0.0)
    assert float((seen == MASK).float().mean()) == pytest.approx(0.85, abs=0.01)
    assert set(seen.flatten().tolist()) == {MASK, 50}


def test_whole_words_are_chosen_whole_and_up_to_the_count() -> None:
    ids, mask = batch([40, 25, 9])
    continues = torch.zeros(100, dtype=torch.bool)
    continues[60:] = True
    continues[list(SPECIAL)] = False
    words = masking.word_index(ids, continues)
    assert torch.equal(words[:, 1:] != words[:, :-1], ~continues[ids][:, 1:])
    allowed = masking.candidates(ids, mask, SPECIAL)
    count = masking.rounded_counts(allowed, 0.3)
    for seed in range(20):
        chosen = masking.choose_words(allowed, words, count, generator(seed))
        for row in range(3):
            inside = [chosen[row, (words[row] == w) & allowed[row]] for w in words[row].unique()]
            assert all(part.all() or not part.any() for part in inside)
            first_word_alone = sum(bool(part.any()) for part in inside) == 1
            assert chosen[row].sum() <= count[row] or first_word_alone
            assert chosen[row].any()


def test_nothing_is_chosen_at_rate_zero() -> None:
    ids, mask = batch([20])
    allowed = masking.candidates(ids, mask, SPECIAL)
    none = masking.rounded_counts(allowed, 0.0)
    assert none.tolist() == [0]
    assert not masking.choose(allowed, none, generator()).any()
    assert not masking.choose_words(allowed, torch.arange(20)[None], none, generator()).any()


@pytest.mark.parametrize(
    ("length", "rate", "span"), [(512, 0.15, 3.0), (1024, 0.15, 20.0), (100, 0.5, 3.0), (2, 0.15, 3)]
)
def test_spans_have_t5s_counts(length: int, rate: float, span: float) -> None:
    """The noise is round(rate * length) tokens in round(noise / span) spans; text comes first."""
    allowed = torch.ones(8, length, dtype=torch.bool)
    chosen = masking.choose_spans(allowed, rate, span, generator())
    noise = max(1, round(rate * length))
    starts = (chosen[:, 1:] & ~chosen[:, :-1]).sum(1) + chosen[:, 0]
    assert chosen.sum(1).tolist() == [noise] * 8
    assert starts.tolist() == [max(1, round(noise / span))] * 8
    assert not chosen[:, 0].any()
    assert length < 10 or len(chosen.unique(dim=0)) == 8


def test_span_corruption_writes_sentinels() -> None:
    ids = torch.tensor([11, 12, 13, 14, 15, 16, 17])
    chosen = torch.tensor([0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    made = masking.span_corruption(ids, chosen, sentinels=(99, 98), eos_id=1)
    assert made.inputs.tolist() == [11, 99, 14, 15, 98, 17]
    assert made.targets.tolist() == [99, 12, 13, 98, 16, 1]
    with pytest.raises(InputError, match="2 spans"):
        masking.span_corruption(ids, chosen, sentinels=(99,))


def test_span_corruption_loses_nothing() -> None:
    ids = torch.arange(100, 300)
    chosen = masking.choose_spans(torch.ones(1, 200, dtype=torch.bool), 0.15, 3.0, generator(3))[0]
    made = masking.span_corruption(ids, chosen, sentinels=range(99, 0, -1))
    spans: dict[int, list[int]] = {}
    for token in made.targets.tolist():
        spans.setdefault(token, []) if token < 100 else spans[max(spans, key=list(spans).index)].append(token)
    restored = [t for token in made.inputs.tolist() for t in (spans[token] if token < 100 else [token])]
    assert restored == ids.tolist()


def test_bad_settings_are_refused() -> None:
    allowed = torch.ones(1, 9, dtype=torch.bool)
    ids = torch.ones(1, 9, dtype=torch.long)
    with pytest.raises(InputError, match="between 0 and 1"):
        masking.rounded_counts(allowed, 1.2)
    with pytest.raises(InputError, match="span"):
        masking.choose_spans(allowed, 0.15, 0.5, generator())
    with pytest.raises(InputError, match="together"):
        masking.corrupt(ids, allowed, MASK, generator(), kept=0.9, random=0.2)
    with pytest.raises(InputError, match="no ids"):
        masking.corrupt(ids, allowed, MASK, generator())
