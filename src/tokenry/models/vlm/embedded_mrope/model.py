"""The embedded model with multi-axis RoPE: small, and real.

It is the transformers class ``Qwen2VLForConditionalGeneration``: a vision tower without [CLS] and without a position
table (patch 6, two frames deep, rotary positions), a merger that folds 2 x 2 patches into one visual token of 12
pixels, and a decoder whose rotary positions have three axes: time, row, column. It answers questions about the composed
pictures of :mod:`tokenry.data.scenes.scenes` in any size, the clips of :mod:`tokenry.data.scenes.clips` and the pages
of :mod:`tokenry.data.scenes.pages`. ``recipes/embedded_mrope.yaml`` trains it; no weights come with the package yet.
"""

from __future__ import annotations

import string
from typing import Any, Final

from transformers import PreTrainedTokenizerFast, Qwen2VLConfig

from tokenry.data.scenes.clips import clip_words
from tokenry.data.scenes.pages import CELL, page_words
from tokenry.data.scenes.style import SMALL
from tokenry.hosts.upstream import Qwen2VLImageProcessorPil
from tokenry.models.vlm.embedded.model import word_tokenizer
from tokenry.models.vlm.frames import FrameProcessor

IMAGE_PROMPT: Final = "<image>\n{question}"
VIDEO_PROMPT: Final = "<video>\n{question}"
MERGE: Final = 2
PATCH: Final = CELL // MERGE
DEPTH: Final = 2
"""Frames in a patch."""
_THETA: Final = 10.0
"""Base of the rotary angles: positions go up to some forty here, and columns have the slowest third of the angles."""
_LARGEST: Final = 4 * SMALL.side**2
"""Pixels of the largest picture that is not scaled down."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: whole words of all questions, other words by letters."""
    words = (clip_words() | page_words()) - set(string.ascii_lowercase)
    return word_tokenizer(sorted(words), {"image_token": "<image>", "video_token": "<video>"})


def build_processor() -> FrameProcessor:
    """The processor: Qwen2-VL's PIL image processor (no torchvision needed), which is given frames too."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=DEPTH,
        size={"shortest_edge": (2 * CELL) ** 2, "longest_edge": _LARGEST},
    )
    return FrameProcessor(image_processor, build_tokenizer())


def build_config(
    processor: FrameProcessor,
    *,
    tower_width: int = 128,
    tower_layers: int = 4,
    tower_heads: int = 4,
    tower_ratio: int = 2,
    width: int = 128,
    layers: int = 6,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 256,
) -> Qwen2VLConfig:
    """The configuration of the model; the sizes can be changed, the shape of the thing cannot."""
    tokenizer = processor.tokenizer
    pairs = width // heads // 2
    side = 3 * pairs // 8  # of each spatial axis; time has what is left, as in Qwen2-VL: 16, 24, 24
    vision: dict[str, Any] = dict(
        depth=tower_layers,
        embed_dim=tower_width,
        hidden_size=width,
        num_heads=tower_heads,
        mlp_ratio=tower_ratio,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=DEPTH,
        initializer_range=0.04,
    )
    text: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        initializer_range=0.04,  # the usual 0.02, scaled to a smaller width
        rope_parameters={
            "rope_type": "default",
            "rope_theta": _THETA,
            "mrope_section": [pairs - 2 * side, side, side],
        },
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return Qwen2VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_start_token_id=tokenizer.bos_token_id,
        vision_end_token_id=tokenizer.bos_token_id,
        tie_word_embeddings=True,
    )
