"""How models are given pictures: placeholders, pixels, encoders and what they return, tiles, deep features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import Tensor, nn

from tokenry.hosts.upstream.arguments import parameters

_PLACEHOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("image_token_id", "image_token_index"),
    "video": ("video_token_id", "video_token_index"),
}
"""Settings that hold the token which stands for visual ones, by modality."""

MODALITIES: Final = tuple(_PLACEHOLDERS)
"""What visual tokens may be made of."""


def placeholder_of(config: Any, modality: str) -> int | None:
    """The token that stands for the visual tokens of a modality, or None."""
    values = (getattr(config, name, None) for name in _PLACEHOLDERS[modality])
    return next((value for value in values if isinstance(value, int)), None)


def placeholder_settings(modality: str) -> tuple[str, ...]:
    """What the setting may be called that holds a modality's placeholder token."""
    return _PLACEHOLDERS[modality]


def encoder_name(modality: str) -> str:
    """What the method is called that encodes inputs of a modality."""
    return f"get_{modality}_features"


def encoder_of(module: Any, modality: str) -> Callable[..., Any] | None:
    """A module's encoder of "image" or "video" inputs, or None."""
    return getattr(module, encoder_name(modality), None)


PIXELS: Final = ("pixel_values", "pixel_values_images", "image_patches", "pixel_values_videos")
"""Arguments that hold pictures and videos as pixels, those of videos last."""

ENCODED: Final = "mm_encoder_outputs"
"""Argument of some models that holds what their encoders delivered before, by modality."""

TOKEN_TYPES: Final = "mm_token_type_ids"
"""Argument in which a processor says of each token what it stands for."""

TYPE_OF: Final[Mapping[str, int]] = {"image": 1, "video": 2}
"""What processors write there."""

PACKING: Final = "pack_image_features"
"""Method of some models that stitches encoded tiles together."""

NEWLINE: Final = "image_newline"
"""Its argument that holds the token after each line."""

INTERPOLATE: Final = "interpolate_pos_encoding"
"""Method of modules that add position embeddings to patches, which fits these to a picture's size; and the argument by
which some of them are told to."""


def interpolates(module: nn.Module) -> bool:
    """Whether a module adds position embeddings to patches and can fit them to other sizes of pictures."""
    return callable(getattr(module, INTERPOLATE, None))


def holds_videos(pixels: str) -> bool:
    """Whether an argument of pixels is one for videos."""
    return pixels.endswith("videos")


def picture_grids(call: Mapping[str, Any]) -> Tensor | None:
    """(frames, height, width) of each item in patches, among the arguments of an encoder's call; None if not there."""
    return next((g for name, g in call.items() if name.endswith("grid_thw") and g is not None), None)


def picture_sizes(call: Mapping[str, Any]) -> Tensor | None:
    """(height, width) of each picture in pixels, among the arguments of an encoder's call; None if not there."""
    return call.get("image_sizes")


def puts_tiles_together(encode: Callable[..., Any]) -> bool:
    """Whether an encoder is told which tiles make one picture, so that what it delivers are pictures."""
    return any(name in parameters(encode) for name in ("image_sizes", "image_grids", "num_local_patches"))


def takes_encoded(base: nn.Module) -> bool:
    """Whether a model can be given pictures that are already encoded."""
    return ENCODED in parameters(base)


def picture_features(output: Any) -> Any:
    """The features in the output of an encoder of pictures: one tensor of tokens for each thing it encoded.

    Most classes put them into `pooler_output`; Fuyu has its last states only, Granite4-Vision one list for each layer
    that they are added before.
    """
    pooled = getattr(output, "pooler_output", output)
    if pooled is None and getattr(output, "deepstack_features", None):
        pooled = output.deepstack_features[0][1]
    return getattr(output, "last_hidden_state", None) if pooled is None else pooled


class Tiling(StrEnum):
    """How the processor of a model writes a picture that it cut into tiles."""

    BETWEEN = "between"
    """One mark or none between two tiles, more between two pictures (InternVL, Aya, Cohere2, Ovis2, LFM2)."""
    AROUND = "around"
    """A mark before each tile, and after the last (Idefics3, SmolVLM)."""
    SLICES = "slices"
    """Marks around each tile; the whole picture has others than its slices and comes first (MiniCPM-V)."""


_TILING_SETTINGS: Final = {
    "slice_mode": Tiling.SLICES,
    "crop_to_patches": Tiling.BETWEEN,
    "do_image_splitting": Tiling.BETWEEN,
}
"""Settings of image processors that say whether pictures are cut."""


@functools.cache
def tiling_of(model_type: str) -> Tiling | None:
    """How the image processor that belongs to a type of model cuts pictures into tiles; None if it does not.

    Read from the processor's own source, since its class may not be importable where only the model is run.
    """
    known = import_module("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    names = known.get(model_type) or ()
    names = (
        list(names.values()) if isinstance(names, Mapping) else [names] if isinstance(names, str) else names
    )
    for name in filter(None, names):
        module = getattr(transformers, "_class_to_module", {}).get(name)
        spec = None if module is None else find_spec(f"transformers.{module}")
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin).read_text(encoding="utf-8")
        found = next((t for setting, t in _TILING_SETTINGS.items() if setting in source), None)
        if found is not None:
            return found
    return None


def whole_comes_first(config: Any) -> bool:
    """Whether the whole picture is the first of its tiles, not the last: so in Ovis2, whose configuration has tokens
    for the grid that follows, and where pictures are sliced."""
    sliced = tiling_of(str(config.model_type)) is Tiling.SLICES
    return sliced or hasattr(config, "visual_indicator_token_ids")


_BETWEEN: Final = (("deepstack_visual_embeds", "visual_pos_masks"), ("deepstack_features", "vision_mask"))
"""Arguments of decoders that hold features to be added to visual tokens between layers, and where these tokens are."""


def take_between_layers(arguments: dict[str, Any], like: Tensor) -> dict[int, Tensor]:
    """Take the features that a decoder adds to its visual tokens between layers (deepstack) out of a call's arguments.

    Args:
        arguments: of a call to the decoder; loses what is taken.
        like: embeddings of the call [b t d].

    Returns:
        By layer, what is added to the whole sequences before it; zero where there is no visual token.
    """
    found: dict[int, Tensor] = {}
    for name, where in _BETWEEN:
        features, mask = arguments.pop(name, None), arguments.pop(where, None)
        if features is None or mask is None:
            continue
        mask = mask if mask.ndim == like.ndim else mask[..., None]
        by_layer = features if isinstance(features, Mapping) else dict(enumerate(features, start=1))
        for layer, part in by_layer.items():
            found[layer] = torch.zeros_like(like).masked_scatter(mask, part.to(like))
    return found
