"""What FLASH's drafters learn from: whose states, which guesses count, and that training helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.predict.lm.flash.drafter import ChainDrafter, Drafter, FlashConfig, FlashDrafter
from tokenry.predict.lm.flash.training import FlashObjective, LessonBatches, Lessons, paper_settings, record
from tokenry.tokens.errors import InputError
from tokenry.train.loop import LoopSettings, train

V, D, PICTURE, END = 40, 16, 39, 38
CONFIG = FlashConfig(width=D, offsets=3, latents=2, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.config.image_token_id = PICTURE
    return model


def prompts() -> dict[str, Tensor]:
    """A short and a long question behind a "picture" of three positions."""
    rows = [[0, 0, 1, PICTURE, PICTURE, PICTURE, 5, 6], [1, PICTURE, PICTURE, PICTURE, 7, 8, 9, 10]]
    return {"input_ids": torch.tensor(rows), "attention_mask": (torch.tensor(rows) != 0).long()}


def lessons(rows: int = 6, s: int = 14) -> Lessons:
    """Random states; pictures at 1, 2 and 3; answers from 6 or 7 on, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, END, (rows, s + 1), generator=generator)
    ids[:, 1:4] = PICTURE
    hidden = torch.randn(rows, s, D, generator=generator)
    return Lessons(ids, hidden, torch.arange(rows) % 2 + 6, torch.arange(rows) % 4 + 11)


def test_what_a_model_answers_is_recorded_without_padding(model: Any) -> None:
    asked = prompts()
    found = record(model, asked, max_new_tokens=6, dtype=torch.float32)
    expected = model.generate(**asked, max_new_tokens=6, do_sample=False)
    assert found.starts.tolist() == [6, 8]
    for row, padding in ((0, 2), (1, 0)):
        length = int(found.lengths[row])
        ids = found.ids[row, :length]
        assert torch.equal(ids, expected[row, padding : padding + length])
        states = model.model(input_ids=ids[None, :-1]).last_hidden_state[0]
        torch.testing.assert_close(found.hidden[row, : length - 1], states, atol=1e-4, rtol=1e-4)


def test_an_answer_ends_where_the_model_ends_it(model: Any) -> None:
    asked = prompts()
    free = record(model, asked, max_new_tokens=6)
    model.generation_config.eos_token_id = [END, int(free.ids[1, 8 + 2])]
    try:
        found = record(model, asked, max_new_tokens=6)
    finally:
        model.generation_config.eos_token_id = END
    answer = free.ids[1, 8:14].tolist()
    assert int(found.lengths[1]) == 8 + answer.index(answer[2]) + 1


