"""The embedded vision-language model on large pictures: a thumbnail and four crops, as LLaVA-NeXT reads them.

It is the transformers class ``LlavaNextForConditionalGeneration`` on exactly the weights of the embedded model
(:mod:`tokenry.models.vlm.embedded`) and the vector that ends a line of patches, which its training on pictures in tiles
left beside them. A picture of 192 x 192 pixels becomes 744 visual tokens: 144 of the thumbnail, then 24 lines of 24
patches and an end. Details that are gone in the thumbnail, such as small signs, are read off the crops::

    model, processor = tk.load("embedded-tiles")

The package holds the weights once: the folder is put together in the cache, out of the embedded model's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)

from tokenry.data.packages import Package, cache_folder, convert_once, kept, sha256_of
from tokenry.data.scenes.style import TILED
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.upstream import NEWLINE, LlavaNextImageProcessorPil
from tokenry.models.pretrained import embedded_folder
from tokenry.models.vlm.embedded.tiles import NEWLINE_FILE
from tokenry.tokens.errors import InputError, gist

CANVASES: Final = ((TILED.side, TILED.side),)
"""Sizes (height, width) to which pictures are brought before they are cut: the one that the model was trained on."""
_SOURCES: Final = ("model.safetensors", "config.json", "processor_config.json", "tokenizer.json")
_CONVERSION: Final = 1
"""Raise it when putting the folder together changes: folders that older code wrote are then left alone."""


def embedded_tiles_folder(embedded: Path | None = None) -> Path:
    """Return the folder of the embedded model for pictures in tiles, put together the first time (in the cache).

    Args:
        embedded: An embedded model, as its training leaves one; the one that comes with tokenry by default.

    Raises:
        InputError: If files of the embedded model are missing or damaged, or do not fit each other.
        TokenryError: If the cache cannot be written.
    """
    embedded = embedded or embedded_folder()
    named = [embedded / name for name in (*_SOURCES, NEWLINE_FILE)]
    if lacking := [file.name for file in named if not file.is_file()]:
        raise InputError(
            f"{embedded} lacks {' and '.join(lacking)}, without which the embedded model reads no pictures in tiles: "
            "reinstall tokenry, or train it again with `tokenry train recipes/embedded_vlm.yaml`."
        )
    digest = hashlib.sha256("".join(map(sha256_of, named)).encode()).hexdigest()
    target = cache_folder() / "models" / f"embedded-tiles-{_CONVERSION}-{digest[:16]}"
    if kept(target) is None:
        source = Package("embedded", str(_CONVERSION), digest, embedded)
        convert_once(source, target, assemble, "preparing the embedded model for tiles (once)")
    return target


def assemble(embedded: Path, target: Path) -> None:
    """Write an embedded model as a LLaVA-NeXT, in single precision.

    Raises:
        InputError: the end of a line is damaged, or another model's.
    """
    checkpoint = Checkpoint(str(embedded))
    small = checkpoint.model(LlavaForConditionalGeneration, dtype=torch.float32)
    model = LlavaNextForConditionalGeneration._from_config(build_config(small.config))
    newline = _newline(embedded / NEWLINE_FILE, small.config.text_config.hidden_size)
    model.load_state_dict(small.state_dict() | {f"model.{NEWLINE}": newline})
    model.generation_config = small.generation_config
    model.save_pretrained(target)
    build_processor(checkpoint.processor()).save_pretrained(target)


def build_config(small: LlavaConfig) -> LlavaNextConfig:
    """The configuration of the embedded model, for pictures in tiles."""
    return LlavaNextConfig(
        vision_config=small.vision_config,
        text_config=small.text_config,
        image_token_index=small.image_token_id,
        image_grid_pinpoints=[list(canvas) for canvas in CANVASES],
        image_seq_length=small.image_seq_length,
        vision_feature_layer=small.vision_feature_layer,
        vision_feature_select_strategy=small.vision_feature_select_strategy,
        projector_hidden_act=small.projector_hidden_act,
        multimodal_projector_bias=small.multimodal_projector_bias,
        bos_token_id=small.text_config.bos_token_id,
        eos_token_id=small.text_config.eos_token_id,
        pad_token_id=small.text_config.pad_token_id,
        tie_word_embeddings=small.tie_word_embeddings,
    )


def build_processor(small: LlavaProcessor) -> LlavaNextProcessor:
    """The processor: LLaVA-NeXT's PIL image processor (no torchvision needed) and the embedded model's tokenizer."""
    one = small.image_processor
    image_processor = LlavaNextImageProcessorPil(
        size=dict(one.size),
        crop_size=dict(one.crop_size),
        image_mean=one.image_mean,
        image_std=one.image_std,
        image_grid_pinpoints=[list(canvas) for canvas in CANVASES],
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=small.tokenizer,
        patch_size=small.patch_size,
        vision_feature_select_strategy=small.vision_feature_select_strategy,
        num_additional_image_tokens=small.num_additional_image_tokens,
    )


def _newline(file: Path, width: int) -> Float[Tensor, " d"]:
    """The vector that ends a line of patches, for a language model of a width."""
    try:
        found = load_file(file)[NEWLINE]
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{file} is damaged ({gist(error)}): reinstall tokenry.") from error
    if found.shape != (width,):
        raise InputError(
            f"{file} ends lines with a vector of shape {tuple(found.shape)}, and the embedded model beside it is "
            f"{width} wide: put the files of one training together."
        )
    return found.float()
