"""Causal language models on the loop."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenry.tokens.errors import InputError
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.loop import LoopSettings, train


def _tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {char: index for index, char in enumerate("abcdefgh")}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_the_loss_is_that_of_the_next_token() -> None:
    model = small_llama(11, layers=1, width=16, heads=2)
    ids = torch.arange(10).view(2, 5)
    loss, figures = CausalLanguageModel(model)({"input_ids": ids})
    logs = model(ids).logits[:, :-1].log_softmax(-1)
    expected = -logs.gather(2, ids[:, 1:, None]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert figures["bits_per_token"].item() == pytest.approx(expected.item() / math.log(2), rel=1e-5)
    labels = torch.full_like(ids, -100)
    labels[0, 3] = 3
    masked, _ = CausalLanguageModel(model)({"input_ids": ids, "labels": labels})
    assert masked.item() == pytest.approx(-logs[0, 2, 3].item(), rel=1e-5)


def test_batches_depend_on_seed_and_step_only() -> None:
    batches = TokenBatches(torch.arange(100), length=8, batch=4, seed=1)
    first = batches(0)["input_ids"]
    assert first.shape == (4, 8)
    assert torch.equal(first, first[:, :1] + torch.arange(8)), "a stretch is what stands in the row"
    assert torch.equal(batches(0)["input_ids"], first)
    assert not torch.equal(batches(1)["input_ids"], first)
    assert not torch.equal(TokenBatches(torch.arange(100), 8, 4, seed=2)(0)["input_ids"], first)
    whole = TokenBatches(torch.arange(8), length=8, batch=1)(5)["input_ids"]
    assert torch.equal(whole[0], torch.arange(8))
    with pytest.raises(InputError, match="7 tokens, fewer than one stretch of 8"):
        TokenBatches(torch.arange(7), length=8, batch=1)


@pytest.mark.parametrize(
    ("special", "row"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, [8, 0, 1, 9, 8, 2, 9]),
        ({"eos_token": "</s>"}, [8, 0, 1, 8, 2]),
        ({"bos_token": "<s>"}, [8, 0, 1, 8, 2]),
        ({}, [0, 1, 2]),
    ],
)
def test_packing_marks_where_texts_start(special: dict[str, str], row: list[int]) -> None:
    assert pack(_tokenizer(**special), ["ab", "", "c"]).tolist() == row


def test_packing_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="all texts are empty"):
        pack(_tokenizer(), ["", ""])


def test_a_small_llama_is_seeded_without_side_effects() -> None:
    state = torch.random.get_rng_state()
    one, two, other = (small_llama(20, layers=1, width=16, heads=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.get_input_embeddings().weight for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.lm_head.weight is one.get_input_embeddings().weight
    untied = small_llama(20, layers=1, width=16, heads=2, tied=False)
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
    with pytest.raises(InputError, match="5 heads and width 16"):
        small_llama(20, width=16, heads=5)


def test_it_learns_and_resumes(tmp_path: Path) -> None:
    """A row that repeats is learnt by heart; a run in two parts ends in the same weights."""
    batches = TokenBatches(torch.arange(400) % 8, length=16, batch=8)
    settings = LoopSettings(steps=30, lr=1e-2, warmup=5, precision="no", checkpoint_every=15)

    def objective() -> CausalLanguageModel:
        return CausalLanguageModel(small_llama(8, layers=1, width=16, heads=2, context=16))

    whole = train(objective(), batches, settings, tmp_path / "whole", workers=0)
    train(objective(), batches, settings, tmp_path / "parts", workers=0, stop_after=15)
    parts = train(objective(), batches, settings, tmp_path / "parts", workers=0)
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, two)
    before = objective()(batches(99))[0].item()
    assert whole(batches(99))[0].item() < 0.5 * before
