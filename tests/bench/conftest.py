"""A vision-language model of the embedded kind, small and untrained, in a folder as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tokenry.models.vlm.embedded.model import build_config, build_processor


def make_model() -> tuple[LlavaForConditionalGeneration, Any]:
    """The same model at every call."""
    torch.manual_seed(0)
    processor = build_processor()
    config = build_config(processor, tower_width=48, tower_layers=3, width=48, layers=4, feed_forward=96)
    return LlavaForConditionalGeneration(config).eval(), processor


@pytest.fixture(scope="session")
def untrained() -> tuple[LlavaForConditionalGeneration, Any]:
    """Model and processor."""
    return make_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, saved."""
    folder = tmp_path_factory.mktemp("models") / "small-vlm"
    model, processor = make_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
