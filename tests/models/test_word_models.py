"""Models of words on the training loop: batches, masking, resuming, bits per byte."""

import math
from pathlib import Path

import pytest
import torch

from tests.laws.networks.tiny import hat, learn_your_tokens
from tests.laws.networks.tiny.byte2word import config as byte2word_config
from tokenry.models.language.byte2word import MASK, PAD, SPECIAL, Byte2WordForMaskedLM
from tokenry.models.language.hat import STOP, HatForCausalLM
from tokenry.models.language.ragged import pad_words
from tokenry.models.language.word_generation import UnitIds
from tokenry.models.language.word_models import (
    MaskedWords,
    WordBatches,
    WordLanguageModel,
    WordRow,
    word_bits_per_byte,
)
from tokenry.tokens.errors import InputError
from tokenry.train.loop import LoopSettings, train

WORDS = [
    b"In",
    b" the",
    b" beginning",
    b" God",
    b" created",
    b" the",
    b" heaven",
    b" and",
    b" the",
    b" earth",
    b".",
] * 8
HAT, ETOK = HatForCausalLM.unit_ids, UnitIds(pad=0, end=0, offset=1)


def test_a_row_of_words_gives_back_its_words_as_models_take_them() -> None:
    row = WordRow(WORDS)
    places = torch.tensor([[0, 1], [9, 10]])
    picked = [[b"In", b" the"], [b" earth", b"."]]
    assert torch.equal(row.at(places, HAT), pad_words(picked, HAT.pad))
    # where padding is what ends a word, there is room for it behind the longest
    expected = torch.nn.functional.pad(pad_words(picked, 0, offset=1), (0, 1))
    assert torch.equal(row.at(places, ETOK), expected)


def test_batches_are_stretches_of_the_row_and_depend_on_step_and_seed_only() -> None:
    batches = WordBatches(WORDS, HAT, length=5, batch=4, seed=1)
    words = batches(3)["words"]
    assert torch.equal(words, WordBatches(WORDS, HAT, length=5, batch=4, seed=1)(3)["words"])
    assert not torch.equal(words[..., 0], batches(4)["words"][..., 0])
    assert not torch.equal(words[..., 0], WordBatches(WORDS, HAT, 5, 4, seed=2)(3)["words"][..., 0])
    text = b"".join(WORDS)
    for row in words:
        assert bytes(row[row != HAT.pad].tolist()) in text


