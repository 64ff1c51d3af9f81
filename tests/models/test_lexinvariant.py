"""Lexinvariant models: whatever is done to the names of the tokens, the predictions follow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.models.language.lexinvariant import model as lexinvariant
from tokenry.models.language.lexinvariant.model import (
    LexinvariantConfig,
    LexinvariantForCausalLM,
    chosen,
    gaussian_rows,
)
from tokenry.tokens.errors import InputError

V, D = 16, 32


def model(share: float = 1.0, vocabulary: int = V, seed: int = 0) -> LexinvariantForCausalLM:
    torch.manual_seed(seed)
    config = LexinvariantConfig(
        vocab_size=vocabulary,
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        random_share=share,
    )
    return LexinvariantForCausalLM(config).eval()


def text(rows: int = 3, length: int = 12, vocabulary: int = V) -> Tensor:
    ids = torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.full((rows, 1), vocabulary), ids], 1)


SEEDS = torch.tensor([3, 4, 5])


def ciphered(ids: Tensor, embeddings: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The text under a substitution, and the draw in which ciphered symbols look as the plain ones did."""
    moved = torch.cat([key, torch.tensor([V])])[ids]
    return moved, embeddings[:, key.argsort()]


# ------------------------------------------------------------------------------------------------------ draws


def test_rows_are_standard_normal() -> None:
    rows = gaussian_rows(torch.arange(40), torch.arange(50)[None], 64)
    assert rows.shape == (40, 50, 64)
    n = rows.numel()
    assert abs(rows.mean()) < 4 / math.sqrt(n)
    assert abs(rows.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((rows**4).mean() - 3) < 4 * math.sqrt(96 / n)
    for other in (
        rows.roll(1, 0),
        rows.roll(1, 1),
        rows.roll(1, 2),
        rows.roll(32, 2),
    ):  # seeds, ids, dimensions
        assert abs((rows * other).mean()) < 4 / math.sqrt(n)


def test_a_row_depends_on_seed_and_id_alone() -> None:
    both = gaussian_rows(torch.tensor([7, 8]), torch.tensor([[1, 2, 30_000], [2, 2, 1]]), 5)
    assert torch.equal(both[1, 0], both[1, 1])
    assert torch.equal(both[0, 2], gaussian_rows(torch.tensor([7]), torch.tensor([[30_000]]), 5)[0, 0])
    assert (both[0, 0] - both[1, 2]).abs().max() > 0.1
    assert torch.equal(
        gaussian_rows(torch.tensor([-1]), torch.tensor([[0]]), 4).isfinite().sum(), torch.tensor(4)
    )


def test_the_share_of_redrawn_tokens_is_the_share_asked_for() -> None:
    redrawn = chosen(torch.arange(200), torch.arange(500)[None], 0.2)
    assert redrawn.float().mean() == pytest.approx(0.2, abs=0.01)
    assert (redrawn[0] != redrawn[1]).any()


def test_two_sequences_of_a_batch_draw_differently() -> None:
    ids = torch.tensor([[V, 3, 3], [V, 3, 3]])
    vectors = model().embed(ids, torch.tensor([0, 1]))
    assert torch.equal(vectors[0, 1], vectors[0, 2])
    assert (vectors[0, 1] - vectors[1, 1]).abs().max() > 0.5
    assert torch.equal(vectors[0, 0], vectors[1, 0])  # the start is learnt


# ------------------------------------------------------------------------------------------------- invariance


def test_equivariance() -> None:
    network, ids = model(), text()
    vectors = network.draw(SEEDS, torch.arange(V).expand(3, -1))
    key = torch.randperm(V, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = network(ids, embeddings=vectors).logits
        moved, relabelled = ciphered(ids, vectors, key)
        cipher = network(moved, embeddings=relabelled).logits
        by_seed = network(ids, seeds=SEEDS).logits
    torch.testing.assert_close(cipher[:, :, key], plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_seed, plain, atol=1e-6, rtol=0)


def test_nothing_is_foretold_before_a_symbol_was_seen() -> None:
    start, seeds = torch.full((2000, 1), V), torch.arange(2000)
    with torch.no_grad():
        p = model()(start, seeds=seeds).logits[:, 0].softmax(-1)
    assert p.std(0).min() > 0.02  # each draw does prefer something
    error = (p.mean(0) - 1 / V).abs() / (p.std(0) / math.sqrt(2000))
    assert error.max() < 3


def test_ciphered_text_costs_exactly_as_many_bits() -> None:
    network, ids = model(), text()
    vectors = network.draw(SEEDS, torch.arange(V).expand(3, -1))
    moved, relabelled = ciphered(ids, vectors, torch.randperm(V, generator=torch.Generator().manual_seed(2)))
    with torch.no_grad():
        plain = network(ids, embeddings=vectors, labels=ids).loss / math.log(2)
        cipher = network(moved, embeddings=relabelled, labels=moved).loss / math.log(2)
    assert plain.item() == pytest.approx(cipher.item(), abs=1e-6)


def test_with_nothing_redrawn_it_is_an_ordinary_tied_model() -> None:
    network, ids = model(share=0.0), text()
    config = network.config.to_dict() | {"vocab_size": V + 1, "tie_word_embeddings": True}
    ordinary = LlamaForCausalLM(LlamaConfig(**config)).eval()
    with torch.no_grad():
        ordinary.model.load_state_dict(
            network.model.state_dict() | {"embed_tokens.weight": torch.zeros(V + 1, D)}
        )
        table = torch.nn.functional.normalize(network.model.embed_tokens.weight) * math.sqrt(D)
        ordinary.model.embed_tokens.weight.copy_(torch.cat([table, network.start[None]]))
        ordinary.model.norm.weight /= math.sqrt(D)
        expected = ordinary(ids).logits[..., :V]
        got = network(ids, seeds=SEEDS).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_semi_lexinvariant_mixes_random_and_learnt_vectors_of_equal_length() -> None:
    network = model(share=0.2, vocabulary=400)
    everything = torch.arange(400).expand(2, -1)
    seeds = torch.tensor([1, 2])
    with torch.no_grad():
        vectors = network.draw(seeds, everything)
        redrawn = chosen(seeds, everything, 0.2)
    assert 0.1 < redrawn.float().mean() < 0.3
    assert torch.equal(vectors[redrawn], gaussian_rows(seeds, everything, D)[redrawn])
    torch.testing.assert_close(vectors[~redrawn].norm(dim=-1), torch.full(((~redrawn).sum(),), math.sqrt(D)))
    learnt_in_both = ~redrawn[0] & ~redrawn[1]
    assert torch.equal(vectors[0, learnt_in_both], vectors[1, learnt_in_both])


# -------------------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("cache", [True, False])
def test_the_draw_stays_through_decoding(cache: bool) -> None:
    network, ids = model(), text()

    def decoded(seeds: Tensor) -> tuple[Tensor, Tensor]:
        out = network.generate(
            ids,
            seeds=seeds,
            max_new_tokens=8,
            do_sample=False,
            use_cache=cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return out.sequences, torch.stack(out.logits, 1)

    sequences, logits = decoded(SEEDS)
    with torch.no_grad():
        at_once = network(sequences, seeds=SEEDS).logits[:, ids.shape[1] - 1 : -1]
    torch.testing.assert_close(logits, at_once, atol=1e-4, rtol=0)
    assert (decoded(SEEDS + 10)[1][:, 0] - logits[:, 0]).abs().max() > 0.1


def test_training_never_draws_twice_and_evaluation_always_does() -> None:
    network, ids = model(), text()
    with torch.no_grad():
        assert torch.equal(network(ids).logits, network(ids).logits)
        one_seed = network(ids, seeds=torch.zeros(3, dtype=torch.int64)).logits
        assert torch.equal(network(ids).logits, one_seed)
        network.train()
        assert (network(ids).logits - network(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_drawing_the_vocabulary_in_parts_changes_nothing(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = text()

    def losses() -> tuple[Tensor, list[Tensor]]:
        network = model(share)
        output = network(ids, seeds=SEEDS, labels=ids)
        output.loss.backward()
        return output.logits.detach(), [p.grad for p in network.parameters() if p.grad is not None]

    logits, gradients = losses()
    monkeypatch.setattr(lexinvariant, "_AT_ONCE", 5 * 3 * D)
    in_parts, gradients_in_parts = losses()
    torch.testing.assert_close(in_parts, logits)
    torch.testing.assert_close(gradients_in_parts, gradients)


def test_no_table_of_vectors_is_kept(tmp_path: Path) -> None:
    network = model(vocabulary=5000)
    assert all(5000 not in tensor.shape for tensor in network.state_dict().values())
    assert network.num_parameters() < 5000 * D
    network.save_pretrained(tmp_path)
    loaded = LexinvariantForCausalLM.from_pretrained(tmp_path).eval()
    ids = text(vocabulary=5000)
    assert torch.equal(loaded(ids, seeds=SEEDS).logits, network(ids, seeds=SEEDS).logits)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="0 to 15"):
        model()(torch.tensor([[V + 1]]))
    with pytest.raises(InputError, match="random_share"):
        model(share=1.5)
    with pytest.raises(InputError, match="outside of the vocabulary"):
        LexinvariantForCausalLM(LexinvariantConfig(start_id=3))
