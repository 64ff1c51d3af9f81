"""Large pictures as LLaVA-NeXT reads them: a thumbnail, four crops, and an end of line behind each row of patches."""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from tokenry.data.scenes.scenes import Scene, patch_classes
from tokenry.data.scenes.style import SMALL, TILED

NEWLINE_FILE = "image_newline.safetensors"
TILES = 1 + (TILED.side // SMALL.side) ** 2
_ACROSS = TILED.side // SMALL.side


def cut(scene: Scene) -> UInt8[np.ndarray, "tiles side side 3"]:
    """The picture as thumbnail and crops, row by row."""
    small = scene.image.resize((SMALL.side, SMALL.side), Image.Resampling.BICUBIC)
    crops = scene.pixels.reshape(_ACROSS, SMALL.side, _ACROSS, SMALL.side, 3).swapaxes(1, 2)
    return np.concatenate([np.asarray(small)[None], crops.reshape(-1, SMALL.side, SMALL.side, 3)])


def crop_labels(scene: Scene, patches: int) -> Int[np.ndarray, "crops n"]:
    """What each patch of each crop shows, for crops of `patches` patches a side."""
    labels = patch_classes(scene, (_ACROSS * patches, _ACROSS * patches))
    return labels.reshape(_ACROSS, patches, _ACROSS, patches).swapaxes(1, 2).reshape(-1, patches * patches)


def packed_labels(scene: Scene, patches: int) -> Int[np.ndarray, " n"]:
    """What each visual token shows, in the order of `pack`; the thumbnail's, too small to say, count as background."""
    labels = patch_classes(scene, (_ACROSS * patches, _ACROSS * patches))
    ended = np.pad(labels, ((0, 0), (0, 1)))  # ends of lines
    return np.concatenate([np.zeros(patches * patches, dtype=labels.dtype), ended.reshape(-1)])


def pack(features: Float[Tensor, "b tiles n d"], newline: Float[Tensor, " d"]) -> Float[Tensor, "b m d"]:
    """The visual tokens of a picture: the thumbnail's, then those of all crops line by line, each line ended."""
    batch, _, n, width = features.shape
    side = round(n**0.5)
    grid = features[:, 1:].view(batch, _ACROSS, _ACROSS, side, side, width).transpose(2, 3)
    lines = grid.reshape(batch, _ACROSS * side, _ACROSS * side, width)
    ends = newline.to(lines.dtype).expand(batch, _ACROSS * side, 1, width)
    return torch.cat([features[:, 0], torch.cat([lines, ends], dim=2).flatten(1, 2)], dim=1)
