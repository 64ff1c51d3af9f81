"""The PI controller: the specification's steps, saved with its state."""

import pytest
import torch

from tokenry.tokens.errors import InputError
from tokenry.train.rate_control import PIController


def test_the_steps_of_the_specification() -> None:
    controller = PIController()
    alphas = [float(controller.step(0.4, rate)) for rate in (0.0, 0.0, 0.5)]
    assert alphas == pytest.approx([0.020004, 0.038008, 0.029207], abs=5e-7)
    assert float(controller.alpha) == alphas[-1]


def test_the_weight_is_never_negative_and_recovers() -> None:
    controller = PIController(ki=1e-2)
    for _ in range(50):
        assert controller.step(0.1, torch.tensor(0.9)) == 0
    for _ in range(2000):
        alpha = controller.step(0.9, 0.1)
    assert alpha > 1


def test_a_loop_with_it_settles_at_the_target() -> None:
    controller, rate = PIController(kp=0.5, ki=1e-3), 0.0
    for _ in range(5000):
        rate += 0.05 * (float(controller.step(0.3, rate)) - rate)  # a plant whose rate follows the weight
    assert rate == pytest.approx(0.3, abs=0.01)


def test_its_state_is_saved() -> None:
    controller, other = PIController(), PIController()
    controller.step(0.4, 0.0)
    other.load_state_dict(controller.state_dict())
    assert other.step(0.4, 0.0) == controller.step(0.4, 0.0) == pytest.approx(0.038008)


@pytest.mark.parametrize("wrong", [{"kp": -1.0}, {"ki": -1.0}, {"smoothing": 1.0}])
def test_gains_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Gains"):
        PIController(**wrong)
