"""The vocabulary of encoders, rows of text, and keeping a model."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM

from tests.train.encoders import TEXTS, bert, rows, special, tokenizer
from tokenry.text.wordpiece import train_wordpiece
from tokenry.tokens.errors import InputError, TokenryError
from tokenry.train.masked_lm import BertMasking, MaskedLanguageModelling
from tokenry.train.rows import SpecialIds, encode, pack, rows_of, save_folder


def test_a_vocabulary_is_wordpiece_of_the_size_asked_for_and_always_the_same(tmp_path: Path) -> None:
    first = train_wordpiece(TEXTS, 110)
    assert len(first) == 110
    assert all(train_wordpiece(TEXTS, 110).get_vocab() == first.get_vocab() for _ in range(5))
    assert [first.pad_token_id, first.cls_token_id, first.sep_token_id, first.mask_token_id] == [0, 2, 3, 4]
    assert first.tokenize("The bridge") == ["the", "bridge"]
    assert first.tokenize("bridgethe") == ["bridge", "##the"]
    made = first("The fox jumps!")["input_ids"]
    assert (made[0], made[-1]) == (2, 3)
    assert first.decode(made, skip_special_tokens=True) == "the fox jumps!"
    assert first.tokenize("ñ q") == ["n", "[UNK]"]  # accents are dropped; no text had a q
    first.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize("bridgethe") == ["bridge", "##the"]


def test_cased_vocabularies_keep_case() -> None:
    assert train_wordpiece(TEXTS, 90, lowercase=False).tokenize("The the")[0].startswith("T")


def test_packing_keeps_all_text_in_order() -> None:
    documents = encode(tokenizer(), TEXTS)
    packed = pack(documents, 24, special())
    ids = packed.ids[packed.mask.bool()]
    text = ids[~torch.isin(ids, torch.tensor([special().cls, special().sep]))]
    assert text.tolist() == np.concatenate(documents).tolist()
    segments = packed.types.amax(1).float().mean()
    assert 0.75 < segments < 0.98  # nine of ten rows have two
    for row in packed.ids:
        assert row[0] == special().cls
    assert torch.equal(packed.mask.bool(), packed.ids != special().pad)


def test_long_segments_are_cut_from_the_longer_one() -> None:
    long, short = np.arange(10, 40), np.arange(50, 54)
    made = rows_of([[long, short], [short, long], [long, long], [long]], 19, special())
    lengths = [[int(((made.types[r] == k) & (made.mask[r] == 1)).sum()) for k in (0, 1)] for r in range(4)]
    assert lengths == [[14, 5], [6, 13], [10, 9], [19, 0]]
    assert made.mask.all()


def test_which_tokens_continue_words() -> None:
    tokens = tokenizer().convert_ids_to_tokens(list(range(len(tokenizer()))))
    assert special().continues.tolist() == [token.startswith("##") and len(token) > 2 for token in tokens]
    assert special().special == {0, 1, 2, 3, 4}


def test_masked_language_modelling_is_transformers_loss() -> None:
    batch = BertMasking(special())(rows()[torch.arange(6)], torch.Generator().manual_seed(0))
    model = bert()
    loss, figures = MaskedLanguageModelling(model)(batch)
    theirs = model(
        batch["masked_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=batch["token_type_ids"],
        labels=batch["labels"],
    )
    torch.testing.assert_close(loss, theirs.loss)
    assert 0 <= figures["found"].item() <= 1


def test_a_full_disk_keeps_the_model_that_was_there(tmp_path: Path) -> None:
    folder = save_folder(bert(), tokenizer(), tmp_path / "model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(TokenryError, match="could not be written"):
            save_folder(bert(seed=1), tokenizer(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    kept, expected = BertForMaskedLM.from_pretrained(folder).state_dict(), bert().state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="no text"):
        train_wordpiece(["", " "], 90)
    with pytest.raises(InputError, match="does not hold"):
        train_wordpiece(TEXTS, 5)
    with pytest.raises(InputError, match="no text"):
        pack([], 24, special())
    with pytest.raises(InputError, match="no room"):
        pack(encode(tokenizer(), TEXTS), 4, special())
    without = train_wordpiece(TEXTS, 90)
    without.mask_token = None
    with pytest.raises(InputError, match="no mask"):
        SpecialIds.of(without)
