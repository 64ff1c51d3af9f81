"""A tiny random model with the embedded model's processor, and a lab around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tokenry.bench.reproduce import VqaLab
from tokenry.models.vlm.embedded.model import build_config, build_processor

TINY = {"tower_width": 24, "tower_layers": 5, "tower_heads": 2, "width": 32, "layers": 8, "heads": 2, "kv_heads": 1,
        "feed_forward": 256}  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    processor = build_processor()
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(build_config(processor, **TINY)).eval(), processor


@pytest.fixture
def lab(tiny: tuple[Any, Any]) -> VqaLab:
    return VqaLab(*tiny, name="tiny")
