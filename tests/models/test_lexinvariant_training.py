"""Training of lexinvariant models: draws follow the step; a probe reads any substitution."""

import math
from pathlib import Path

import torch
from rich.console import Console

from tokenry.models.language.lexinvariant.model import LexinvariantConfig, LexinvariantForCausalLM
from tokenry.models.language.lexinvariant.training import (
    DecipherProbe,
    LexinvariantLanguageModel,
    majority_key,
    with_draws,
)
from tokenry.train.loop import Batch, LoopSettings, train

V = 6


def model() -> LexinvariantForCausalLM:
    torch.manual_seed(0)
    return LexinvariantForCausalLM(
        LexinvariantConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    )


def cycles(step: int) -> Batch:
    """Symbols repeat with period 3: predictable from the fourth on, whatever they are."""
    generator = torch.Generator().manual_seed(step)
    first = torch.rand(16, V, generator=generator).argsort(1)[:, :3]
    return {"input_ids": first.repeat(1, 4)}


def quickly(objective: torch.nn.Module, folder: Path, steps: int, **changes: object) -> torch.nn.Module:
    settings = LoopSettings(
        steps=steps, lr=1e-2, warmup=20, precision="no", checkpoint_every=steps, **changes
    )
    return train(
        objective, with_draws(cycles), settings, folder, workers=0, console=Console(quiet=True)
    ).eval()


def test_draws_follow_the_step() -> None:
    make = with_draws(cycles)
    assert torch.equal(make(3)["seeds"], make(3)["seeds"])
    seen = torch.cat([make(step)["seeds"] for step in range(20)])
    assert len(seen.unique()) == len(seen) == 320
    assert not torch.equal(make(3)["seeds"], with_draws(cycles, seed=1)(3)["seeds"])


def test_it_learns_to_use_what_recurs(tmp_path: Path) -> None:
    objective = quickly(LexinvariantLanguageModel(model()), tmp_path, 300)
    batch = with_draws(cycles)(1000)
    with torch.no_grad():
        losses = objective.losses(batch["input_ids"], batch["seeds"]).mean(0)
        loss, figures = objective(batch)
    assert losses[0] > math.log(V) - 0.1  # nothing is known of a first symbol
    assert losses[3:].mean() < 0.6 * losses[0]
    torch.testing.assert_close(loss, losses.mean())
    torch.testing.assert_close(figures["bits"], losses.mean() / math.log(2))


def test_the_probe_learns_and_leaves_the_model_alone(tmp_path: Path) -> None:
    network = model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe = quickly(DecipherProbe(network, 64), tmp_path, 20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not torch.equal(probe.read[0].weight, DecipherProbe(network, 64).read[0].weight)
    assert all(p.grad is None for p in network.parameters())


def test_the_probe_reads_ciphered_text_as_it_reads_plain_text() -> None:
    probe = DecipherProbe(model(), 64)
    ids = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(0))
    seeds, cipher = torch.tensor([1, 2]), torch.tensor([4, 0, 1, 5, 2, 3])
    vectors = probe.model.draw(seeds, torch.arange(V).expand(2, -1))
    plain = probe.logits(ids, seeds)
    torch.testing.assert_close(probe.logits(cipher[ids], seeds, vectors[:, cipher.argsort()]), plain)


def test_votes() -> None:
    ciphered = torch.tensor([[2, 2, 2, 1]])
    logits = torch.zeros(1, 4, 4)
    logits[0, torch.arange(4), torch.tensor([3, 0, 0, 1])] = 1
    assert majority_key(ciphered, logits).tolist() == [-1, 1, 0, -1]
    assert majority_key(ciphered, logits, first=3).tolist() == [-1, 1, -1, -1]
