"""A small LLaVA of real parts: DINOv2-S/14, the two-layer projector of LLaVA, and SmolLM2-135M-Instruct.

Tower and language model are fetched and converted like every packaged model; what was trained here, the projector and
an adapter of rank 16 on the language model, comes with tokenry. The three are put together once, in the cache, as an
ordinary checkpoint of transformers' ``LlavaForConditionalGeneration``, with the adapter merged into the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokenry.hosts.checkpoints import Checkpoint

FEATURE_LAYER: Final = -4
"""Whose output the projector reads: patches of DINOv2's last three blocks say less of what is in their own place.

A linear classifier names .64 of the object patches of scenes from it, and .50 from the last block or the one before."""
TARGETS: Final = r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
"""Matrices of the language model that have an adapter."""
_UNUSED: Final = "<file_sep>"
"""A token of SmolLM2's vocabulary for training on code, in whose place the picture stands."""
_IMAGE: Final = "<image>"


def build_processor(tower: Path, language: Path) -> LlavaProcessor:
    """DINOv2's image processor, and SmolLM2's tokenizer with a token for pictures and one at the beginning."""
    image_processor = Checkpoint(str(tower)).processor()
    known = Checkpoint(str(language)).tokenizer()
    content = json.loads(known.backend_tokenizer.to_str().replace(_UNUSED, _IMAGE))
    backend = Tokenizer.from_str(json.dumps(content))
    start = known.bos_token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, known.bos_token_id)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=known.eos_token,
        unk_token=known.unk_token,
        pad_token=known.pad_token,
        extra_special_tokens={"image_token": _IMAGE},
        padding_side="left",
        model_max_length=known.model_max_length,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build(tower: Path, language: Path, processor: Any, **kind: Any) -> LlavaForConditionalGeneration:
    """The model before training: a new projector between the two."""
    seeing = Checkpoint(str(tower)).model(AutoModel, dtype=torch.float32)
    writing = Checkpoint(str(language)).model(AutoModelForCausalLM, dtype=torch.float32)
    image = processor.tokenizer.convert_tokens_to_ids(_IMAGE)
    config = LlavaConfig(
        vision_config=seeing.config,
        text_config=writing.config,
        image_token_index=image,
        image_token_id=image,
        image_seq_length=(processor.image_processor.size["height"] // 14) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        bos_token_id=writing.config.bos_token_id,
        eos_token_id=writing.config.eos_token_id,
        pad_token_id=writing.config.pad_token_id,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration._from_config(config, **kind)
    model.model.vision_tower.load_state_dict(seeing.state_dict())
    model.model.language_model.load_state_dict(writing.model.state_dict())
    model.tie_weights()
    return model
