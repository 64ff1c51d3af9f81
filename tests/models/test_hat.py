"""HAT: what counts, what may be seen, and text that is written as it was learnt."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.laws.networks.tiny.hat import build
from tokenry.models.language.hat import PAD, STOP, WORD, HatConfig, HatForCausalLM, HatOutput
from tokenry.models.language.ragged import pad_words
from tokenry.tokens.errors import InputError

TEXTS = ["Hello, world! The für is here.", "the end of all"]


@pytest.fixture(scope="module")
def model() -> HatForCausalLM:
    model = build().model
    assert isinstance(model, HatForCausalLM)
    return model


def forward(model: HatForCausalLM, words: torch.Tensor) -> HatOutput:
    with torch.no_grad():
        return model(words, labels=words)


def plain_loss(model: HatForCausalLM, words: list[bytes]) -> list[float]:
    """The loss terms of one text, word by word, with nothing shared, padded or bucketed."""
    terms = []
    with torch.no_grad():
        vectors = []
        for word in words:
            ids = torch.tensor([[WORD, *word]])
            everything = torch.ones(1, 1, len(word) + 1, len(word) + 1, dtype=torch.bool)
            vectors.append(model.encoder(input_ids=ids, attention_mask=everything).last_hidden_state[:, 0])
        hidden = model.backbone(inputs_embeds=model.to_backbone(torch.stack(vectors, 1))).last_hidden_state
        start = model.to_decoder(hidden)
        for i, word in enumerate(words[1:]):
            ids = torch.tensor([[*word]])
            inputs = torch.cat([start[:, i : i + 1], model.decoder.embed_tokens(ids)], 1)
            logits = model.head(model.decoder(inputs_embeds=inputs).last_hidden_state)[0]
            targets = [*word] if word[0] == STOP else [*word, WORD]
            terms += F.cross_entropy(logits[: len(targets)], torch.tensor(targets), reduction="none").tolist()
    return terms


def test_loss_is_that_of_every_word_computed_alone(model: HatForCausalLM) -> None:
    words = model.words(TEXTS)
    split = model.config.word_splitter().split
    terms = [t for text in TEXTS for t in plain_loss(model, [bytes([STOP]), *split(text), bytes([STOP])])]
    out = forward(model, words)
    assert out.n_targets is not None
    assert out.loss is not None
    assert int(out.n_targets) == len(terms)
    assert float(out.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_loss_terms_are_bytes_and_word_ends_less_one_for_the_stop(model: HatForCausalLM) -> None:
    words = model.words(TEXTS)
    lengths = [len(word) for text in TEXTS for word in model.config.word_splitter().split(text)]
    expected = sum(length + 1 for length in lengths) + len(TEXTS)  # [S] is one byte without an end
    n_targets = forward(model, words).n_targets
    assert n_targets is not None
    assert int(n_targets) == expected
    # without a start word the first word is not predicted
    later = forward(model, words[:, 1:]).n_targets
    first = [len(model.config.word_splitter().split(text)[0]) + 1 for text in TEXTS]
    assert later is not None
    assert int(later) == expected - sum(first)


def test_labels_choose_what_counts(model: HatForCausalLM) -> None:
    words = model.words(TEXTS)
    labels = words.clone()
    labels[:, :3] = -100
    out = model(words, labels=labels, return_logits=False)
    assert out.logits is None
    counted = words[:, 3:]
    assert int(out.n_targets) == int((counted != PAD).sum() + ((counted[..., 0] < PAD).sum()))


def test_no_logit_sees_a_later_byte(model: HatForCausalLM) -> None:
    words = model.words(TEXTS, end=False)[:1]
    logits = forward(model, words).logits
    assert logits is not None
    for j in range(1, words.shape[1]):
        for byte in range(int((words[0, j] != PAD).sum())):
            changed = words.clone()
            changed[0, j, byte] = ord("X")
            changed[0, j + 1 :][changed[0, j + 1 :] != PAD] = ord("Y")
            got = forward(model, changed).logits
            assert got is not None
            # word j is predicted at j - 1; its first `byte + 1` predictions do not see its byte number `byte`
            torch.testing.assert_close(got[0, : j - 1], logits[0, : j - 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(
                got[0, j - 1, : byte + 1], logits[0, j - 1, : byte + 1], rtol=0, atol=1e-5
            )
            if words[0, j, byte] != ord("X"):
                assert not torch.allclose(got[0, j - 1, byte + 1], logits[0, j - 1, byte + 1], atol=1e-4)


def test_the_encoder_reads_both_ways_and_its_own_word_only(model: HatForCausalLM) -> None:
    def vector(*words: bytes) -> torch.Tensor:
        with torch.no_grad():
            return model.encode(pad_words([words], PAD))[0, 0]

    torch.testing.assert_close(vector(b"abc"), vector(b"abc", b"another, longer word"), rtol=0, atol=1e-5)
    assert not torch.allclose(vector(b"abc"), vector(b"acb"), atol=1e-3)
    # [W] stands first: it sees the last byte only because attention goes both ways
    assert not torch.allclose(vector(b"abc"), vector(b"abd"), atol=1e-3)


@pytest.mark.parametrize("sample", [False, True])
def test_writing_gives_the_log_probabilities_of_reading(model: HatForCausalLM, sample: bool) -> None:
    prompts = ["Hello, wor", "", "the end of all th"]
    written = model.generate(prompts, max_new_tokens=40, do_sample=sample, seed=3)
    split = model.config.word_splitter().split
    for prompt, result in zip(prompts, written, strict=True):
        before = split(prompt)[:-1]
        words = [bytes([STOP]), *before, *result.words, *([bytes([STOP])] if result.stopped else [])]
        logits = forward(model, pad_words([words], PAD)).logits
        assert logits is not None
        total = 0.0
        for i in range(len(before), len(words) - 1):
            word = words[i + 1]
            whole = word[0] != STOP and (
                result.stopped or i + 2 < len(words)
            )  # the last may have been cut off
            targets = torch.tensor([*word, WORD] if whole else [*word])
            total += float(logits[0, i].log_softmax(-1)[torch.arange(len(targets)), targets].sum())
        assert result.log_prob == pytest.approx(total, abs=1e-4 * len(words) * 10)
        assert b"".join(words).startswith(bytes([STOP]) + prompt.encode())
        new = b"".join(result.words)[len(split(prompt)[-1]) if prompt else 0 :]
        assert result.text == new.decode("utf-8", "replace")
        assert len(new) == 40 or result.stopped


def test_greedy_bytes_are_the_likeliest_of_reading(model: HatForCausalLM) -> None:
    (result,) = model.generate("The end", max_new_tokens=30)
    words = [bytes([STOP]), b"The", *result.words]
    logits = forward(model, pad_words([words], PAD)).logits
    assert logits is not None
    new = 0
    for i, word in enumerate(words[2:]):
        for j, byte in enumerate(word):
            if i == 0 and j < len(b" end"):
                continue  # given
            scores = logits[0, i + 1, j].clone()
            scores[[PAD, WORD if j == 0 else STOP]] = -math.inf
            assert byte == int(scores.argmax())
            new += 1
    assert new == 30


def test_texts_of_a_batch_are_written_as_alone(model: HatForCausalLM) -> None:
    prompts = ["Hello, wor", "a", "the end of it all has c"]
    together = model.generate(prompts, max_new_tokens=25)
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = model.generate([prompt], max_new_tokens=25)
        assert alone.words == result.words
        assert alone.log_prob == pytest.approx(result.log_prob, abs=1e-3)


def test_streaming_gives_the_same_text(model: HatForCausalLM) -> None:
    (whole,) = model.generate("Hello, wor", max_new_tokens=150, do_sample=True, seed=5)
    pieces = list(model.stream("Hello, wor", max_new_tokens=150, do_sample=True, seed=5))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1  # no word has more than 64 bytes


def test_no_word_is_longer_than_the_cap_and_a_trained_stop_ends_a_text() -> None:
    torch.manual_seed(0)
    config = HatConfig(32, 1, 2, local_hidden_size=16, encoder_layers=1, decoder_layers=1, max_word_bytes=5)
    model = HatForCausalLM(config)
    (loose,) = model.generate("abc", max_new_tokens=60)
    assert all(len(word) <= 5 for word in loose.words)
    text = "To be, or not to be."
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    words = model.words([text])
    for _ in range(150):
        loss = model(words, labels=words, return_logits=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for prompt in ("", "To", "To be, or n"):
        (result,) = model.eval().generate(prompt, max_new_tokens=60)
        assert prompt + result.text == text
        assert result.stopped


def test_the_published_local_networks_have_about_23_and_55_million_parameters() -> None:
    with torch.device("meta"):
        for width, heads, layers, expected in ((768, 6, 3, 23e6), (1024, 8, 4, 55e6)):
            config = HatConfig(
                256, 1, 2, local_hidden_size=width, local_num_attention_heads=heads, encoder_layers=layers
            )
            size = sum(p.numel() for p in HatForCausalLM(config).encoder.parameters())
            assert size == pytest.approx(expected, rel=0.1)


def test_saved_and_loaded_it_is_the_same(model: HatForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = HatForCausalLM.from_pretrained(tmp_path)
    words = model.words(TEXTS)
    assert torch.equal(forward(again, words).logits, forward(model, words).logits)
    assert "backbone.embed_tokens.weight" not in again.state_dict()


def test_bad_input_is_refused(model: HatForCausalLM) -> None:
    with pytest.raises(InputError, match="gpt2"):
        HatConfig(splitter="gpt2")
    with pytest.raises(InputError, match="after the first"):
        model(pad_words([[b"a"]], PAD))
    with pytest.raises(InputError, match="no text to continue"):
        model.generate([])
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate("a", max_new_tokens=0)
    with pytest.raises(InputError, match="Temperature"):
        model.generate("a", do_sample=True, temperature=0.0)
    torch.manual_seed(0)
    bare = HatForCausalLM(HatConfig(16, 1, 1, local_hidden_size=16, bos_word=False))
    with pytest.raises(InputError, match="no word that starts"):
        bare.generate(["one two", "one"])
    assert bare.generate("one two", max_new_tokens=2)[0].words[0].startswith(b" two")
