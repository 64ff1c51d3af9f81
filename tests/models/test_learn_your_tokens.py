"""Learn Your Tokens: causality over words and inside them, padding, the loss, and text as it was learnt."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.laws.networks.tiny.learn_your_tokens import build
from tokenry.models.language.learn_your_tokens import (
    PAD,
    LearnYourTokensConfig,
    LearnYourTokensForCausalLM,
    LearnYourTokensOutput,
)
from tokenry.models.language.ragged import pad_words
from tokenry.tokens.errors import InputError

TEXTS = ["In the beginning God created the heaven", "and the earth."]


@pytest.fixture(scope="module")
def model() -> LearnYourTokensForCausalLM:
    model = build().model
    assert isinstance(model, LearnYourTokensForCausalLM)
    return model


def small(**settings: Any) -> LearnYourTokensForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "encoder_intermediate_size": 32,
    }
    config = LearnYourTokensConfig(
        **(sizes | {"slots": 2, "dropout": 0.0, "initializer_range": 0.2} | settings)
    )
    return LearnYourTokensForCausalLM(config).eval()


def forward(model: LearnYourTokensForCausalLM, words: torch.Tensor) -> LearnYourTokensOutput:
    with torch.no_grad():
        return model(words, labels=words)


def test_no_logit_sees_later_words_or_later_units(model: LearnYourTokensForCausalLM) -> None:
    words = model.words(TEXTS[:1])
    logits = forward(model, words).logits
    assert logits is not None
    assert logits.shape == (1, words.shape[1] - 1, words.shape[2], 257)
    for j in range(1, words.shape[1]):
        for unit in range(int((words[0, j] != PAD).sum())):
            changed = words.clone()
            changed[0, j, unit] = 1 + ord("X")
            changed[0, j + 1 :][changed[0, j + 1 :] != PAD] = 1 + ord("Y")
            got = forward(model, changed).logits
            assert got is not None
            torch.testing.assert_close(got[0, : j - 1], logits[0, : j - 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(
                got[0, j - 1, : unit + 1], logits[0, j - 1, : unit + 1], rtol=0, atol=1e-5
            )
            assert not torch.allclose(got[0, j - 1, unit + 1], logits[0, j - 1, unit + 1], atol=1e-4)


def test_wider_padding_changes_nothing_with_masks_and_something_in_the_legacy_mode() -> None:
    for legacy in (False, True):
        model = small(legacy_mask=legacy)
        words = model.words(TEXTS)
        wider = F.pad(words, (0, 5), value=PAD)
        got, expected = forward(model, wider).logits, forward(model, words).logits
        assert got is not None
        assert expected is not None
        real = words[:, 1:] != PAD
        same = torch.allclose(got[:, :, : words.shape[2]][real], expected[real], atol=1e-5)
        assert same is not legacy


def test_equal_words_share_slots_wherever_they_stand(model: LearnYourTokensForCausalLM) -> None:
    words = model.words(["the cat saw the rat and the bat"])
    order = torch.randperm(words.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight, permuted = model.encode(words), model.encode(words[:, order])
        alone = torch.cat([model.encode(words[:, i : i + 1]) for i in range(words.shape[1])], dim=1)
    assert torch.equal(permuted, straight[:, order])
    torch.testing.assert_close(alone, straight, rtol=0, atol=1e-5)


def test_two_words_and_one_slot_predict_one_word_with_a_term_for_each_position() -> None:
    model = small(slots=1)
    words = pad_words([[b"ab", b"cd"]], PAD, offset=1)
    words = F.pad(words, (0, 3))
    out = forward(model, words)
    assert out.logits is not None
    assert out.loss is not None
    assert out.logits.shape == (1, 1, 5, 257)
    assert int(out.n_targets) == 5  # 2 units, their end and the padding behind it
    assert float(out.loss) == pytest.approx(float(F.cross_entropy(out.logits[0, 0], words[0, 1])), rel=1e-5)
    model.config.count_padding = False
    out = forward(model, words)
    assert int(out.n_targets) == 3
    assert float(out.loss) == pytest.approx(
        float(F.cross_entropy(out.logits[0, 0, :3], words[0, 1, :3])), rel=1e-5
    )


def test_labels_choose_what_counts_and_padding_words_never_do(model: LearnYourTokensForCausalLM) -> None:
    words = model.words(TEXTS)
    labels = words.clone()
    labels[0, :4] = -100
    out = model(words, labels=labels, return_logits=False)
    assert out.logits is None
    n_words = [len(model.config.word_splitter().split(text)) for text in TEXTS]
    assert int(out.n_targets) == (n_words[0] - 4 + n_words[1] - 1) * words.shape[2]


@pytest.mark.parametrize("slots", [1, 3])
def test_greedy_writing_takes_the_likeliest_units_of_reading(slots: int) -> None:
    model = small(slots=slots, num_hidden_layers=2)
    (result,) = model.generate("In the beginning", max_new_tokens=40)
    words = F.pad(pad_words([[b"In", b" the", *result.words]], PAD, offset=1), (0, 1))
    logits = forward(model, words).logits
    assert logits is not None
    new, log_prob = 0, 0.0
    for i, word in enumerate(result.words):
        units = [byte + 1 for byte in word] + [PAD] * (i + 1 < len(result.words))
        scores = logits[0, i + 1, : len(units)].log_softmax(-1)
        log_prob += float(scores[torch.arange(len(units)), torch.tensor(units)].sum())
        for j, unit in enumerate(units):
            if i == 0 and j < len(b" beginning"):
                continue  # given
            if j:  # no word is empty, so the first unit is the likeliest of the bytes
                full = len(word) == model.config.max_word_bytes and j == len(word)
                assert full or unit == int(scores[j].argmax())
            else:
                assert unit == 1 + int(scores[j, 1:].argmax())
            new += unit != PAD
    assert new == 40
    assert result.log_prob == pytest.approx(log_prob, abs=1e-3)


def test_texts_of_a_batch_are_written_as_alone(model: LearnYourTokensForCausalLM) -> None:
    prompts = ["In the beginning God", "and th", "the earth was without form"]
    for prompt, result in zip(prompts, model.generate(prompts, max_new_tokens=20), strict=True):
        (alone,) = model.generate(prompt, max_new_tokens=20)
        assert alone.words == result.words


def test_it_learns_a_text_by_heart() -> None:
    model = small(count_padding=False, initializer_range=0.02).train()
    text = "In the beginning was the Word, and the Word was with God."
    words = model.words([text])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(words, labels=words, return_logits=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    (result,) = model.eval().generate("In the", max_new_tokens=len(text) - len("In the"))
    assert "In the" + result.text == text


def test_a_text_ends_where_the_places_for_words_do() -> None:
    model = small(max_words=4, max_word_bytes=3)
    (result,) = model.generate("a b", max_new_tokens=60)
    assert len(result.text) < 60
    assert not result.stopped


def test_defaults_are_those_of_the_published_code() -> None:
    config = LearnYourTokensConfig()
    found = (
        config.slots,
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.max_words,
    )
    assert found == (4, 512, 8, 8, 192)
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (2, 2, 0.1)


def test_bad_input_is_refused(model: LearnYourTokensForCausalLM) -> None:
    with pytest.raises(InputError, match="gpt2"):
        LearnYourTokensConfig(splitter="gpt2")
    with pytest.raises(InputError, match="slot"):
        LearnYourTokensConfig(slots=0)
    with pytest.raises(InputError, match="after the first"):
        model(model.words(["a"]))
    with pytest.raises(InputError, match="do not fit max_word_bytes=32"):
        model(torch.ones(1, 2, 40, dtype=torch.int64))
    with pytest.raises(InputError, match="places for 64 words and got 70"):
        model(model.words(["a" + " a" * 69]))
    with pytest.raises(InputError, match="no word that starts a text"):
        model.generate("In")
