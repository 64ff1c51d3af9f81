"""Future Token Prediction: the decoder sees the past through one vector, and N tokens come of it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.laws.networks.tiny import build
from tokenry.models.language.ftp.model import FTPConfig, FTPForCausalLM
from tokenry.tokens.errors import InputError


def model(**changes: object) -> FTPForCausalLM:
    network = build("ftp").model
    if not changes:
        return network
    torch.manual_seed(0)
    return FTPForCausalLM(FTPConfig(**network.config.to_diff_dict() | changes)).eval()


IDS = torch.randint(1, 41, (3, 11), generator=torch.Generator().manual_seed(3))
N = 4


def states(network: FTPForCausalLM, ids: Tensor) -> Tensor:
    return network.encoder(input_ids=ids).last_hidden_state


def test_later_targets_weigh_less() -> None:
    torch.testing.assert_close(
        model().weights, torch.tensor([0.3388, 0.2710, 0.2168, 0.1734]), atol=5e-5, rtol=0
    )


def test_the_past_is_seen_through_the_state_alone() -> None:
    network, other = model(), torch.randint(1, 41, (3, 11), generator=torch.Generator().manual_seed(4))
    swapped = torch.cat([other[:, :5], IDS[:, 5:]], 1)
    with torch.no_grad():
        mine, patched = states(network, IDS), states(network, swapped)
        assert (mine[:, 5] - patched[:, 5]).abs().max() > 0.01
        patched[:, 5] = mine[:, 5]
        expected = network.predict(mine[:, 5], IDS[:, 5:9])
        torch.testing.assert_close(network.predict(patched[:, 5], swapped[:, 5:9]), expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_prediction_does_not_see_what_it_predicts(k: int) -> None:
    network = model()
    later = IDS.clone()
    later[:, 5 + k :] = 7
    with torch.no_grad():
        one = network.predict(states(network, IDS)[:, 5], IDS[:, 5:9])
        two = network.predict(states(network, later)[:, 5], later[:, 5:9])
    torch.testing.assert_close(one[:, :k], two[:, :k])
    assert (one[:, k:] - two[:, k:]).abs().max() > 0.01


def losses_one_by_one(network: FTPForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """The definition: a loop over rows, positions and targets."""
    total, weight = torch.zeros(()), torch.zeros(())
    for row in range(len(ids)):
        for t in range(ids.shape[1]):
            state = states(network, ids[row : row + 1, : t + 1])[:, -1]
            for k in range(1, N + 1):
                if t + k > ids.shape[1] - 1 or -100 in labels[row, t + 1 : t + k + 1]:
                    continue
                logits = network.predict(state, ids[row : row + 1, t : t + k])[0, -1]
                w = 0.8 ** (k - 1)
                total = total + w * F.cross_entropy(logits, labels[row, t + k])
                weight = weight + w
    return total / weight


def test_all_positions_at_once_is_the_loop() -> None:
    network, labels = model(), IDS.clone()
    labels[1, 6] = -100  # a document begins there
    with torch.no_grad():
        expected = losses_one_by_one(network, IDS, labels)
        torch.testing.assert_close(network(IDS, labels=labels).loss, expected)
        plain = network(IDS, labels=IDS).loss
        torch.testing.assert_close(plain, losses_one_by_one(network, IDS, IDS))
    assert (plain - expected).abs() > 1e-4


def test_asking_some_positions_is_a_part_of_the_whole() -> None:
    network = model()
    with torch.no_grad():
        found = states(network, IDS)
        every = torch.arange(10).expand(3, -1)
        torch.testing.assert_close(
            network.future_loss(found, IDS, IDS, every), network.future_loss(found, IDS, IDS)
        )
        halves = [network.future_loss(found, IDS, IDS, every[:, part]) for part in ([0, 2, 4], [1, 3, 5])]
        both = network.future_loss(found, IDS, IDS, every[:, :6])
    torch.testing.assert_close(sum(halves) / 2, both)  # none of these lacks a target


def test_without_cross_attention_nothing_beats_a_bigram_table() -> None:
    """After 1 comes 2 or 3 in turn: a table of pairs stays at half of ln 2, a state knows whose turn it is."""
    ids = torch.tensor([[1, 2, 1, 3] * 8])
    pairs = torch.zeros(4, 4)
    pairs.index_put_((ids[0, :-1], ids[0, 1:]), torch.ones(31), accumulate=True)
    p = pairs[ids[0, :-1], ids[0, 1:]] / pairs.sum(1)[ids[0, :-1]]
    floor = -p.log().mean().item()
    assert floor == pytest.approx(0.5 * math.log(2), abs=0.03)

    def learnt(blind: bool) -> float:
        network = model(vocab_size=4, horizon=1)
        if blind:
            for block in network.decoder.h:
                block.crossattention.c_proj.requires_grad_(False).weight.zero_()
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(60):
            loss = network(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert floor - 1e-5 <= learnt(blind=True) < floor + 0.05
    assert learnt(blind=False) < 0.3 * floor


def test_a_block_is_n_teacher_forced_steps_from_one_state() -> None:
    network = model()
    with torch.no_grad():
        state = states(network, IDS)[:, -1]
        block = network.decode_block(state, IDS[:, -1], N)
        known = IDS[:, -1:]
        for _ in range(N):
            known = torch.cat([known, network.predict(state, known)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(block, known[:, 1:])
    assert torch.equal(network.generate_blocks(IDS, 4)[:, -4:], block)


def padded() -> dict[str, Tensor]:
    subject = build("ftp")
    return {name: subject.inputs[name] for name in ("input_ids", "attention_mask")}


def test_blocks_of_one_are_greedy_decoding() -> None:
    network = model()
    expected = network.generate(**padded(), max_new_tokens=9, do_sample=False)
    assert torch.equal(network.generate_blocks(**padded(), max_new_tokens=9, block=1), expected)
    without_cache = network.generate(**padded(), max_new_tokens=9, do_sample=False, use_cache=False)
    assert torch.equal(without_cache, expected)


def trained() -> FTPForCausalLM:
    """A model that continues 1 2 3 ... 9 1 2 3, sometimes rightly: blocks agree in part."""
    network = model(initializer_range=0.02)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    ids = torch.arange(40).expand(4, -1) % 9 + 1 + torch.arange(4)[:, None] * 9 // 9
    for _ in range(40):
        optimizer.zero_grad()
        network(ids, labels=ids).loss.backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("get", [model, trained])
def test_verified_blocks_are_greedy_decoding_in_fewer_passes(get: object) -> None:
    network = get()  # type: ignore[operator]
    expected = network.generate(**padded(), max_new_tokens=23, do_sample=False)
    passes = []
    hook = network.encoder.register_forward_hook(lambda *_: passes.append(1))
    got = network.generate_blocks(**padded(), max_new_tokens=23, verify=True)
    hook.remove()
    assert torch.equal(got, expected)
    if get is trained:
        assert len(passes) < 20
    assert network.generate_blocks(**padded(), max_new_tokens=23).shape == expected.shape


@pytest.mark.parametrize("verify", [False, True])
def test_a_sequence_ends_at_its_end_token(verify: bool) -> None:
    network = model()
    whole = network.generate_blocks(IDS, 12, verify=verify)[:, 11:]
    eos = int(whole[0, 5])
    cut = network.generate_blocks(IDS, 12, verify=verify, eos_token_id=eos)[:, 11:]
    for row, full in zip(cut.tolist(), whole.tolist(), strict=True):
        end = full.index(eos) if eos in full else len(full)
        assert row[: end + 1] == full[: min(end + 1, len(row))]
        assert set(row[end:]) <= {eos}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(torch.zeros(1, 32), torch.ones(1, 5, dtype=torch.int64)), "predicts 4 tokens"),
        (lambda m: m.generate_blocks(IDS, 3, block=5), "1 to 4 tokens"),
        (lambda m: m.generate_blocks(IDS, 0), "at least 1"),
        (lambda m: model(gamma=0.0), "gamma in"),
        (lambda m: model(horizon=0), "at least 1"),
    ],
)
def test_what_cannot_be(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(model())  # type: ignore[operator]