@pytest.mark.parametrize("make", [hat.build, learn_your_tokens.build])
def test_training_resumes_bit_exactly(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    settings = LoopSettings(steps=4, lr=1e-2, warmup=1, precision="no", checkpoint_every=2)
    weights = []
    for name, stops in (("whole", (None,)), ("parts", (2, None))):
        for stop in stops:
            model = make().model
            batches = WordBatches(WORDS, model.unit_ids, length=6, batch=2)
            train(WordLanguageModel(model), batches, settings, tmp_path / name, workers=0, stop_after=stop)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_bits_per_byte_count_every_byte_once_whatever_the_window() -> None:
    model = hat.build().model
    texts = ["In the beginning God created the heaven and the earth.", "", "And"]
    whole = word_bits_per_byte(model, texts, window=64)
    with torch.no_grad():
        total = 0.0
        for text in texts[::2]:
            words = model.words([text], end=False)
            out = model(words, labels=words)
            total += float(out.loss) * int(out.n_targets)
    assert whole == pytest.approx(total / math.log(2) / sum(map(len, texts)), rel=1e-5)
    assert word_bits_per_byte(model, texts, window=64, batch=1) == pytest.approx(whole, rel=1e-5)
    counted = []
    handle = model.register_forward_hook(lambda module, args, out: counted.append(int(out.n_targets)))
    word_bits_per_byte(model, texts[:1], window=4)
    handle.remove()
    split = model.config.word_splitter().split(texts[0])
    assert sum(counted) == sum(len(word) + 1 for word in split)
    with pytest.raises(InputError, match="no text to score"):
        word_bits_per_byte(model, [""])
    with pytest.raises(InputError, match="at least 2 words, got 1"):
        word_bits_per_byte(model, texts, window=1)


def test_masked_words_are_seen_as_bert_has_it_and_learnt_with_their_end() -> None:
    words = [word.strip() for word in WORDS]
    pieces = {word: list(range(1, 1 + min(3, len(word)))) for word in set(words)}
    masked = MaskedWords(words, pieces, length=20, batch=64, slots=3, seed=0)
    batch = masked(0)
    hidden = (batch["labels"] != -100).any(-1)
    assert not hidden[:, [0, -1]].any()  # [CLS] and [SEP]
    assert (hidden.sum(1) == 3).all()  # 15 % of 20
    assert (batch["words"][:, 0, 0] == SPECIAL).all()
    assert (batch["words"][:, -1, :3] == torch.tensor([SPECIAL, SPECIAL, PAD])).all()
    ids, chosen, seen = masked.draw(0)
    assert torch.equal(chosen, hidden[:, 1:-1])
    share = ((seen == masked.mask) & chosen).sum() / chosen.sum()
    assert 0.7 < float(share) < 0.9
    assert torch.equal(batch["words"][:, 1:-1, 0] == MASK, seen == masked.mask)
    assert torch.equal(seen[~chosen], ids[~chosen])
    place = tuple(chosen.nonzero()[0])
    word = sorted(set(words))[int(ids[place])]
    assert batch["labels"][place[0], place[1] + 1].tolist() == [*pieces[word], 0, -100, -100][:3]


def test_the_same_words_are_hidden_from_a_model_with_pieces() -> None:
    words = [word.strip() for word in WORDS]
    pieces = {word: [10 + i, *[20 + i] * (len(word) > 3)] for i, word in enumerate(sorted(set(words)))}
    masked = MaskedWords(words, pieces, length=12, batch=8)
    batch = masked.as_pieces(cls=1, sep=2, mask=3, pad=0)(5)
    ids, chosen, seen = masked.draw(5)
    for row in range(8):
        real = batch["attention_mask"][row].bool()
        labels, shown = batch["labels"][row][real].tolist(), batch["masked_ids"][row][real].tolist()
        distinct = sorted(set(words))
        own = [
            (pieces[distinct[i]], bool(c), int(s))
            for i, c, s in zip(ids[row], chosen[row], seen[row], strict=True)
        ]
        assert labels == [-100, *[p if c else -100 for ps, c, _ in own for p in ps], -100]
        assert (shown[0], shown[-1]) == (1, 2)
        inside = iter(shown[1:-1])
        for ps, c, s in own:
            got = [next(inside) for _ in ps]
            if not c:
                assert got == ps
            elif s == masked.mask:
                assert got == [3] * len(ps)


def test_byte2word_learns_from_masked_words(tmp_path: Path) -> None:
    words = [word.strip() for word in WORDS[:11]]  # one stretch, in which the place tells the word
    pieces = {word: [1 + i] for i, word in enumerate(sorted(set(words)))}
    torch.manual_seed(0)
    model = Byte2WordForMaskedLM(byte2word_config())
    masked = MaskedWords(words, pieces, length=11, batch=16, slots=3)
    settings = LoopSettings(steps=80, lr=3e-3, warmup=5, precision="no", checkpoint_every=80)
    train(WordLanguageModel(model), masked, settings, tmp_path, workers=0)
    batch = masked(1000)
    asked = (batch["labels"] != -100).any(-1)
    found = model.eval().read(model(batch["words"], batch["labels"]).logits)
    right = [row[: row.index(0)] for row in batch["labels"][asked].tolist()]
    assert sum(a == b for a, b in zip(found, right, strict=True)) / len(right) > 0.7


def test_too_little_text_is_refused() -> None:
    with pytest.raises(InputError, match="11 words, fewer than one stretch of 20"):
        WordBatches(WORDS[:11], HAT, length=20, batch=1)
    with pytest.raises(InputError, match="no document has a word"):
        WordBatches([], HAT, length=1, batch=1)
    with pytest.raises(InputError, match="fewer than one stretch"):
        MaskedWords(WORDS[:2], {}, length=3, batch=1)
    assert WordRow([bytes([STOP])]).at(torch.tensor([[0]]), HAT).tolist() == [[[STOP]]]
