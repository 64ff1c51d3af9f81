"""TokenFormer: the specification's numbers, growth that changes nothing, and what is saved of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.laws.networks.tiny import build
from tokenry.models.language.tokenformer import Pattention, TokenFormerConfig, TokenFormerForCausalLM
from tokenry.tokens.errors import InputError


def identity(theta: str = "l2_norm_gelu") -> Pattention:
    """K = V = I_2."""
    layer = Pattention(2, 2, 2, theta=theta)
    with torch.no_grad():
        layer.key.copy_(torch.eye(2))
        layer.value.copy_(torch.eye(2))
    return layer


def close(a: Tensor, b: list[float]) -> None:
    torch.testing.assert_close(a, torch.tensor(b), atol=1e-4, rtol=0)


X = torch.tensor([1.0, 2.0])


def fresh(seed: int = 0) -> TokenFormerForCausalLM:
    """A model of 2 layers that has not grown."""
    torch.manual_seed(seed)
    return TokenFormerForCausalLM(
        TokenFormerConfig(
            vocab_size=31,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            qkv_tokens=12,
            proj_tokens=12,
            ffn_tokens=48,
            max_position_embeddings=32,
        )
    ).eval()


IDS = torch.arange(20).view(2, 10)


def test_the_example_of_the_specification() -> None:
    layer = identity()
    close(layer(X), [0.4658, 1.1347])
    close(layer._scaled(X @ layer.key.T), [0.6325, 1.2649])


def test_zero_keys_with_kept_tau_change_nothing() -> None:
    layer = identity()
    before = layer(X)
    layer.grow(2, values="init")
    assert layer.tokens == 4
    assert layer.value[2:].abs().min() > 0
    torch.testing.assert_close(layer(X), before)


def test_a_tau_that_follows_n_changes_the_function() -> None:
    layer = identity()
    layer.grow(2, tau="rescale")
    close(layer(X), [0.7285, 1.7230])


def test_zero_keys_take_part_in_a_softmax() -> None:
    layer = identity("softmax")
    close(layer(X), [0.5379, 1.4621])
    layer.grow(2)
    assert (layer(X) - torch.tensor([0.5379, 1.4621])).abs().max() > 0.05


def test_gelu_before_the_norm() -> None:
    layer = identity("gelu_l2_norm")
    close(layer(X), [0.5592, 1.2990])  # gelu(1, 2) = (0.8413, 1.9545) at length sqrt(2)
    layer.grow(3)
    close(layer(X), [0.5592, 1.2990])


@pytest.mark.parametrize("scale", [0.01, 3.0, 1000.0])
def test_the_scale_of_the_input_is_irrelevant(scale: float) -> None:
    torch.manual_seed(0)
    layer, x = Pattention(8, 6, 20), torch.randn(5, 8)
    torch.testing.assert_close(layer(scale * x), layer(x), atol=1e-5, rtol=1e-3)


def test_an_input_of_zero_is_no_division_by_zero() -> None:
    assert Pattention(4, 3, 5)(torch.zeros(2, 4)).eq(0).all()


def test_the_order_of_the_pairs_is_irrelevant() -> None:
    torch.manual_seed(0)
    layer, x = Pattention(8, 6, 20), torch.randn(5, 8)
    before = layer(x)
    order = torch.randperm(20)
    with torch.no_grad():
        layer.key.copy_(layer.key[order].clone())
        layer.value.copy_(layer.value[order].clone())
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("theta", ["l2_norm_gelu", "gelu_l2_norm", "softmax"])
def test_a_masked_pair_is_as_good_as_absent(theta: str) -> None:
    torch.manual_seed(0)
    layer, x = Pattention(8, 6, 20, theta=theta), torch.randn(5, 8)
    mask = torch.rand(5, 20) < 0.5
    got = layer(x, mask)
    for row in range(5):
        part = Pattention(8, 6, int(mask[row].sum()), theta=theta, tau=float(layer.tau))
        with torch.no_grad():
            part.key.copy_(layer.key[mask[row]])
            part.value.copy_(layer.value[mask[row]])
        torch.testing.assert_close(got[row], part(x[row]))


def test_a_grown_model_has_the_same_logits() -> None:
    model = fresh()
    with torch.no_grad():
        before = model(IDS).logits
        torch.testing.assert_close(model.grow(12)(IDS).logits, before, atol=1e-6, rtol=0)
        rescaled = fresh().grow(12, tau="rescale")(IDS).logits
    assert (rescaled - before).abs().max() > 1e-4


def test_the_first_step_after_growth_moves_new_keys_and_not_their_values() -> None:
    model = fresh().grow(12)
    model(IDS, labels=IDS).loss.backward()
    for kind, old in (("qkv", 12), ("proj", 12), ("ffn", 48)):
        for layer in model.pattentions(kind):
            assert layer.value.grad is not None
            assert layer.key.grad is not None
            assert layer.value.grad[old:].abs().max() == 0
            assert layer.value.grad[:old].abs().max() > 0
            assert layer.key.grad[old:].abs().amax(1).min() > 0


def test_what_grew_with_frozen_old_pairs_trains_the_new_ones_only_until_thawed() -> None:
    model = fresh()
    before = model(IDS).logits
    model.grow(12, freeze_old=True)
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-6, rtol=0)
    layer = model.pattentions("ffn")[0]
    assert layer.frozen_key is not None
    old = layer.frozen_key.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert torch.equal(layer.frozen_key, old)
    assert layer.key.abs().max() > 0
    after = model(IDS).logits
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(model.thaw()(IDS).logits, after, atol=1e-6, rtol=0)
    assert layer.tokens == len(layer.key) == 96
    assert model.config.ffn_frozen == 0


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (TokenFormerConfig.size_150m, 151.9),
        (TokenFormerConfig.size_450m, 454.2),
        (TokenFormerConfig.size_354m, 353.5),
        (TokenFormerConfig.size_757m, 756.2),
    ],
)
def test_parameter_counts_of_the_sizes(config: Callable[[], TokenFormerConfig], millions: float) -> None:
    with torch.device("meta"):
        model = TokenFormerForCausalLM(config())
    assert round(model.num_parameters() / 1e6, 1) == millions


def test_projections_and_feed_forward_layers_grow_in_proportion() -> None:
    config = fresh().grow(4).config
    assert (config.qkv_tokens, config.proj_tokens, config.ffn_tokens) == (16, 16, 64)
    config = fresh().grow(4, proj=1, ffn=2).config
    assert (config.qkv_tokens, config.proj_tokens, config.ffn_tokens) == (16, 13, 50)
    small, large = TokenFormerConfig.size_354m(), TokenFormerConfig.size_757m()
    assert large.qkv_tokens - small.qkv_tokens == 1024
    assert round(1024 * small.ffn_tokens / small.qkv_tokens) == large.ffn_tokens - small.ffn_tokens


@pytest.mark.parametrize("freeze", [False, True])
def test_a_grown_model_is_saved_with_its_sizes_and_tau(tmp_path: Path, freeze: bool) -> None:
    model = fresh().grow(5, tau="keep", freeze_old=freeze).grow(3, keys="init", tau="rescale").eval()
    model.save_pretrained(tmp_path)
    loaded = TokenFormerForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.qkv_tokens == 20
    assert loaded.config.qkv_tau == pytest.approx(20**0.5)
    assert loaded.config.qkv_frozen == (12 if freeze else 0)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    scratch = TokenFormerForCausalLM(loaded.config)  # no weights: the scale must be right all the same
    assert scratch.pattentions()[0].tau == model.pattentions()[0].tau


def test_decoding_with_a_cache_is_decoding_without() -> None:
    subject = build("tokenformer")
    assert subject.generate is not None
    with_cache = subject.model.generate(**subject.generate)
    without = subject.model.generate(**subject.generate, use_cache=False)
    assert torch.equal(with_cache, without)


def test_head_and_embedding_are_tied() -> None:
    model = fresh()
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least one"),
        ({"n": 2, "values": "zero"}, "no gradient"),
    ],
)
def test_growth_that_makes_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fresh().grow(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": 0}, "at least one"),
        ({"tokens": 4, "frozen": 4}, "of which 4 frozen"),
        ({"tokens": 4, "theta": "relu"}, "Theta must be one of"),
        ({"tokens": 4, "tau": -1.0}, "Tau must be positive"),
    ],
)
def test_layers_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pattention(2, 2, **arguments)