class Knowing(Drafter):
    """Guesses the states of a batch that it was shown; what it does not know is NaN."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__(CONFIG)
        self.offsets, self.known = 3, F.pad(hidden, (0, 0, 0, 3), value=torch.nan)

    def forward(self, hidden: Tensor, following: Tensor, span: tuple[int, int]) -> Tensor:
        assert span == (1, 4)
        at = torch.arange(4, hidden.shape[1])
        return self.known[:, at[:, None] + 1 + torch.arange(3)]


def test_an_offset_is_that_many_states_ahead_and_padding_does_not_count(model: Any) -> None:
    some = lessons()
    batch = LessonBatches(some, 6)(0)
    known = batch["hidden"].clone()
    for row, (start, length) in enumerate(zip(batch["starts"], batch["lengths"], strict=True)):
        known[row, int(length) - 1 :] = torch.nan  # behind the state that wrote the last token
        known[row, : int(start)] = torch.nan  # the first guess is of the answer's first token's state
    loss, figures = FlashObjective(Knowing(known), model)(batch)
    assert float(figures["regression"]) == 0
    assert float(figures["nearest"]) == float(figures["farthest"]) == 1
    entropy = torch.stack(
        [
            torch.special.entr(model.lm_head(batch["hidden"][row, j + 1 + i]).softmax(-1)).sum()
            for row in range(6)
            for j in range(int(batch["starts"][row]) - 1, int(batch["lengths"][row]))
            for i in range(3)
            if j + 1 + i <= int(batch["lengths"][row]) - 2
        ]
    ).mean()
    torch.testing.assert_close(loss, 0.1 * entropy)


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_what_stands_behind_an_answer_changes_nothing(model: Any, kind: type[Drafter]) -> None:
    torch.manual_seed(0)
    objective = FlashObjective(kind(CONFIG), model).eval()
    batch = LessonBatches(lessons(), 6)(0)
    expected, _ = objective(batch)
    for row, length in enumerate(batch["lengths"]):
        batch["hidden"][row, int(length) - 1 :] = 9.0
        batch["ids"][row, int(length) :] = 7
    assert torch.equal(objective(batch)[0], expected)


def test_nothing_to_guess_costs_nothing(model: Any) -> None:
    batch = LessonBatches(lessons(), 6)(0)
    batch["lengths"] = batch["starts"] + 1
    loss, _ = FlashObjective(FlashDrafter(CONFIG), model)(batch)
    loss.backward()
    assert float(loss.detach()) == 0


def test_noise_is_as_wide_as_published(model: Any) -> None:
    seen: list[Tensor] = []

    class Watching(FlashDrafter):
        def forward(self, hidden: Tensor, following: Tensor, span: tuple[int, int]) -> Tensor:
            seen.append(hidden)
            return super().forward(hidden, following, span)

    objective = FlashObjective(Watching(CONFIG), model)
    batch = LessonBatches(lessons(), 6)(0)
    objective(batch)
    objective.eval()(batch)
    noise = (seen[0] - batch["hidden"]).abs().max()
    widest = 0.2 * 512 / batch["hidden"].shape[1] / 2
    assert 0.95 * widest < float(noise) <= widest
    assert torch.equal(seen[1], batch["hidden"])


def test_only_the_drafter_is_trained_and_kept(model: Any) -> None:
    objective = FlashObjective(FlashDrafter(CONFIG), model)
    assert all(name.startswith("drafter.") for name in objective.state_dict())
    assert all(name.startswith("drafter.") for name, _ in objective.named_parameters())


@pytest.mark.parametrize(("kind", "latents"), [(FlashDrafter, 2), (FlashDrafter, None), (ChainDrafter, None)])
def test_training_helps(model: Any, kind: type[Drafter], latents: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    told = Lessons.join([record(model, prompts(), max_new_tokens=12)])
    short = Lessons(*(getattr(told, name)[1:] for name in ("ids", "hidden", "starts", "lengths")))
    config = FlashConfig(width=D, offsets=2, latents=latents, heads=4, kv_heads=2)
    objective = FlashObjective(kind(config), model, noise=0.0)
    batches = LessonBatches(short, 1)
    _, before = objective(batches(0))
    settings = LoopSettings(steps=120, lr=1e-2, warmup=5, precision="no")
    train(objective, batches, settings, tmp_path, workers=0)
    _, after = objective(batches(0))
    assert float(after["regression"].detach()) < 0.3 * float(before["regression"].detach())
    assert float(after["nearest"]) > 0.8


def test_all_lessons_come_before_any_again() -> None:
    some = lessons()
    some.ids[:, 0] = torch.arange(6)
    batches = LessonBatches(some, 2)
    for round_ in range(3):
        rows = torch.cat([batches(3 * round_ + i)["ids"][:, 0] for i in range(3)])
        assert sorted(rows.tolist()) == list(range(6))
    again = LessonBatches(some, 2)(5)
    assert torch.equal(again["ids"], batches(5)["ids"])
    assert again["ids"].shape[1] == int(again["lengths"].max())


def test_lessons_are_kept_and_joined(tmp_path: Path) -> None:
    some, more = lessons(), lessons(2, 10)
    joined = Lessons.join([some, more])
    assert joined.ids.shape == (8, 15)
    assert torch.equal(joined.hidden[6:, :10], more.hidden)
    found = Lessons.load(joined.save(tmp_path / "lessons"))
    assert torch.equal(found.hidden, joined.hidden)
    assert len(found) == 8
    with pytest.raises(InputError, match="no lessons"):
        Lessons.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no lessons to join"):
        Lessons.join([])


def test_what_cannot_be_learnt_from(model: Any) -> None:
    some = lessons()
    with pytest.raises(InputError, match="6 lessons cannot fill"):
        LessonBatches(some, 7)
    batch = LessonBatches(some, 6)(0)
    batch["ids"][2, 4] = PICTURE
    with pytest.raises(InputError, match="different places"):
        FlashObjective(FlashDrafter(CONFIG), model)(batch)


def test_the_papers_settings() -> None:
    paper = paper_settings()
    assert (paper.steps, paper.warmup, paper.lr, paper.betas) == (800_000, 2_000, 3e-5, (0.9, 0.95))
    short = paper_settings(4_000, lr=1e-3)
    assert (short.warmup, short.lr) == (10, 1e-3)
