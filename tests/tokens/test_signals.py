"""What a codec says that it takes."""

from __future__ import annotations

import pytest
import torch

from tokenry.tokens import InputError
from tokenry.tokens.signals import Signal, SignalSpec

VIDEO = SignalSpec(Signal.VIDEO, 3, -1, 1, multiple=(4, 8, 8), first=(1, 0, 0))


def test_a_causal_video_has_a_frame_more_than_a_multiple() -> None:
    for frames in (1, 5, 17):
        VIDEO.check(torch.zeros(1, 3, frames, 8, 16))
    for frames in (4, 16):
        with pytest.raises(
            InputError, match=f"frames of a signal must be 1 and a multiple of 4, got {frames}"
        ):
            VIDEO.check(torch.zeros(1, 3, frames, 8, 16))


def test_other_sizes_and_numbers_are_refused() -> None:
    spec = SignalSpec(Signal.IMAGE, 3, 0, 1, multiple=(1, 1), size=(32, 48))
    spec.check(torch.zeros(2, 3, 32, 48))
    for x, message in (
        (torch.zeros(2, 3, 32, 32), "width of a signal must be 48, got 32"),
        (
            torch.zeros(2, 1, 32, 48),
            r"3 channels, height, width\] in 0 to 1; got torch.float32 of shape \(2, 1,",
        ),
        (torch.zeros(3, 32, 48), r"of shape \(3, 32, 48\)"),
        (torch.zeros(2, 3, 32, 48, dtype=torch.uint8), "got torch.uint8"),
        (torch.stack([torch.zeros(3, 32, 48), torch.full((3, 32, 48), torch.inf)]), r"Items \[1\] hold NaN"),
    ):
        with pytest.raises(InputError, match=message):
            spec.check(x)
    with pytest.raises(InputError, match="height of a signal must be a multiple of 1, got 0"):
        spec.check(torch.zeros(2, 3, 0, 48))


def test_a_specification_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="has the axes samples, and one number for each"):
        SignalSpec(Signal.AUDIO, 1, -1, 1, multiple=(1, 1))
    for wrong in ({"channels": 0}, {"low": 1.0}, {"multiple": (0,)}):
        with pytest.raises(InputError, match="at least 1 and the range goes up"):
            SignalSpec(
                **{"kind": Signal.AUDIO, "channels": 1, "low": -1.0, "high": 1.0, "multiple": (1,)} | wrong
            )
