"""DupMAE's representation: the sparse score, padding, order, and keeping an encoder."""

from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM

from tests.train.encoders import TEXTS, bert, tokenizer
from tokenry.embed.dupmae.encoder import DupmaeEncoder, Representation, sparse_scores
from tokenry.tokens.errors import InputError


def encoder(**settings: float | None) -> DupmaeEncoder:
    torch.manual_seed(1)
    return DupmaeEncoder(bert(), **settings).eval()


def test_with_all_entries_the_sparse_score_is_the_dense_dot_product() -> None:
    model = encoder(dense=16, entries=10_000)
    assert model.entries == len(tokenizer())
    made = tokenizer()(list(TEXTS[:5]), return_tensors="pt", padding=True)
    found = model(made["input_ids"], made["attention_mask"])
    logits = model.model(**made).logits[:, 1:].masked_fill(~made["attention_mask"][:, 1:, None].bool(), -1000)
    bags = logits.amax(1).relu()
    torch.testing.assert_close(sparse_scores(found, found, model.entries), bags @ bags.T)
    dense = found.dense @ found.dense.T
    torch.testing.assert_close(model.score(found, found), dense + bags @ bags.T)
    model.sparse_weight = 0.5
    torch.testing.assert_close(model.score(found, found), dense + 0.5 * bags @ bags.T)


def test_only_common_entries_count() -> None:
    queries = Representation(torch.zeros(1, 2), torch.tensor([[2.0, 3.0]]), torch.tensor([[4, 1]]))
    documents = Representation(
        torch.zeros(2, 2), torch.tensor([[5.0, 7.0], [1.0, 1.0]]), torch.tensor([[1, 3], [0, 2]])
    )
    assert sparse_scores(queries, documents, 6).tolist() == [[15.0, 0.0]]


def test_many_documents_are_scored_as_few_are() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(50, generator=generator)[:8] for _ in range(1100)])
    documents = Representation(
        torch.randn(1100, 4, generator=generator), torch.rand(1100, 8, generator=generator), indices
    )
    queries = Representation(documents.dense[:3], documents.values[:3], documents.indices[:3])
    scores = sparse_scores(queries, documents, 50)
    for d in (0, 511, 512, 1099):
        own = {int(i): float(v) for i, v in zip(documents.indices[d], documents.values[d], strict=True)}
        for q in range(3):
            pairs = zip(queries.indices[q].tolist(), queries.values[q].tolist(), strict=True)
            assert scores[q, d].item() == pytest.approx(sum(v * own.get(i, 0.0) for i, v in pairs))


def test_texts_come_back_in_order_and_without_regard_to_their_batch() -> None:
    model = encoder(dense=16, entries=20)
    texts = [TEXTS[0], "fox", TEXTS[3][:40], "dog walks", TEXTS[7]]
    together = model.encode(tokenizer(), texts, batch=3)
    for row, text in enumerate(texts):
        alone = model.encode(tokenizer(), [text])
        torch.testing.assert_close(together.dense[row : row + 1], alone.dense, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.values[row : row + 1], alone.values, rtol=1e-4, atol=1e-5)
    assert (together.values >= 0).all()


def test_without_a_linear_map_or_without_words() -> None:
    whole = encoder(dense=None, entries=0)
    found = whole.encode(tokenizer(), TEXTS[:3])
    assert found.dense.shape == (3, 32)
    assert found.values.shape == (3, 0)
    torch.testing.assert_close(whole.score(found, found), found.dense @ found.dense.T)


def test_an_encoder_is_saved_as_an_ordinary_folder(tmp_path: Path) -> None:
    model = encoder(dense=16, entries=20, sparse_weight=0.3)
    folder = model.save_pretrained(tmp_path / "encoder", tokenizer())
    again, words = DupmaeEncoder.from_pretrained(folder)
    assert again.settings() == {"dense": 16, "entries": 20, "sparse_weight": 0.3}
    before, after = model.encode(tokenizer(), TEXTS), again.encode(words, TEXTS)
    torch.testing.assert_close(model.score(before, before), again.score(after, after))
    assert BertForMaskedLM.from_pretrained(folder).config.hidden_size == 32
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="width"):
        encoder(dense=0)
    with pytest.raises(InputError, match="sparse_weight"):
        encoder(sparse_weight=0)
    with pytest.raises(InputError, match="no texts"):
        encoder(dense=8).encode(tokenizer(), [])
    with pytest.raises(InputError, match="no retrieval encoder"):
        DupmaeEncoder.from_pretrained(tmp_path)
