"""Packed questions on all and some of a picture's tokens: what is drawn, what a decoder sees, what it answers."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from tokenry.hosts.masks import additive
from tokenry.models.vlm.answering import (
    IGNORE,
    Read,
    Seen,
    Shortening,
    answer_loss,
    drawn,
    exactly_answered,
    naming_loss,
    packed,
    packed_mask,
    read,
    whole,
)
from tokenry.tokens.errors import InputError

LAYERS, N = 4, 10


@pytest.fixture(params=["eager", "sdpa"])
def decoder(request: pytest.FixtureRequest) -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
        attn_implementation=request.param,
    )
    return LlamaModel(config).eval()


def questions() -> dict[str, torch.Tensor]:
    return packed([[(0, [3, 4, 5], [6]), (1, [7], [8, 9])], [(1, [10, 11], [12])]], end=2)


def test_packed_mask_is_causal_and_keeps_questions_apart() -> None:
    mask = packed_mask(torch.tensor([[0, 0, 1, -1]]), prefix=2)[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(mask, expected)


def test_packing_asks_for_each_answer_and_its_end() -> None:
    batch = questions()
    assert batch["ids"].tolist() == [[3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 0, 0, 0, 0]]
    assert batch["positions"].tolist()[0] == [0, 1, 2, 3, 0, 1, 2]
    assert batch["segment"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1, -1]]
    assert batch["target"].tolist()[0] == [IGNORE, IGNORE, 6, 2, 8, 9, 2]
    assert batch["kind"].tolist()[1] == [1, 1, 1, -1, -1, -1, -1]


def seen_of(kind: str) -> Seen:
    index = torch.tensor([[0, 3, 4, 8], [1, 2, 7, 9]])
    if kind == "whole":
        return whole(2, N)
    if kind == "kept":
        return Seen(index, index, N)
    if kind == "compact":
        return Seen(index, torch.arange(4).expand(2, -1), 4)
    stay = index if kind == "cut" else index[:, :0]
    return Seen(whole(2, N).index, whole(2, N).positions, N, cut=2, stay=stay)


@pytest.mark.parametrize("kind", ["whole", "kept", "compact", "cut", "all cut"])
def test_reading_equals_one_question_alone_with_what_is_missing_masked(
    decoder: LlamaModel, kind: str
) -> None:
    """An oracle that shares nothing: every question by itself, layer by layer, hidden tokens masked, none removed."""
    batch, seen, visual = questions(), seen_of(kind), torch.randn(2, N, 16)
    before = torch.tensor([1])
    with torch.no_grad():
        found = read(decoder, decoder.layers, before, visual, batch, seen)
        for row, number in ((0, 0), (0, 1), (1, 0)):
            here = batch["segment"][row] == number
            words = decoder.embed_tokens(torch.cat([before, batch["ids"][row][here]]))
            states = torch.cat([words[:1], visual[row], words[1:]])[None]
            length = states.shape[1]
            places = torch.zeros(N, dtype=torch.long).scatter(0, seen.index[row], seen.positions[row])
            text = 1 + seen.text + torch.arange(len(words) - 1)
            ids = torch.cat([torch.tensor([0]), 1 + places, text])[None]
            rotary = decoder.rotary_emb(states, ids)
            for number_, layer in enumerate(decoder.layers):
                gone = torch.ones(N, dtype=torch.bool)
                left = seen.index[row]
                if seen.cut is not None and seen.stay is not None and number_ >= seen.cut:
                    left = left[seen.stay[row]]
                gone[left] = False
                visible = torch.ones(length, length, dtype=torch.bool).tril()
                visible[:, 1 : 1 + N] &= ~gone
                visible |= torch.eye(length, dtype=torch.bool)
                out = layer(
                    states,
                    attention_mask=additive(visible, states.dtype)[None, None],
                    position_ids=ids,
                    position_embeddings=rotary,
                )
                states = out if isinstance(out, torch.Tensor) else out[0]
            alone = decoder.norm(states)[0, 1 + N :]
            torch.testing.assert_close(found.questions[row][here], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["kept", "cut"])
def test_gradients_go_through_a_shortened_pass(decoder: LlamaModel, kind: str) -> None:
    visual = torch.randn(2, N, 16, requires_grad=True)
    seen = seen_of(kind)
    read(decoder, decoder.layers, torch.tensor([1]), visual, questions(), seen).questions.sum().backward()
    assert visual.grad is not None
    moved = visual.grad.abs().sum(-1) > 0
    if kind == "cut":  # what is cut later was seen before
        assert moved.all()
    else:
        assert torch.equal(moved, torch.zeros(2, N, dtype=torch.bool).scatter(1, seen.index, True))
    assert not any(layer._forward_pre_hooks for layer in decoder.layers)


def test_what_is_drawn_is_in_order_within_bounds_and_the_same_again() -> None:
    shown = torch.rand(3, N) > 0.5
    kinds: set[str] = set()
    for step in range(300):
        seen, again = (drawn(shown, LAYERS, Shortening(), torch.Generator().manual_seed(step)) for _ in "ab")
        assert torch.equal(seen.index, again.index)
        assert torch.equal(seen.positions, again.positions)
        kept = seen.index.shape[1]
        assert (seen.index.diff(dim=1) > 0).all()
        assert (seen.positions.diff(dim=1) > 0).all()
        assert seen.positions.max() < seen.text
        if seen.cut is not None:
            assert seen.stay is not None
            assert 1 <= seen.cut < LAYERS
            assert kept == N
            assert (seen.stay.diff(dim=1) > 0).all()
            assert seen.stay.shape[1] or seen.cut >= 0.75 * LAYERS
            kinds.add("none left" if not seen.stay.shape[1] else "cut")
        elif kept == N and seen.text == N:
            kinds.add("whole")
        else:
            kinds.add("kept" if torch.equal(seen.index, seen.positions) else "counted")
    assert kinds == {"whole", "kept", "counted", "cut", "none left"}


def test_what_shows_something_stays_first_where_it_is_favoured() -> None:
    shown = torch.zeros(2, N, dtype=torch.bool)
    shown[0, [2, 5]], shown[1, [0, 9]] = True, True
    rule = Shortening(steps=1, least=0.2, favour=1)
    for step in range(50):
        seen = drawn(shown, LAYERS, rule, torch.Generator().manual_seed(step))
        stay = seen.index if seen.stay is None else seen.stay
        if stay.shape[1]:
            assert all(
                set(shown[row].nonzero().flatten().tolist()) <= set(stay[row].tolist()) for row in (0, 1)
            )


def test_without_shortening_everything_is_seen() -> None:
    seen = drawn(torch.ones(1, N, dtype=torch.bool), LAYERS, Shortening(steps=0), torch.Generator())
    assert seen.cut is None
    assert seen.index.tolist() == [list(range(N))]


def test_shares_outside_0_to_1_are_refused() -> None:
    with pytest.raises(InputError, match=r"least is a share between 0 and 1, got 1\.5\."):
        Shortening(least=1.5)


def test_losses_and_exact_answers() -> None:
    batch = questions()
    head = nn.Linear(40, 40, bias=False)
    head.weight.data = 20 * torch.eye(40)
    right = torch.nn.functional.one_hot(batch["target"].clamp(min=0), 40).float()
    found = Read(right, right[:, :3], torch.tensor([[0, 4, 5], [1, 2, 9]]))
    loss, accuracy = answer_loss(head, found, batch["target"])
    assert loss.item() < 1e-4
    assert accuracy.item() == 1
    assert exactly_answered(head, found, batch, ("a", "b")) == {"a": (1, 1), "b": (2, 2)}
    wrong = right.clone()
    wrong[0, 6] = wrong[0, 0]  # the end of the second answer of the first picture
    assert exactly_answered(head, Read(wrong, found.visual, found.left), batch, ("a", "b")) == {
        "a": (1, 1),
        "b": (1, 2),
    }
    names = torch.full((2, N), IGNORE)
    names[0, 4], names[1, 9] = 6, 3
    visual = torch.zeros(2, 3, 40)
    visual[0, 1, 6], visual[1, 2, 3] = 1, 1
    assert naming_loss(head, Read(right, visual, found.left), names).item() < 1e-4
    assert naming_loss(head, Read(right, visual.roll(1, -1), found.left), names).item() > 10
    assert naming_loss(head, Read(right, visual, found.left), torch.full((2, N), IGNORE)).item() == 0
