"""ELECTRA: counts, labels by identity, what gets gradients, padding, the variants, and an ordinary model at the end."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoTokenizer, ElectraForPreTraining

from tests.train.encoders import electra, generator, rows, special, tokenizer
from tokenry.learn.electra import (
    ElectraMasking,
    ElectraObjective,
    ElectraSettings,
    Generator,
    Task,
    electra_config,
    generator_config,
    masked_count,
    replace,
)
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings, train
from tokenry.train.rows import RowBatches, save_folder


def batch(size: int = 6, seed: int = 0) -> Batch:
    return ElectraMasking(special(), 24)(rows()[torch.arange(size)], generator(seed))


def objective(seed: int = 0, **settings: object) -> ElectraObjective:
    made = ElectraSettings(**settings)
    unigram = torch.ones(len(tokenizer())) if made.generator == "unigram" else None
    return ElectraObjective(electra(seed), made, unigram=unigram, forbidden=special().special).eval()


class Perfect(ElectraObjective):
    """A generator that gives the original tokens back."""

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.originals


class Never(ElectraObjective):
    """A generator that never does."""

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.where(self.originals == 7, 8, 7)


def test_batches_follow_the_paper() -> None:
    made = batch(24)
    count = made["chosen"].sum(1)
    lengths = made["attention_mask"].sum(1)
    limit = int(0.155 * 24)
    assert count.tolist() == [max(1, min(limit, round(0.15 * int(n)))) for n in lengths]
    off = ~made["chosen"]
    assert torch.equal(made["masked_ids"][off], made["input_ids"][off])
    shown = made["masked_ids"][made["chosen"]]
    kept = shown == made["input_ids"][made["chosen"]]
    assert ((shown == special().mask) | kept).all()
    assert not torch.isin(made["input_ids"][made["chosen"]], torch.tensor(sorted(special().special))).any()


def test_a_perfect_generator_leaves_nothing_to_find_and_another_everything_chosen() -> None:
    made = batch()
    for kind, expected in ((Perfect, torch.zeros_like(made["chosen"])), (Never, made["chosen"])):
        model = kind(electra())
        model.originals = made["input_ids"][made["chosen"]]
        corrupted, replaced = replace(made["input_ids"], made["chosen"], model.sample(torch.empty(0, 1)))
        assert torch.equal(replaced, expected)
        assert torch.equal(corrupted[~made["chosen"]], made["input_ids"][~made["chosen"]])
        _, figures = model(made)
        assert float(figures["replaced"]) == pytest.approx(
            float(expected.sum() / made["attention_mask"].sum())
        )


def test_samples_follow_the_generator_and_are_never_special() -> None:
    model = objective()
    probabilities = torch.zeros(len(tokenizer())) - 20
    probabilities[[10, 11]] = torch.tensor([0.75, 0.25]).log()
    probabilities[2] = 5.0  # [CLS], and by far the most likely
    drawn = model.sample(probabilities.expand(20_000, -1), generator())
    assert set(drawn.tolist()) == {10, 11}
    assert float((drawn == 10).float().mean()) == pytest.approx(0.75, abs=0.015)
    assert torch.equal(drawn, model.sample(probabilities.expand(20_000, -1), generator()))


def test_the_encoders_loss_reaches_the_shared_embeddings_but_not_the_generator() -> None:
    model = objective()
    _, figures = model(batch())
    figures["encoder"].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not [name for name in with_gradient if name.startswith("generator")]
    shared = "discriminator.electra.embeddings"
    assert {f"{shared}.word_embeddings.weight", f"{shared}.position_embeddings.weight"} <= with_gradient
    model.zero_grad()
    loss, figures = model(batch())
    figures["generator"].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert f"{shared}.word_embeddings.weight" in with_gradient
    assert not [name for name in with_gradient if name.startswith("discriminator") and shared not in name]
    assert loss.item() == pytest.approx(sum(figures[k].item() for k in ("generator", "encoder")), rel=1e-5)


@pytest.mark.parametrize("task", get_args(Task))
def test_padding_never_contributes(task: str) -> None:
    short = batch(4)
    padded = {name: torch.nn.functional.pad(tensor, (0, 9)) for name, tensor in short.items()}
    model = Never(electra(), ElectraSettings(task=task))
    model.originals = short["input_ids"][short["chosen"]]
    first, second = model(short), model(padded)
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-5)
    for name in first[1]:
        torch.testing.assert_close(first[1][name], second[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", ["electra", "electra-15"])
def test_a_constant_encoder_has_loss_ln_2(task: str) -> None:
    model = objective(task=task, weight=1.0)
    head = model.discriminator.discriminator_predictions.dense_prediction
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    _, figures = model(batch())
    assert figures["encoder"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_all_tokens_loss_is_the_likelihood_under_copying() -> None:
    """Against the formula of the paper, written with probabilities."""
    made = batch(3)
    model = Never(electra(), ElectraSettings(task="all-tokens-mlm"))
    model.originals = made["input_ids"][made["chosen"]]
    corrupted, _ = replace(made["input_ids"], made["chosen"], model.sample(torch.empty(0, 1)))
    hidden = model.discriminator.electra(
        corrupted, attention_mask=made["attention_mask"], token_type_ids=made["token_type_ids"]
    ).last_hidden_state
    copy = 1 - model.discriminator.discriminator_predictions(hidden).sigmoid()
    named = model.namer.generator_lm_head(model.namer.generator_predictions(hidden)).softmax(-1)
    right = named.gather(2, made["input_ids"][..., None])[..., 0]
    likelihood = (1 - copy) * right + copy * (corrupted == made["input_ids"])
    expected = -likelihood.log()[made["attention_mask"].bool()].mean()
    torch.testing.assert_close(model(made)[1]["encoder"], expected, rtol=1e-4, atol=1e-5)


def test_generators_of_every_kind() -> None:
    for kind in get_args(Generator):
        model = objective(generator=kind)
        loss, figures = model(batch())
        loss.backward()
        assert loss.isfinite()
        assert (figures["generator"].item() > 0) == (kind in ("network", "tied"))
    tied = objective(generator="tied")
    assert tied.generator is not None
    assert tied.generator.electra is tied.discriminator.electra
    counts = torch.zeros(len(tokenizer()))
    counts[[20, 21]] = torch.tensor([3.0, 1.0])
    model = ElectraObjective(electra(), ElectraSettings(generator="unigram"), unigram=counts)
    drawn = model.sample(model.prior.expand(10_000, -1), generator())
    assert set(drawn.tolist()) == {20, 21}
    assert float((drawn == 20).float().mean()) == pytest.approx(0.75, abs=0.02)


def test_the_generator_is_narrower_and_equally_deep() -> None:
    base = electra_config(1000, width=768, layers=12, heads=12, embedding=768)
    config = generator_config(base, 1 / 3)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (256, 4, 1024)
    assert (config.num_hidden_layers, config.embedding_size) == (12, 768)
    assert base.hidden_size == 768


@pytest.mark.parametrize("task", get_args(Task))
def test_it_learns(task: str, tmp_path: Path) -> None:
    model = ElectraObjective(
        electra(dropout=0.1), ElectraSettings(task=task, share=0.5), forbidden=special().special
    )
    batches = RowBatches(rows(), 16, ElectraMasking(special(), 24))
    model.eval()
    before = [figure.item() for figure in model(batches(0))[1].values()]
    loop = LoopSettings(steps=120, lr=3e-3, warmup=5, precision="no", checkpoint_every=1000)
    train(model, batches, loop, tmp_path, workers=0, console=Console(quiet=True))
    model.eval()
    after = [figure.item() for figure in model(batches(0))[1].values()]
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.9 * before[1]


def test_what_is_kept_is_an_ordinary_model(tmp_path: Path) -> None:
    model = objective()
    folder = save_folder(model.discriminator, tokenizer(), tmp_path / "model")
    loaded = ElectraForPreTraining.from_pretrained(folder).eval()
    made = AutoTokenizer.from_pretrained(folder)(["the fox jumps"], return_tensors="pt")
    assert made["input_ids"].shape[1] >= 5
    torch.testing.assert_close(loaded(**made).logits, model.discriminator(**made).logits)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="share"):
        ElectraSettings(share=0)
    with pytest.raises(InputError, match="temperature"):
        ElectraSettings(temperature=0)
    with pytest.raises(InputError, match="unigram"):
        ElectraObjective(electra(), ElectraSettings(generator="unigram"))
    with pytest.raises(InputError, match="counts"):
        ElectraObjective(electra(), ElectraSettings(generator="unigram"), unigram=torch.ones(3))
    with pytest.raises(InputError, match="heads"):
        generator_config(electra_config(100, width=96, heads=12), 0.3)


def test_batches_are_a_function_of_the_step() -> None:

    batches = RowBatches(rows(), 8, ElectraMasking(special(), 24), seed=3)
    for step in (0, 5, 17):
        first, second = batches(step), batches(step)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(batches(0)["chosen"], batches(1)["chosen"])


@pytest.mark.parametrize(
    ("length", "longest", "count"), [(128, 128, 19), (512, 512, 77), (3, 128, 1), (1, 128, 1)]
)
def test_how_many_are_masked(length: int, longest: int, count: int) -> None:
    assert masked_count(torch.tensor([length]), 0.15, longest).tolist() == [count]
