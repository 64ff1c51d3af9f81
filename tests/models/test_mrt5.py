"""MrT5: gates in numbers, hard and soft deletion, and a shorter sequence that is decoded as it should be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from tests.laws.networks.tiny import build
from tests.laws.networks.tiny.mrt5 import config
from tokenry.models.mrt5.blocks import relative_buckets
from tokenry.models.mrt5.gates import DeleteGate, FixedGate, RandomGate, keep, softmax1
from tokenry.models.mrt5.model import MrT5ForConditionalGeneration
from tokenry.tokens.errors import InputError

IDS = torch.randint(3, 40, (3, 14), generator=torch.Generator().manual_seed(5))
LABELS = torch.randint(3, 40, (3, 6), generator=torch.Generator().manual_seed(6))
EVERYWHERE = torch.ones_like(IDS, dtype=torch.bool)


class Given(nn.Module):
    """A gate that says what it is told."""

    def __init__(self, gates: Tensor) -> None:
        super().__init__()
        self.given = gates

    def forward(self, states: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        return self.given


def model(**changes: object) -> MrT5ForConditionalGeneration:
    torch.manual_seed(0)
    return MrT5ForConditionalGeneration(config(**changes)).eval()


def gated(gates: Tensor, **changes: object) -> MrT5ForConditionalGeneration:
    network = model(**changes)
    network.encoder.gate = Given(gates)
    return network


# ------------------------------------------------------------------------------------------------------ gates


def test_the_gates_of_the_specification() -> None:
    gates = DeleteGate(4).gates(torch.tensor([1.0, 0.0, -2.0, 4.0]))
    torch.testing.assert_close(gates, torch.tensor([-8.068, -15.0, -26.424, -0.540]), atol=5e-4, rtol=0)


def test_a_new_gate_keeps_and_padding_is_gone() -> None:
    torch.manual_seed(0)
    gate, mask = DeleteGate(64), EVERYWHERE.clone()
    mask[0, 9:] = False
    gates = gate(torch.randn(3, 14, 64), IDS, mask)
    assert (gates[mask] > -15).float().mean() > 0.6
    assert gates[~mask].eq(-30).all()


def test_softmax1() -> None:
    close = torch.testing.assert_close
    close(softmax1(torch.tensor([0.0, 0.0])), torch.tensor([1 / 3, 1 / 3]))
    close(softmax1(torch.tensor([-30.0, -30.0])), torch.tensor([9.4e-14, 9.4e-14]), rtol=0.01, atol=0)
    close(softmax1(torch.tensor([math.log(2), 0.0])), torch.tensor([0.5, 0.25]))
    assert softmax1(torch.tensor([-1e9, -1e9])).eq(0).all()
    assert softmax1(torch.tensor([1e4, 0.0])).tolist() == [1, 0]


def test_keeping_moves_to_the_left() -> None:
    gates = torch.tensor([[-1.0, -29, -2, -28], [-1.0, -1, -1, -28]])
    index, live = keep(gates, torch.ones(2, 4, dtype=torch.bool), -15.0)
    assert index[0, :2].tolist() == [0, 2]
    assert index[1].tolist() == [0, 1, 2]
    assert live.tolist() == [[True, True, False], [True, True, True]]


def test_the_mask_of_what_is_kept() -> None:
    gates = torch.tensor([[-1.0, -29, -2, -28], [-1.0, -1, -1, -28]])
    encoded = gated(gates).encoder(IDS[:2, :4])
    assert encoded.last_hidden_state.shape == (2, 3, 32)
    assert encoded.key_bias.tolist() == [[0, 0, -1e9], [0, 0, 0]]


def test_a_row_that_loses_everything_keeps_its_best_token() -> None:
    gates = torch.tensor([[-29.0, -20, -28, -10], [-1.0, -29, -29, -29]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    index, live = keep(gates, mask, -15.0)
    assert index.tolist() == [[1], [0]]
    assert live.all()


def test_random_gates_delete_at_their_rate() -> None:
    torch.manual_seed(0)
    mask = torch.ones(400, 60, dtype=torch.bool)
    mask[:, 40:] = False
    gates = RandomGate(0.3)(torch.zeros(400, 60, 1), torch.zeros(400, 60, dtype=torch.int64), mask)
    rates = (gates[:, :40] == -30).float().mean(1)
    assert rates.mean() == pytest.approx(0.3, abs=0.01)
    assert rates.std() == pytest.approx(0.05, abs=0.01)
    assert gates[:, 40:].eq(-30).all()
    assert gates[:, :40].eq(-30).float().mean(0).std() < 0.05  # no place is preferred


def test_fixed_gates_keep_the_beginning_of_words() -> None:
    text = b"a bcdef, ghi  jklmnop"
    ids = torch.tensor([[byte + 3 for byte in text] + [0, 0]])
    mask = ids != 0
    gates = FixedGate(0.5)(torch.zeros(1, len(text) + 2, 1), ids, mask)[0]
    kept = bytes(byte for byte, gate in zip(text, gates.tolist(), strict=False) if gate == 0)
    assert kept == b"a bcd, gh  jklm"
    assert gates[-2:].eq(-30).all()
    for rate, expected in ((0.0, text), (1.0, b" ,   ")):
        gates = FixedGate(rate)(torch.zeros(1, len(text) + 2, 1), ids, mask)[0]
        assert bytes(b for b, g in zip(text, gates.tolist(), strict=False) if g == 0) == expected


# --------------------------------------------------------------------------------------------------- deletion


def test_without_gate_and_softmax1_it_is_t5() -> None:
    torch.manual_seed(0)
    sizes = {
        name: getattr(config(), name)
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    }
    t5 = T5ForConditionalGeneration(
        T5Config(**sizes, num_decoder_layers=2, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    ).eval()
    network = MrT5ForConditionalGeneration.from_t5(t5, gate="none", softmax1=False)
    mask = EVERYWHERE.clone()
    mask[1, 9:] = False
    with torch.no_grad():
        expected = t5(input_ids=IDS, attention_mask=mask.long(), labels=LABELS)
        got = network(input_ids=IDS, attention_mask=mask.long(), labels=LABELS)
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.loss, expected.loss, atol=1e-4, rtol=1e-4)
    with_gate = MrT5ForConditionalGeneration.from_t5(t5, gate_layer=2)
    assert with_gate.config.gate_layer == 2
    assert isinstance(with_gate.encoder.gate, DeleteGate)


def test_a_threshold_below_k_deletes_nothing() -> None:
    network = build("mrt5").model
    network.config.gate_threshold = -31.0
    with torch.no_grad():
        hard = network(IDS, labels=LABELS, deletion="hard")
        none = network(IDS, labels=LABELS, deletion="none")
    assert hard.encoder_outputs.last_hidden_state.shape[1] == 14
    torch.testing.assert_close(hard.logits, none.logits, atol=1e-5, rtol=1e-5)


def test_soft_and_hard_agree_where_gates_are_saturated() -> None:
    generator = torch.Generator().manual_seed(1)
    gates = torch.where(torch.rand(3, 14, generator=generator) < 0.5, 0.0, -torch.inf)
    network = gated(gates)
    with torch.no_grad():
        soft = network(IDS, labels=LABELS, deletion="soft")
        hard = network(IDS, labels=LABELS, deletion="hard")
    assert hard.encoder_outputs.last_hidden_state.shape[1] == (gates == 0).sum(1).max() < 14
    torch.testing.assert_close(hard.logits, soft.logits, atol=1e-5, rtol=1e-5)
    for row in range(3):
        kept = torch.nonzero(gates[row] == 0)[:, 0]
        assert torch.equal(hard.encoder_outputs.positions[row, : len(kept)], kept)
        torch.testing.assert_close(
            hard.encoder_outputs.last_hidden_state[row, : len(kept)],
            soft.encoder_outputs.last_hidden_state[row, kept],
            atol=1e-5,
            rtol=1e-5,
        )


def test_deleting_every_key_matters_with_softmax1_only() -> None:
    def difference(**changes: object) -> float:
        network = gated(torch.full((3, 14), -30.0), **changes)
        with torch.no_grad():
            soft, none = (network(IDS, labels=LABELS, deletion=mode).logits for mode in ("soft", "none"))
        return float((soft - none).abs().max())

    assert difference(softmax1=True) > 0.01
    assert difference(softmax1=False) < 1e-4


def test_deletion_is_soft_in_training_and_hard_otherwise() -> None:
    network = build("mrt5").model
    assert network(IDS, labels=LABELS).encoder_outputs.last_hidden_state.shape[1] < 14
    network.train()
    output = network(IDS, labels=LABELS)
    assert output.encoder_outputs.last_hidden_state.shape[1] == 14
    output.loss.backward()
    assert network.encoder.gate.weight.grad.abs().max() > 0


def test_the_penalty_counts_scores_above_five() -> None:
    network = model()
    assert network(IDS, labels=LABELS, penalise=True).score_penalty < 0.05
    with torch.no_grad():
        for block in network.encoder.block[1:]:
            block.own.attention.q.weight *= 200
        plain = network(IDS, labels=LABELS, deletion="soft")
        explicit = network(IDS, labels=LABELS, deletion="soft", penalise=True)
    assert plain.score_penalty is None
    assert explicit.score_penalty > 1
    torch.testing.assert_close(explicit.logits, plain.logits, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_uses_the_shortened_encoder_output(beams: int) -> None:
    subject = build("mrt5")
    assert subject.generate is not None
    arguments = {**subject.generate, "num_beams": beams}
    with_cache = subject.model.generate(**arguments)
    assert torch.equal(with_cache, subject.model.generate(**arguments, use_cache=False))
    for row in range(2):  # alone, without padding and without the other row's length
        real = int(subject.generate["attention_mask"][row].sum())
        alone = subject.model.generate(
            subject.generate["input_ids"][row : row + 1, :real], **_decoding(arguments)
        )[0]
        assert torch.equal(alone[: with_cache.shape[1]], with_cache[row, : len(alone)])


def _decoding(arguments: dict[str, object]) -> dict[str, object]:
    return {name: arguments[name] for name in ("max_new_tokens", "do_sample", "num_beams")}


def test_decoding_step_by_step_is_decoding_at_once() -> None:
    network = build("mrt5").model
    out = network.generate(
        IDS, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    with torch.no_grad():
        at_once = network(IDS, decoder_input_ids=out.sequences[:, :-1])
    assert at_once.encoder_outputs.last_hidden_state.shape[1] < 14
    torch.testing.assert_close(torch.stack(out.logits, 1), at_once.logits, atol=1e-4, rtol=1e-4)


def test_what_is_saved(tmp_path: Path) -> None:
    network = build("mrt5").model
    network.save_pretrained(tmp_path)
    loaded = MrT5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.gate_threshold == -15
    assert torch.equal(loaded(IDS, labels=LABELS).logits, network(IDS, labels=LABELS).logits)


def test_buckets_of_distances() -> None:
    distance = torch.arange(-200, 201)
    both = relative_buckets(distance, 32, 128, both_ways=True)
    assert both[200] == 0
    assert both[:200].max() == 15
    assert both[201:].min() == 17
    assert both[200 - 7 : 200].tolist() == [7, 6, 5, 4, 3, 2, 1]
    past = relative_buckets(distance, 32, 128, both_ways=False)
    assert past[200:].eq(0).all()
    assert past[0] == 31


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gate": "best"}, "Gate must be"),
        ({"gate_layer": 3}, "one of the 3 encoder blocks"),
        ({"gate_scale": 1.0}, "must be negative"),
        ({"gate": "random", "gate_rate": 1.5}, "share between 0 and 1"),
    ],
)
def test_what_cannot_be(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(**wrong)


def test_calls_that_cannot_be() -> None:
    with pytest.raises(InputError, match="Deletion must be one of"):
        model()(IDS, labels=LABELS, deletion="some")
    with pytest.raises(InputError, match="labels"):
        model()(IDS)
