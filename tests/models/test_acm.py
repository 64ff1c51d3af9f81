"""Adaptive Computation Modules: prefix sums, execution that skips, conversion of real model classes and its undoing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from tokenry.data.packages import PackageUnavailableError
from tokenry.models.adaptive.acm.conversion import convert, load_converted
from tokenry.models.adaptive.acm.layer import (
    ACM,
    AcmConfig,
    FixedLearnerGate,
    LearnerGate,
    LearnerSize,
    RandomLearnerGate,
    ThresholdGate,
)
from tokenry.models.adaptive.conditional import absolute_budget_loss, budget_fraction, compute_map
from tokenry.models.load import load
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError

IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=60,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=4,
            num_labels=3,
        )
    ).eval()


def clip() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
        )
    ).eval()


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=60
    )
    return BertModel(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config).eval()


HOSTS = {
    "llama": (llama, {"input_ids": IDS}, "model.layers.{}.mlp"),
    "vit": (vit, {"pixel_values": PIXELS}, "vit.layers.{}.mlp"),
    "clip": (clip, {"pixel_values": PIXELS}, "encoder.layers.{}.mlp"),
    "bert": (bert, {"input_ids": IDS}, "encoder.layer.{}.intermediate"),
    "gpt2": (gpt2, {"input_ids": IDS}, "transformer.h.{}.mlp"),
}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Tensor], str]:
    make, inputs, path = HOSTS[request.param]
    return make(), inputs, path


def module(multiplies: bool = False, **config: Any) -> ACM:
    torch.manual_seed(1)
    return ACM(
        LearnerSize(8, 5, multiplies), AcmConfig(**config), minimum=config.get("ffn_minimum", 0)
    ).eval()


def output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


# ---------------------------------------------------------------------------------------------------- the module


@pytest.mark.parametrize("multiplies", [False, True])
def test_forcing_a_choice_is_the_prefix_sum(multiplies: bool) -> None:
    acm, x = module(multiplies), torch.randn(2, 6, 8)
    every = acm.prefixes(x)
    assert every.shape == (2, 6, 5, 8)
    for k in range(5):
        acm.gate = FixedLearnerGate(k, 4)
        torch.testing.assert_close(acm(x), every[..., k, :], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(acm.prefix(x, k), every[..., k, :], atol=1e-6, rtol=1e-5)


def test_prefix_sums_are_sums_of_the_learners() -> None:
    acm, x = module(), torch.randn(3, 8)
    learners = [
        torch.nn.functional.gelu(x @ acm.w_in[i * 5 : i * 5 + 5].T + acm.b_in[i * 5 : i * 5 + 5])
        @ acm.w_out[i * 5 : i * 5 + 5]
        for i in range(4)
    ]
    expected = torch.stack([sum(learners[:k], torch.zeros(3, 8)) for k in range(5)], 1)
    torch.testing.assert_close(acm.prefixes(x), expected)


@pytest.mark.parametrize("choices", ["random", "none", "all", "two", "one token"])
def test_execution_that_skips_equals_the_dense_path(choices: str) -> None:
    acm = module()
    x = torch.randn(3, 11, 8)
    k = {
        "random": torch.randint(0, 5, (3, 11)),
        "none": torch.zeros(3, 11).long(),
        "all": torch.full((3, 11), 4),
        "two": torch.randint(0, 2, (3, 11)) * 3,
        "one token": torch.tensor([[2]]),
    }[choices]
    x = x[:1, :1] if choices == "one token" else x
    dense = acm.mixed(x, nn.functional.one_hot(k, 5).float())
    torch.testing.assert_close(acm.chosen(x, k), dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        acm.chosen(x, k),
        acm.prefixes(x).gather(2, k[..., None, None].expand(*k.shape, 1, 8))[:, :, 0],
        atol=1e-5,
        rtol=1e-5,
    )


def test_what_was_not_chosen_is_not_executed() -> None:
    acm, x = module(), torch.randn(1, 10, 8)
    rows: list[int] = []
    acm.act.register_forward_hook(lambda module, args, out: rows.append(out.shape[0] * out.shape[1]))
    acm.chosen(x, torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 3, 0]]))
    assert rows == [
        6 * 5,
        4 * 5,
        1 * 5,
    ]  # tokens that run learner 1, 2, 3, times neurons; learner 4 is not called


def test_skipping_has_the_gradients_of_the_dense_path() -> None:
    acm, x = module(), torch.randn(9, 8, requires_grad=True)
    k = torch.tensor([0, 4, 1, 2, 2, 0, 3, 4, 1])
    wanted = [x, acm.w_in, acm.w_out, acm.b_in]
    skipping = torch.autograd.grad(acm.chosen(x, k).square().sum(), wanted)
    dense = torch.autograd.grad(acm.mixed(x, nn.functional.one_hot(k, 5).float()).square().sum(), wanted)
    torch.testing.assert_close(skipping, dense)


def test_training_gives_the_gate_a_gradient_from_the_task_and_as_coded_does_not() -> None:
    x = torch.randn(2, 6, 8)
    for as_coded in (False, True):
        acm = module(as_coded=as_coded).train()
        (acm(x) - 1).square().sum().backward()
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in acm.gate.parameters())
        assert reached is not as_coded
        assert acm.w_in.grad is not None


def test_detached_prefixes_have_the_same_values_and_teach_each_learner_its_increment_only() -> None:
    acm, x = module(), torch.randn(3, 8)
    torch.testing.assert_close(acm.prefixes(x, detach=True), acm.prefixes(x))
    (through,) = torch.autograd.grad(acm.prefixes(x)[:, 4].sum(), acm.w_out)
    (alone,) = torch.autograd.grad(acm.prefixes(x, detach=True)[:, 4].sum(), acm.w_out)
    assert through[:15].abs().sum() > 0
    assert alone[:15].abs().sum() == 0
    torch.testing.assert_close(alone[15:], through[15:])


def test_as_coded_tokens_with_the_highest_choice_miss_their_last_learner() -> None:
    acm, x = module(as_coded=True), torch.randn(1, 3, 8)

    class Choose(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.tensor([[1, 3, 2]]), 5).float()

    acm.gate = Choose()
    every = acm.prefixes(x)[0]
    torch.testing.assert_close(acm(x)[0], torch.stack([every[0, 1], every[1, 2], every[2, 2]]))


def test_gates() -> None:
    x = torch.randn(50, 8)
    gate = LearnerGate(8, 4, minimum=1).eval()
    assert (gate(x).argmax(-1) >= 1).all()
    assert (gate(x).sum(-1) == 1).all()
    drawn = gate.train()(x)
    assert drawn.shape == (50, 5)
    assert drawn.requires_grad
    assert (drawn[:, 0] == 0).all()
    believed = gate.logits(x).softmax(-1)
    assert (ThresholdGate(gate, 0.0)(x).argmax(-1) == 1).all()
    assert (ThresholdGate(gate, 1.0)(x).argmax(-1) >= 3).all()
    asked = ThresholdGate(gate, 0.6)(x).argmax(-1)
    cumulative = believed.cumsum(-1)
    assert (cumulative.gather(1, asked[:, None] - 1) >= 0.6 - 1e-6).all()
    below = cumulative.gather(1, (asked[:, None] - 2).clamp(min=0))[:, 0]
    assert ((below < 0.6) | (asked == 1)).all()
    frequencies = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    counts = torch.bincount(RandomLearnerGate(frequencies)(torch.zeros(400, 8)).argmax(-1), minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(int(counts[1]) - 200) < 50


def test_learners_have_the_sizes_of_the_paper() -> None:
    d, m = 768, 3072
    ffn = LearnerSize.dividing(2 * d * m + d + m, 4, d, multiplies=False, bias=True)
    projection = LearnerSize.dividing(d * d + d, 4, d, multiplies=False, bias=True)
    assert (ffn.hidden, projection.hidden) == (768, 96)


# ------------------------------------------------------------------------------------------------- real classes


def test_undoing_restores_the_model_bitwise(host: tuple[nn.Module, dict[str, Tensor], str]) -> None:
    model, inputs, path = host
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modules, before = dict(model.named_modules()), output(model, inputs)
    with convert(model, AcmConfig(learners=2)) as converted:
        assert list(converted.acms) == [path.format(i) for i in range(2)]
        assert not torch.equal(output(model, inputs), before)
        with converted.base():
            assert torch.equal(output(model, inputs), before)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(output(model, inputs), before)
    convert(model).undo()  # and again: it can be converted anew


def test_all_learners_cost_what_the_layers_did(host: tuple[nn.Module, dict[str, Tensor], str]) -> None:
    model, inputs, _ = host
    with convert(model, modules="all") as converted:
        table = converted.costs
        with converted.forced(4), converted.watch() as watched:
            output(model, inputs)
        gates = sum(sum(p.numel() for p in acm.gate.parameters()) for acm in converted.acms.values())
        assert watched.executed(table) == table.highest + gates
        for name, cost in table.modules.items():
            # a neuron is 2 D + 1 multiply-adds; these layers are so small that one is up to 2 %
            assert abs(cost.highest - cost.full) <= 2 * (2 * 32 + 1), name


def test_at_width_96_all_learners_cost_the_same_within_a_percent() -> None:
    model = llama(hidden_size=96, intermediate_size=256, num_key_value_heads=4)
    table = convert(model, modules="all").costs
    assert len(table.modules) == 2 * 5
    assert abs(table.highest / table.full - 1) < 0.01
    assert all(abs(cost.highest / cost.full - 1) < 0.02 for cost in table.modules.values())


@pytest.mark.parametrize("name", ["llama", "gpt2", "clip", "bert"])
def test_slices_compute_what_the_layers_did_when_all_run(name: str) -> None:
    make, inputs, _ = HOSTS[name]
    model = make()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith(("mlp.c_proj.bias", "mlp.fc2.bias", "layer.0.output.dense.bias")):
                value.zero_()  # learners have no bias at their output
    before = output(model, inputs)
    converted = convert(model, AcmConfig(form="layer", start="slices"))
    with converted.forced(4):
        torch.testing.assert_close(output(model, inputs), before, atol=1e-5, rtol=1e-4)
        converted.sort_neurons([inputs])
        torch.testing.assert_close(output(model, inputs), before, atol=1e-5, rtol=1e-4)
    recorded = converted.recorded(**inputs)
    for name, acm in converted.acms.items():
        x, y = recorded[name]
        errors = (acm.prefixes(x) - y[..., None, :]).norm(dim=-1).mean((0, 1))
        assert errors[4] < 1e-4 < errors[3] < errors[1]  # sorted by use: the error falls
        importance = acm.importance(x.flatten(0, -2))
        assert (importance.diff() <= 1e-6).all()
    for (x, y), full in zip(recorded.values(), converted.costs.modules.values(), strict=True):
        assert x.shape == y.shape
        assert full.full is not None


def test_gqa_projections_are_refused_by_name_and_the_rest_is_converted() -> None:
    model = llama()
    converted = convert(model, modules="linear")
    assert [n.rpartition(".")[2] for n in converted.acms] == ["q_proj", "o_proj"] * 2
    assert converted.refused["model.layers.0.self_attn.k_proj"] == "it changes the width from 32 to 16"
    assert all(acm.minimum == 1 for acm in converted.acms.values())
    assert isinstance(next(iter(converted.acms.values())).act, nn.Identity)
    output(model, {"input_ids": IDS})


def test_generation_of_a_converted_decoder_has_a_complete_cache() -> None:
    model = llama(eos_token_id=None)
    converted = convert(model)
    settings = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
    cached = model.generate(IDS, **settings)
    assert torch.equal(cached, model.generate(IDS, use_cache=False, **settings))
    with converted.watch() as watched:
        model.generate(IDS, **settings)
    assert all(int(counts.sum()) == 2 * (7 + 5) for counts in watched.counts.values())


def test_the_choices_of_a_pass_are_a_map_of_computation() -> None:
    model = vit()
    converted = convert(model)
    with converted.watch() as watched:
        output(model, {"pixel_values": PIXELS})
    shares = compute_map(watched.choices, converted.costs)
    assert shares.shape == (2, 17)
    assert ((shares >= 0) & (shares <= 1)).all()
    fraction = budget_fraction(watched.gates, converted.costs)
    torch.testing.assert_close(fraction, shares.mean())
    expected = float(fraction) * converted.costs.highest + converted.costs.overhead
    assert watched.executed(converted.costs) == pytest.approx(expected)


def test_the_budget_loss_is_0_when_every_token_uses_the_target() -> None:
    model = vit()
    converted = convert(model)
    with converted.forced(1), converted.watch() as watched:
        output(model, {"pixel_values": PIXELS})
    assert float(absolute_budget_loss(budget_fraction(watched.gates, converted.costs), 0.25)) == 0


@pytest.mark.parametrize("whole", [True, False])
def test_saving_and_loading(tmp_path: Path, whole: bool) -> None:
    model = llama(tie_word_embeddings=True)
    converted = convert(model, AcmConfig(learners=2, form="layer", start="slices"), modules="ffn")
    with torch.no_grad():
        for acm in converted.acms.values():
            acm.w_out.mul_(0.5)
        if whole:
            model.model.norm.weight.mul_(1.5)
    converted.save(tmp_path / "saved", host=whole)
    expected = output(model, {"input_ids": IDS})
    other = llama(tie_word_embeddings=True)
    assert not torch.equal(output(other, {"input_ids": IDS}), expected)
    loaded = load_converted(other, tmp_path / "saved")
    assert loaded.config == converted.config
    assert torch.equal(output(other, {"input_ids": IDS}), expected)


def test_modules_are_in_the_mode_of_the_model() -> None:
    assert not any(acm.training or acm.gate.training for acm in convert(bert()).acms.values())
    assert all(acm.training and acm.gate.training for acm in convert(bert().train()).acms.values())


def test_the_seed_decides_what_is_drawn_and_leaves_the_global_generator_alone() -> None:
    models, state = [llama() for _ in range(3)], torch.get_rng_state()
    a, b, c = (convert(m, seed=s) for m, s in zip(models, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [next(iter(x.acms.values())).w_in for x in (a, b, c)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_half_precision_are_dealt_out_exactly(dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    converted = convert(model, AcmConfig(form="layer", start="slices"))
    for name, acm in converted.acms.items():
        weights = converted.recorded(input_ids=IDS)[name]
        torch.testing.assert_close(acm.prefix(weights[0], 4), weights[1], atol=0.02, rtol=0.02)


def test_bfloat16_models_get_bfloat16_modules() -> None:
    model = llama().to(torch.bfloat16)
    converted = convert(model)
    assert all(p.dtype == torch.bfloat16 for acm in converted.acms.values() for p in acm.parameters())
    assert output(model, {"input_ids": IDS}).dtype == torch.bfloat16


@pytest.mark.packages
@pytest.mark.slow
def test_on_smollm2_slices_are_lossless_and_sorting_them_by_use_keeps_more() -> None:
    try:
        model, tokenizer = load("smollm2")
    except (PackageUnavailableError, UnsupportedError) as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    text = "NAME\n  ls - list directory contents\n\nSYNOPSIS\n  ls [OPTION]... [FILE]..."
    ids = tokenizer(text, return_tensors="pt").input_ids
    layers = [f"model.layers.{i}.mlp" for i in (3, 11, 20)]
    with torch.no_grad():
        before = model(ids).logits
        converted = convert(model, AcmConfig(form="layer", start="slices"), layers)
        assert converted.costs.full == converted.costs.highest == 3 * 3 * 576 * 1536

        def lost(k: int) -> float:
            with converted.forced(k):
                now = model(ids).logits.log_softmax(-1)
            return float(nn.functional.kl_div(now, before.log_softmax(-1), log_target=True, reduction="sum"))

        assert lost(4) < 1e-5
        unsorted = lost(3)
        converted.sort_neurons([{"input_ids": ids}])
        assert lost(4) < 1e-5
        assert lost(3) < 0.5 * unsorted
        converted.undo()
        assert torch.equal(model(ids).logits, before)


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: AcmConfig(learners=0), InputError, "at least 1 learner, got learners=0"),
        (lambda: AcmConfig(tau=0.0), InputError, "tau above 0"),
        (lambda: AcmConfig(ffn_minimum=5), InputError, "between 0 and the 4 learners, got 5"),
        (lambda: AcmConfig(form="cnn"), InputError, 'Form is "mlp" or "layer"'),
        (lambda: FixedLearnerGate(5, 4), InputError, "from 0 to 4 learners here, got 5"),
        (lambda: module().prefix(torch.zeros(1, 8), -1), InputError, "got -1"),
        (lambda: module().chosen(torch.zeros(2, 8), torch.tensor([0, 5])), InputError, "got 5"),
        (lambda: module().chosen(torch.zeros(2, 8), torch.tensor([-1, 5])), InputError, "got -1"),
        (lambda: ThresholdGate(LearnerGate(8, 4), 1.5), InputError, "from 0 to 1, got 1.5"),
        (
            lambda: LearnerSize.dividing(10, 4, 32, multiplies=False, bias=True),
            InputError,
            "take fewer learners",
        ),
        (lambda: convert(llama(), modules=[]), InputError, "no module to replace"),
        (lambda: convert(llama(), modules=["lm_head", "lm_head"]), InputError, "replaced once"),
        (lambda: convert(llama(), modules=["lm_head"]), UnsupportedError, "changes the width from 32 to 60"),
        (
            lambda: convert(llama(), modules=["model.layers.0.self_attn"]),
            UnsupportedError,
            "self_attn cannot be replaced: it",
        ),
        (lambda: convert(llama(), modules=["model.norm"]), UnsupportedError, "it has no linear layer"),
        (
            lambda: convert(llama(), modules=["model.layers.0.mpl"]),
            UnknownNameError,
            "there is 'model.layers.0.mlp'",
        ),
        (lambda: convert(llama(), modules="attention"), UnknownNameError, "one of ffn, linear, all"),
        (lambda: convert(nn.Sequential(nn.Linear(3, 4))), UnsupportedError, "has no ffn layer"),
        (lambda: convert(llama(), AcmConfig(start="slices")), UnsupportedError, 'form="layer"'),
        (
            lambda: convert(llama(), AcmConfig(learners=3, form="layer", start="slices")),
            InputError,
            "64 neurons, which 3 learners",
        ),
        (
            lambda: convert(vit(), AcmConfig(start="slices"), modules="linear"),
            UnsupportedError,
            "is a projection",
        ),
        (lambda: load_converted(llama(), "nowhere"), InputError, "acm.json cannot be read"),
    ],
)
def test_bad_input(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_a_model_that_mixes_tokens_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).cumsum(1).flip(1))

    with pytest.raises(UnsupportedError, match="layer cannot be replaced: it mixes tokens"):
        convert(nn.ModuleDict({"layer": Mixing()}), modules=["layer"])


def test_converting_twice_and_using_what_was_undone() -> None:
    model = llama()
    converted = convert(model)
    with pytest.raises(InputError, match="undo the first"):
        convert(model)
    converted.undo()
    converted.undo()
    with pytest.raises(InputError, match="has been undone"), converted.watch():
        pass


def test_what_does_not_fit_is_not_loaded_and_changes_nothing(tmp_path: Path) -> None:
    with convert(llama()) as converted:
        converted.save(tmp_path)
    other = llama(intermediate_size=96)
    before = output(other, {"input_ids": IDS})
    with pytest.raises(InputError, match="other sizes"):
        load_converted(other, tmp_path)
    assert torch.equal(output(other, {"input_ids": IDS}), before)
    (tmp_path / "acm.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not of a converted model"):
        load_converted(other, tmp_path)
    (tmp_path / "acm.json").write_text('{"format": "tokenry-acm", "version": 1, "config": {"heads": 2}}')
    with pytest.raises(InputError, match="is damaged"):
        load_converted(other, tmp_path)


def test_nothing_to_sort_by_and_nothing_watched() -> None:
    converted = convert(llama(), AcmConfig(form="layer", start="slices"))
    with pytest.raises(InputError, match="no inputs"):
        converted.sort_neurons([])
    with converted.watch() as watched, pytest.raises(InputError, match="No gate"):
        watched.executed(converted.costs)
