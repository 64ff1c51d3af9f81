"""Byte2Word: its size, words that depend on their bytes and nothing else, and a head that becomes BERT's own."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers.models.bert.modeling_bert import BertLMPredictionHead

from tests.laws.networks.tiny.byte2word import build, config
from tokenry.models.language.byte2word import (
    MASK,
    PAD,
    SPECIAL,
    Byte2WordConfig,
    Byte2WordForMaskedLM,
    Byte2WordModel,
    SubwordHead,
    WordFromBytes,
    basic_words,
)
from tokenry.models.language.ragged import pad_words
from tokenry.tokens.errors import InputError


@pytest.fixture(scope="module")
def model() -> Byte2WordForMaskedLM:
    model = build().model
    assert isinstance(model, Byte2WordForMaskedLM)
    return model


def vectors(model: Byte2WordForMaskedLM, words: list[bytes], width: int = 0) -> torch.Tensor:
    """What the input network says of words, at a given padded width."""
    ids = pad_words([words], PAD)[0]
    ids = F.pad(ids, (0, max(0, width - ids.shape[1])), value=PAD)
    with torch.no_grad():
        return model.byte2word.embedding(ids, ids != PAD)


def test_the_input_network_has_nine_percent_of_the_parameters_of_berts_table() -> None:
    with torch.device("meta"):
        network = WordFromBytes(Byte2WordConfig())
    uncounted = ("query", "before", "after")
    counted = sum(p.numel() for name, p in network.named_parameters() if not name.startswith(uncounted))
    assert counted == 2_122_560
    assert round(100 * counted / (30_522 * 768), 2) == 9.05


def test_equal_words_have_equal_vectors_anywhere(model: Byte2WordForMaskedLM) -> None:
    seen = []
    handle = model.byte2word.body.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(model.words(["the cat and the dog", "a longer one: look at the catastrophe, the"]))
    handle.remove()
    first, second = seen[0]
    assert torch.equal(first[1], first[4])  # behind [CLS]
    assert torch.equal(first[1], second[7])
    assert torch.equal(first[1], second[10])
    assert not torch.allclose(first[1], first[2], atol=1e-3)


def test_padding_bytes_never_matter() -> None:
    torch.manual_seed(0)
    model = Byte2WordForMaskedLM(config(word_bytes=64)).eval()
    words = [b"the", b"catastrophe", b"."]
    torch.testing.assert_close(vectors(model, words, 32), vectors(model, words, 64), rtol=0, atol=1e-6)
    together = model.words(["the catastrophe."])
    wider = F.pad(together, (0, 64 - together.shape[2]), value=PAD)
    with torch.no_grad():
        torch.testing.assert_close(
            model(wider).last_hidden_state, model(together).last_hidden_state, rtol=0, atol=1e-5
        )


def test_the_order_of_bytes_matters(model: Byte2WordForMaskedLM) -> None:
    listen, silent = vectors(model, [b"listen", b"silent"])
    assert not torch.allclose(listen, silent, atol=1e-2)


def test_with_one_slot_and_no_offset_the_head_is_berts() -> None:
    torch.manual_seed(0)
    sizes = config(max_subwords=1)
    head = SubwordHead(sizes).eval()
    bert = sizes.bert()
    bert.vocab_size = sizes.vocab_size
    plain = BertLMPredictionHead(bert).eval()
    plain.load_state_dict(
        {k: v for k, v in head.state_dict().items() if k.startswith(("transform", "decoder"))}
        | {"bias": head.decoder.bias},
        strict=False,
    )
    plain.decoder.load_state_dict(head.decoder.state_dict())
    hidden = torch.randn(5, sizes.hidden_size)
    with torch.no_grad():
        expected = plain.decoder(plain.transform(hidden))
        torch.testing.assert_close(plain(hidden), expected)  # BERT's head is just that
        torch.testing.assert_close(head(hidden)[:, 0], expected)


def test_slots_of_a_word_see_each_other_and_no_other_word() -> None:
    torch.manual_seed(0)
    head = SubwordHead(config()).eval()
    hidden = torch.randn(4, 32)
    with torch.no_grad():
        together, alone = head(hidden), torch.cat([head(row[None]) for row in hidden])
        before = head(hidden)[:, 0]
        head.offset[2] += 1
        after = head(hidden)[:, 0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


def test_loss_is_the_mean_over_subwords_and_ends_of_masked_words(model: Byte2WordForMaskedLM) -> None:
    inputs = build().inputs
    with torch.no_grad():
        out = model(**inputs)
        unlabelled = model(inputs["words"])
    assert out.logits is not None
    assert out.logits.shape == (3, 3, 50)
    torch.testing.assert_close(unlabelled.logits, out.logits)  # the masked words are the [MASK]s
    targets = [[7, 8, 0], [9, 0], [1, 2, 3]]  # four sub-words are cut to three
    terms = [
        -float(out.logits[i, j].log_softmax(-1)[t])
        for i, row in enumerate(targets)
        for j, t in enumerate(row)
    ]
    assert float(out.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_labels_and_reading_are_inverse(model: Byte2WordForMaskedLM) -> None:
    subwords = [[5], [6, 7], [8, 9, 10]]
    labels = model.subword_labels(subwords)
    assert labels.tolist() == [[5, 0, -100], [6, 7, 0], [8, 9, 10]]
    assert model.read(F.one_hot(labels.clamp(min=0), 50).float()) == subwords


def test_texts_become_words_between_special_ones(model: Byte2WordForMaskedLM) -> None:
    words = model.words(["Été, 1!", "a"])
    assert words[0, :, 0].tolist() == [SPECIAL, 0xC3, ord(","), ord("1"), ord("!"), SPECIAL]
    assert words[1, :3].tolist()[0][:2] == [SPECIAL, PAD]
    assert words[1, 2, :3].tolist() == [SPECIAL, SPECIAL, PAD]
    assert (words[1, 3:] == PAD).all()
    assert basic_words("x\u2003 abcdefg é", 3) == [b"x", b"abc", b"def", b"g", "é".encode()]


def test_it_learns_to_fill_a_mask() -> None:
    torch.manual_seed(0)
    model = Byte2WordForMaskedLM(config())
    words = model.words(["one two three", "one zwei three", "uno two tre"])
    targets = model.subword_labels([[3, 4], [5], [6, 7, 8]])
    labels = torch.full((*words.shape[:2], 3), -100)
    labels[:, 2] = targets
    words[:, 2], words[:, 2, 0] = PAD, MASK
    words[1, 1, 0] = ord("O")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(words, labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.eval().read(model(words).logits) == [[3, 4], [5], [6, 7, 8]]


def test_the_body_can_be_had_without_the_head(model: Byte2WordForMaskedLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    body = Byte2WordModel.from_pretrained(tmp_path).eval()
    words = model.words(["The cat sat."])
    with torch.no_grad():
        assert torch.equal(body(words).last_hidden_state, model(words).last_hidden_state)


def test_bad_input_is_refused(model: Byte2WordForMaskedLM) -> None:
    with pytest.raises(InputError, match="word_bytes"):
        Byte2WordConfig(word_bytes=1)
    with pytest.raises(InputError, match="40 bytes is longer than word_bytes=32"):
        model(pad_words([[b"x" * 40]], PAD))
    torch.manual_seed(0)
    short = Byte2WordModel(config(max_position_embeddings=4))
    with pytest.raises(InputError, match="5 words is longer than the 4"):
        short(short.words(["a b c"]))
