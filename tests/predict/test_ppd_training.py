"""Prompt tokens learn to look ahead, and are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenry.predict.lm.ppd.prompts import PromptTokens, look_ahead
from tokenry.predict.lm.ppd.training import (
    PromptTokenDistillation,
    TruncatedTexts,
    WholeTexts,
    acceptance_table,
    guess_ranks,
    prompt_settings,
)
from tokenry.tokens.errors import InputError
from tokenry.train.language import TokenBatches, small_llama
from tokenry.train.loop import train

V = 40


class Words:
    """A tokenizer of numbers."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


@pytest.fixture(scope="module")
def model() -> Any:
    """Random, and sharp enough to have habits."""
    model = small_llama(V, layers=2, width=32, heads=2, context=64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
        model.model.norm.weight.mul_(8)
    return model.eval()


@pytest.fixture(scope="module")
def texts(model: Any) -> torch.Tensor:
    """What the model itself writes after random beginnings."""
    begin = torch.randint(0, V, (24, 4), generator=torch.Generator().manual_seed(0))
    return model.generate(
        begin,
        attention_mask=torch.ones_like(begin),
        max_new_tokens=28,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )


def test_first_embeddings_are_those_of_words(model: Any) -> None:
    table = model.get_input_embeddings().weight
    prompts = PromptTokens.from_words(model, Words(), 3, 1, "7 9 7")
    assert torch.equal(prompts.embeddings[:, 0], table[[7, 9, 7]])
    pair = PromptTokens.from_words(model, Words(), 2, 2, "7 9 11")
    assert torch.equal(pair.embeddings, table[torch.tensor([[7, 9], [11, 7]])])
    with pytest.raises(InputError, match="1 different tokens; an ensemble of 2"):
        PromptTokens.from_words(model, Words(), 2, 2, "7 7")
    with pytest.raises(InputError, match="at least one prompt"):
        PromptTokens.from_words(model, Words(), 0)


def test_loss_is_the_decayed_divergence(model: Any, texts: torch.Tensor) -> None:
    prompts = PromptTokens.from_words(model, Words(), 2, 2, "7 9 11")
    batch = {"input_ids": texts[:2], "points": torch.tensor([[5, 9], [20, 31]])}
    loss, figures = PromptTokenDistillation(model, prompts)(batch)
    loss.backward()
    with torch.no_grad():
        found = look_ahead(model, prompts, texts[:2], batch["points"])
    p, q = found.teacher.softmax(-1).double(), found.guesses.softmax(-1).double()
    expected = (p * (p / q).log()).sum(-1).mean((0, 1))
    assert float(loss.detach()) == pytest.approx(float(expected[0] + 0.8 * expected[1]) / 2, rel=1e-4)
    assert set(figures) == {"right_1", "right_2"}
    assert prompts.embeddings.grad is not None
    assert float(prompts.embeddings.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("teacher", ["greedy", "text"])
def test_training_helps_and_only_prompt_tokens_are_kept(
    model: Any, texts: torch.Tensor, tmp_path: Path, teacher: Any
) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    prompts = PromptTokens.from_words(model, Words(), 2, 1, "7 9")
    held_out = texts[16:].tolist()
    objective = PromptTokenDistillation(model, prompts, teacher)
    unseen = {"input_ids": texts[16:], "points": torch.arange(6, 28, 3).expand(8, -1)}

    def measured() -> tuple[float, np.ndarray]:
        with torch.no_grad():
            return float(objective(unseen)[0]), acceptance_table(model, prompts, held_out, 5, 4)

    loss, table = measured()
    batches = TruncatedTexts(WholeTexts(texts[:16], 8), 8, ahead=3)
    train(objective, batches, prompt_settings(80, lr=3e-2), tmp_path, workers=0)
    trained_loss, trained_table = measured()
    assert trained_loss < 0.85 * loss
    assert (trained_table.sum(1) > table.sum(1) + 0.1).all()
    assert sorted(objective.state_dict()) == ["prompts.embeddings"]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_acceptance_counts_exact_guesses(model: Any, texts: torch.Tensor) -> None:
    prompts = PromptTokens.from_words(model, Words(), 2, 1, "7 9")
    some = texts[:3].tolist()
    ranks = list(guess_ranks(model, prompts, some, first=[4, 6, 8], teacher="text", points=5))
    assert [len(r) for r in ranks] == [
        26,
        24,
        22,
    ]  # the last point leaves two tokens and the one to be judged
    outlook = look_ahead(model, prompts, texts[:1], torch.tensor([[10]]), "text")
    order = outlook.guesses[0, 0].argsort(-1, descending=True)
    expected = [int((order[i] == texts[0, 11 + i]).nonzero()) for i in range(2)]
    assert ranks[0][10 - 4].tolist() == expected
    table = acceptance_table(model, prompts, some, 7, [4, 6, 8], "text")
    assert table.shape == (2, 7)
    assert (table.sum(1) <= 1).all()
    assert table[1, 0] == pytest.approx((np.concatenate(ranks)[:, 1] == 0).mean())
    whole = acceptance_table(model, prompts, some, V, 4)
    assert np.allclose(whole.sum(1), 1)
    with pytest.raises(InputError, match="No point of a text of 5 tokens"):
        acceptance_table(model, prompts, [[1, 2, 3, 4, 5]], first=6)
    with pytest.raises(InputError, match="no text"):
        acceptance_table(model, prompts, [])


def test_points_of_a_step() -> None:
    ids = torch.arange(100)
    batches = TruncatedTexts(TokenBatches(ids, 20, 3), 6, least=5, ahead=2, seed=1)
    one, again, other = batches(0), batches(0), batches(1)
    assert torch.equal(one["points"], again["points"])
    assert not torch.equal(one["points"], other["points"])
    assert one["input_ids"].shape == (3, 20)
    assert one["points"].shape == (3, 6)
    every = torch.cat([batches(step)["points"][0] for step in range(40)])
    assert (int(every.min()), int(every.max())) == (5, 18)
    assert all(len(set(batches(step)["points"][0].tolist())) == 6 for step in range(5))
    with pytest.raises(InputError, match="15 points do not fit"):
        TruncatedTexts(TokenBatches(ids, 20, 3), 15, least=5, ahead=2)(0)
