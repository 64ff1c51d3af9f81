"""Vector quantization: exact losses, moving averages and restarts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenry.codecs.quantize import VectorQuantizer, code_stats
from tokenry.tokens import InputError


def quantizer(codebook: list[list[float]], **settings: float) -> VectorQuantizer:
    made = VectorQuantizer(len(codebook), len(codebook[0]), **settings)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(codebook))
        if made.total is not None:
            made.total.copy_(made.weight)
    return made


def lots(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_losses_and_their_gradients() -> None:
    made = quantizer([[2.0]])
    z = torch.zeros(1, 1, 1, requires_grad=True)
    losses = made(z).losses
    assert {name: loss.item() for name, loss in losses.items()} == {"codebook": 4.0, "commitment": 1.0}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert made.weight.grad is not None
    assert z.grad is not None
    assert float(made.weight.grad) == 4.0
    assert float(z.grad) == -1.0


def test_of_equally_near_codes_the_lowest_is_taken() -> None:
    made = quantizer([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert made.encode(torch.tensor([[[0.5, 0.5], [0.0, 0.9]]])).flatten().tolist() == [0, 1]


def test_the_codebook_starts_within_one_over_its_size() -> None:
    weight = VectorQuantizer(50, 40).weight
    assert 0.019 < float(weight.detach().abs().max()) <= 0.02


def test_statistics_of_counts_4_2_1_1() -> None:
    ids = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, -1, -1])
    stats = code_stats(ids, 8)
    assert float(stats["usage"]) == 0.5
    assert float(stats["perplexity"]) == pytest.approx(3.3636, abs=1e-4)


def test_a_codebook_of_moving_averages_by_hand() -> None:
    made = quantizer([[0.0], [10.0]], decay=0.5)
    assert not list(made.parameters())
    assert set(made(torch.zeros(1, 1, 1)).losses) == {"commitment"}
    made.update(torch.tensor([[1.0], [2.0], [3.0]]))  # all of code 0
    assert made.count.tolist() == [0.5 * 1 + 0.5 * 3, 0.5]
    assert made.total is not None
    assert made.total.flatten().tolist() == [3.0, 5.0]
    assert made.weight.flatten().tolist() == pytest.approx([1.5, 10.0], abs=1e-3)


def test_moving_averages_go_to_the_means_of_what_codes_stand_for() -> None:
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    made = VectorQuantizer(3, 2, decay=0.9)
    with torch.no_grad():
        made.weight.copy_(centres / 4)
    for step in range(80):
        noise = torch.randn(90, 2, generator=lots(step)) * 0.1
        made.update(centres.repeat(30, 1) + noise)
    torch.testing.assert_close(made.codebook(), centres, rtol=0, atol=0.05)


def test_two_processes_gathered_are_one_with_the_whole_batch() -> None:
    x = torch.randn(40, 3, generator=lots())
    whole, gathered = (VectorQuantizer(8, 3, decay=0.9) for _ in range(2))
    gathered.load_state_dict(whole.state_dict())
    whole.update(x)
    gathered.update(torch.cat([x[:25], x[25:]]))
    whole.restart(x, generator=lots(1))
    gathered.restart(torch.cat([x[:25], x[25:]]), generator=lots(1))
    assert all(
        a.equal(b) for a, b in zip(whole.state_dict().values(), gathered.state_dict().values(), strict=True)
    )


def rows_among(found: Tensor, among: Tensor) -> bool:
    return bool((found[:, None] == among[None]).all(2).any(1).all())


@pytest.mark.parametrize("settings", [{}, {"decay": 0.9}])
def test_dead_codes_become_vectors_and_live_ones_stay(settings: dict[str, float]) -> None:
    made = quantizer([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0]], **settings)
    x = torch.randn(200, 2, generator=lots())
    for _ in range(20):
        made.update(x)  # all of code 0
    before = made.codebook().clone()
    assert made.dead().tolist() == [False, True, True]
    assert made.restart(x, generator=lots(2)).tolist() == [1, 2]
    assert made.codebook()[0].equal(before[0])
    assert rows_among(made.codebook()[1:], x)
    assert not made.codebook()[1].equal(made.codebook()[2])
    assert made.count[1:].tolist() == [2.0, 2.0]
    assert made.restart(x, generator=lots(2)).tolist() == []
    made.update(x)
    assert int((made(x[None]).ids == 0).sum()) < 200


def test_a_restart_with_fewer_vectors_than_dead_codes_uses_some_twice_and_with_none_says_so() -> None:
    made = VectorQuantizer(5, 2)
    x = torch.randn(2, 2, generator=lots())
    assert len(made.restart(x, generator=lots(1))) == 5
    assert rows_among(made.codebook(), x)
    with pytest.raises(InputError, match="none was given"):
        VectorQuantizer(5, 2).restart(x[:0], generator=lots())


def test_settings_and_vectors_that_fit_nothing_are_refused() -> None:
    for size, dim, settings in ((0, 2, {}), (2, 0, {}), (2, 2, {"beta": -1.0}), (2, 2, {"decay": 1.0})):
        with pytest.raises(InputError, match="A codebook has at least 1 entry"):
            VectorQuantizer(size, dim, **settings)
    with pytest.raises(InputError, match="takes vectors of 2 numbers"):
        VectorQuantizer(3, 2)(torch.zeros(1, 4, 3))


def test_large_batches_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = VectorQuantizer(30, 3), torch.randn(4, 50, 3, generator=lots())
    whole = made.encode(x)
    monkeypatch.setattr("tokenry.codecs.quantize.vq._SCORES", 100)
    assert made.encode(x).equal(whole)
