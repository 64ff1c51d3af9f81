"""Tiny random models of every layout of visual tokens, as test beds with a few questions about scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tokenry.bench.testbeds import Bed
from tokenry.data import SMALL, TILED, load_scenes
from tokenry.data.scenes.style import SceneStyle
from tokenry.models.vlm.embedded.model import build_config, build_processor, build_tokenizer

LAYERS = 4
_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 96,
}


class _PictureProcessor(hf.Qwen2VLProcessor):
    """Qwen2-VL's processor without its processor of videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id
        self.video_token, self.video_token_id = "<video>", -1
        super(hf.Qwen2VLProcessor, self).__init__(image_processor, tokenizer)


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 2048,
        **more,
    }


def _llava(tower: Any) -> tuple[Any, Any]:
    processor = build_processor()
    config = build_config(processor, layers=LAYERS, width=32, heads=2, kv_heads=1, feed_forward=64)
    config.vision_config = tower
    return hf.LlavaForConditionalGeneration(config), processor


def _clip() -> tuple[Any, Any]:
    return _llava(hf.CLIPVisionConfig(intermediate_size=48, **_TOWER))


def _dinov2() -> tuple[Any, Any]:
    # Its table of positions is for larger pictures than it is shown, as that of the published weights is.
    return _llava(hf.Dinov2Config(mlp_ratio=2, **_TOWER | {"image_size": 160}))


def _siglip() -> tuple[Any, Any]:
    model, processor = _llava(hf.SiglipVisionConfig(intermediate_size=48, vision_use_head=False, **_TOWER))
    model.config.vision_feature_select_strategy = processor.vision_feature_select_strategy = "full"
    processor.num_additional_image_tokens = 0
    return model, processor


def _tiles() -> tuple[Any, Any]:
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids("<image>")
    grid = [[192, 192]]
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}, image_grid_pinpoints=grid
    )
    processor = hf.LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(intermediate_size=48, **_TOWER),
        text_config=hf.LlamaConfig(**_text(tokenizer)),
        image_grid_pinpoints=grid,
        image_token_index=token,
        image_token_id=token,
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def _any_size() -> tuple[Any, Any]:
    tokenizer = build_tokenizer()
    pictures = Qwen2VLImageProcessorPil(
        patch_size=6, merge_size=2, size={"shortest_edge": 96 * 96, "longest_edge": 192 * 192}
    )
    config = hf.Qwen2VLConfig(
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 6
        },
        text_config=_text(
            tokenizer,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=len(tokenizer) - 1,
        vision_start_token_id=len(tokenizer) - 2,
        vision_end_token_id=len(tokenizer) - 3,
    )  # fmt: skip
    return hf.Qwen2VLForConditionalGeneration(config), _PictureProcessor(pictures, tokenizer)


HOSTS: dict[str, tuple[Callable[[], tuple[Any, Any]], SceneStyle]] = {
    "clip": (_clip, SMALL),
    "dinov2": (_dinov2, SMALL),
    "siglip": (_siglip, SMALL),
    "tiles": (_tiles, TILED),
    "any size": (_any_size, SMALL),
}


@pytest.fixture(scope="session")
def bed_of() -> Callable[[str], Bed]:
    """Beds by the layout of their visual tokens, each made once."""
    made: dict[str, Bed] = {}

    def get(name: str) -> Bed:
        if name not in made:
            make, style = HOSTS[name]
            torch.manual_seed(0)
            model, processor = make()
            # One round: the time goes into calls of `generate`, not into pictures.
            examples = load_scenes("test", 3, 0, 1, style)
            made[name] = Bed(name, model.eval(), processor, examples, names=("dog", "soccer ball"))
        return made[name]

    return get
