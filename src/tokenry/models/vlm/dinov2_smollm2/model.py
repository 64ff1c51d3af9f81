"""A small LLaVA of real parts: DINOv2-S/14, the two-layer projector of LLaVA, and SmolLM2-135M-Instruct.

Tower and language model are fetched and converted like every packaged model; what was trained here, the projector and
an adapter of rank 16 on the language model, comes with tokenry. The three are put together once, in the cache, as an
ordinary checkpoint of transformers' ``LlavaForConditionalGeneration``, with the adapter merged into the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.wrappers import peft_for, with_adapter
from tokenry.models.vlm.dinov2_smollm2.folder import ADAPTER_FILES, PROJECTOR_FILE
from tokenry.tokens.errors import InputError, gist
from tokenry.train.trained import trained_folder

FEATURE_LAYER: Final = -4
"""Whose output the projector reads: patches of DINOv2's last three blocks say less of what is in their own place.

A linear classifier names .64 of the object patches of scenes from it, and .50 from the last block or the one before."""
TARGETS: Final = r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
"""Matrices of the language model that have an adapter."""
_UNUSED: Final = "<file_sep>"
"""A token of SmolLM2's vocabulary for training on code, in whose place the picture stands."""
_IMAGE: Final = "<image>"


def assemble(tower: Path, language: Path, parts: Path, target: Path) -> None:
    """Write tower, projector and language model, with the adapter in its weights, as one folder.

    Raises:
        InputError: the parts are damaged, or were made for other models.
        UnsupportedError: peft is not installed.
    """
    adapter = Checkpoint(str(parts)).adapter()
    processor = build_processor(tower, language)
    model = build(tower, language, processor)
    _read_projector(model, parts / PROJECTOR_FILE)
    merged = with_adapter(model, adapter).merge_and_unload()
    merged.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    merged.save_pretrained(target)
    processor.save_pretrained(target)


def _read_projector(model: LlavaForConditionalGeneration, file: Path) -> None:
    try:
        projector = {name: value.float() for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"The projector in {file} cannot be read: {gist(error)}.") from error
    try:
        model.model.multi_modal_projector.load_state_dict(projector)
    except RuntimeError as error:  # torch's for names and sizes
        raise InputError(
            f"The projector in {file} does not fit this tower and language model ({gist(error)}): name the parts that "
            "were trained on them."
        ) from error


def save_parts(adapted: Any, target: Path, notes: Mapping[str, Any]) -> None:
    """Write what was trained: projector and adapter in half precision, and notes on the training.

    Args:
        adapted: the model with the adapter, a `peft.PeftModel`.
        target: the folder, as a whole or not at all.
        notes: JSON values.
    """
    peft = peft_for("Saving the adapter of the small LLaVA")
    half = {n: v.detach().half().contiguous() for n, v in peft.get_peft_model_state_dict(adapted).items()}
    model = adapted.get_base_model()
    projector = {
        n: v.detach().half().contiguous() for n, v in model.model.multi_modal_projector.state_dict().items()
    }
    with trained_folder(target, notes) as scratch:
        save_file(half, scratch / ADAPTER_FILES[0], {"format": "pt"})
        save_file(projector, scratch / PROJECTOR_FILE, {"format": "pt"})
        settings = copy(adapted.peft_config[adapted.active_adapter])  # the one in training stays as it is
        settings.inference_mode = True
        settings.save_pretrained(scratch)


def build_processor(tower: Path, language: Path) -> LlavaProcessor:
    """DINOv2's image processor, and SmolLM2's tokenizer with a token for pictures and one at the beginning.

    Raises:
        InputError: a folder cannot be read, or its tokenizer has no token to spare.
    """
    image_processor = Checkpoint(str(tower)).processor()
    known = Checkpoint(str(language)).tokenizer()
    if _UNUSED not in known.get_vocab():
        raise InputError(
            f"The tokenizer in {language} has no {_UNUSED}, in whose place the picture stands: name the folder of "
            "SmolLM2."
        )
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
        patch_size=Checkpoint(str(tower)).config().patch_size,
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
        image_seq_length=(processor.image_processor.size["height"] // processor.patch_size) ** 2,
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
