"""DupMAE: the bag of words' numbers, who sees whom in the decoder, padding, and that the parts learn."""

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoTokenizer, BertForMaskedLM, BertModel

from tests.train.encoders import TEXTS, bert, generator, rows, special, tokenizer
from tokenry.embed.dupmae.encoder import DupmaeEncoder
from tokenry.embed.dupmae.training import (
    ContrastiveRetrieval,
    DupmaeMasking,
    DupmaeObjective,
    DupmaeSettings,
    bag_of_words_loss,
    max_logits,
    visibility,
)
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings, train
from tokenry.train.masking import IGNORE, word_index
from tokenry.train.rows import RowBatches, encode, rows_of, save_folder


def batch(size: int = 6, **settings: object) -> Batch:
    return DupmaeMasking(special(), DupmaeSettings(**settings))(rows()[torch.arange(size)], generator())


def seen(rate: float, masks: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A visibility matrix, and the attention mask of its rows."""
    some = rows()[torch.arange(8)]
    words = word_index(some.ids, special().continues)
    made = visibility(some, special().candidates(some), words, rate, masks, generator(seed))
    return made, some.mask.bool()


def test_bag_of_words_as_coded_and_normalised() -> None:
    """V = 4, ids [1, 1, 3]: weights (0, 1/3, 0, 1/3), under a uniform softmax (2/3) ln 4."""
    ids = torch.tensor([[1, 1, 3]])
    coded = bag_of_words_loss(torch.zeros(1, 4), ids)
    assert coded.item() == pytest.approx(2 / 3 * math.log(4))
    assert coded.item() == pytest.approx(0.9242, abs=1e-4)
    assert bag_of_words_loss(torch.zeros(1, 4), ids, normalise=True).item() == pytest.approx(math.log(4))
    scores = torch.tensor([[0.0, 2.0, -1.0, 1.0]])
    weighted = -(scores.log_softmax(-1) * torch.tensor([0, 1 / 3, 0, 1 / 3])).sum()
    padded = torch.nn.functional.pad(ids, (1, 4), value=IGNORE)
    assert bag_of_words_loss(scores, padded).item() == pytest.approx(weighted.item())


def test_the_decoder_sees_cls_but_never_itself_or_padding() -> None:
    for seed in range(3):
        visible, real = seen(0.5, seed=seed)
        assert not visible.diagonal(dim1=1, dim2=2).any()
        assert visible[:, 1:, 0].all()
        assert not visible[:, 0, 0].any()
        assert not visible.transpose(1, 2)[~real].any()
        share = visible[:, 1:, 1:].float().sum() / (real.sum() * (real.shape[1] - 1))
        assert 0.4 < float(share) < 0.7
        assert len(visible[0].unique(dim=0)) > 5  # rows differ


def test_at_rate_zero_every_row_sees_all_but_itself() -> None:
    visible, real = seen(0.0)
    expected = real[:, None, :] & ~torch.eye(real.shape[1], dtype=torch.bool)
    assert torch.equal(visible, expected)


@pytest.mark.parametrize("query", ["dupmae", "retromae"])
def test_a_token_reaches_the_rows_that_see_it_and_no_others(query: str) -> None:
    model = DupmaeObjective(bert(), DupmaeSettings(query=query)).eval()
    made = batch(3)
    cls = torch.randn(3, 32, generator=generator())
    before = model.decode(cls, made)
    for j in (1, 4, 9):
        changed = dict(made) | {"input_ids": made["input_ids"].clone()}
        changed["input_ids"][:, j] = (changed["input_ids"][:, j] + 7) % 60 + 10
        moved = (model.decode(cls, changed) - before).abs().amax(-1) > 1e-6
        assert torch.equal(moved, made["visible"][:, :, j])


def test_padding_does_not_change_any_loss() -> None:
    model = DupmaeObjective(bert()).eval()
    short = batch(4)
    fill = {"labels": IGNORE, "original": IGNORE}
    padded = {
        name: torch.nn.functional.pad(
            tensor, (0, 7, 0, 7) if name == "visible" else (0, 7), value=fill.get(name, 0)
        )
        for name, tensor in short.items()
    }
    (first, figures), (second, others) = model(short), model(padded)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    assert figures.keys() == {"encoder", "decoder", "bag"}
    for name in figures:
        torch.testing.assert_close(figures[name], others[name], rtol=1e-5, atol=1e-5)


def test_the_total_is_the_weighted_sum_and_zero_weights_leave_parts_out() -> None:
    loss, figures = DupmaeObjective(bert()).eval()(batch())
    expected = figures["encoder"] + figures["decoder"] + 0.1 * figures["bag"]
    torch.testing.assert_close(loss, expected)
    retromae = DupmaeObjective(bert(), DupmaeSettings(bow_weight=0)).eval()(batch())[1]
    assert retromae.keys() == {"encoder", "decoder"}
    plain = DupmaeObjective(bert(), DupmaeSettings(bow_weight=0, decoder_weight=0)).eval()
    assert plain(batch())[1].keys() == {"encoder"}
    assert plain.decoder is None
    assert "visible" not in batch(decoder_weight=0)


def test_max_logits_leave_cls_and_padding_out() -> None:
    logits = torch.tensor([[[9.0, 9.0], [1.0, -3.0], [-2.0, 2.0], [8.0, 8.0]]])
    assert max_logits(logits, torch.tensor([[1, 1, 1, 0]])).tolist() == [[1.0, 2.0]]


def test_the_decoder_reads_the_clean_text_and_the_encoder_the_masked_one() -> None:
    made = batch()
    hidden_positions = made["labels"] != IGNORE
    assert hidden_positions.any()
    assert (made["masked_ids"] != made["input_ids"])[hidden_positions].float().mean() > 0.6
    assert torch.equal(made["original"][hidden_positions], made["input_ids"][hidden_positions])
    special_ids = torch.tensor(sorted(special().special))
    assert torch.equal(made["original"] == IGNORE, torch.isin(made["input_ids"], special_ids))


def test_it_learns_and_leaves_an_ordinary_model(tmp_path: Path) -> None:
    model = DupmaeObjective(bert())
    batches = RowBatches(rows(), 16, DupmaeMasking(special()))
    before = {name: figure.item() for name, figure in model(batches(0))[1].items()}
    loop = LoopSettings(steps=60, lr=3e-3, warmup=5, precision="no", checkpoint_every=1000)
    train(model, batches, loop, tmp_path / "run", workers=0, console=Console(quiet=True))
    after = {name: figure.item() for name, figure in model.eval()(batches(0))[1].items()}
    assert all(after[name] < 0.85 * before[name] for name in before)

    folder = save_folder(model.model, tokenizer(), tmp_path / "model")
    made = AutoTokenizer.from_pretrained(folder)(["the fox jumps"], return_tensors="pt")
    loaded = BertForMaskedLM.from_pretrained(folder).eval()
    torch.testing.assert_close(loaded(**made).logits, model.model(**made).logits)
    body = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    torch.testing.assert_close(body(**made)[0], model.model.bert(**made)[0])


def pairs() -> Batch:
    """Queries and documents: the first and the last words of each text."""
    ids = encode(tokenizer(), TEXTS[:16])
    queries = rows_of([[text[1:7]] for text in ids], 12, special())
    documents = rows_of([[text[6:]] for text in ids], 40, special())
    return {
        "query_ids": queries.ids,
        "query_mask": queries.mask,
        "document_ids": documents.ids,
        "document_mask": documents.mask,
    }


def test_contrastive_fine_tuning_learns_to_find(tmp_path: Path) -> None:
    encoder = DupmaeEncoder(bert(), dense=16, entries=40)
    objective = ContrastiveRetrieval(encoder)
    before = objective(pairs())[0].item()
    loop = LoopSettings(steps=40, lr=1e-3, warmup=5, precision="no", checkpoint_every=1000)
    train(objective, lambda step: pairs(), loop, tmp_path, workers=0, console=Console(quiet=True))
    loss, figures = objective.eval()(pairs())
    assert loss.item() < 0.7 * before
    assert figures["first"].item() > 0.3


def test_hard_negatives_and_a_teacher_enter_the_loss() -> None:
    objective = ContrastiveRetrieval(DupmaeEncoder(bert(), dense=16, entries=40)).eval()
    made = pairs()
    plain = objective(made)[0]
    hard = made | {
        "negative_ids": made["document_ids"].roll(1, 0),
        "negative_mask": made["document_mask"].roll(1, 0),
    }
    with_negatives = objective(hard)[0]
    assert with_negatives.item() > plain.item()
    taught = objective(hard | {"teacher": torch.tensor([[3.0, -3.0]]).expand(16, 2)})[0]
    assert taught.item() > with_negatives.item()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="encoder_rate"):
        DupmaeSettings(encoder_rate=1.0)
    with pytest.raises(InputError, match="mask"):
        DupmaeSettings(masks=0)
    with pytest.raises(InputError, match="temperature"):
        ContrastiveRetrieval(DupmaeEncoder(bert()), temperature=0)
    with pytest.raises(InputError, match="score"):
        ContrastiveRetrieval(torch.nn.Linear(2, 2))
