"""Processor of pictures, clips and text for Qwen2-VL's family that needs neither torchvision nor a video library.

transformers' own reads videos with torchvision, and cannot be made without it. Frames that are pictures already need no
more than what makes patches of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, Qwen2VLConfig, Qwen2VLProcessor

from tokenry.tokens.errors import InputError

_FRAMES: Final = (
    "give each clip as a list of its frames: PIL pictures of one size, or an array [frames, height, width, 3]"
)


class FrameStacker:
    """What makes patches of clips, by an image processor of Qwen2-VL's.

    Args:
        image_processor: it scales, normalises and cuts each frame.
    """

    def __init__(self, image_processor: Any) -> None:
        self._frames = image_processor
        self.merge_size: int = image_processor.merge_size

    def __call__(self, videos: Any, **settings: Any) -> BatchFeature:
        """The clips' patches, one behind the other, and the grid (time, rows, columns) of each.

        Args:
            videos: clips, or one; each a list of frames or an array. The last frame is repeated where they do not come
                out even.
            settings: of the image processor.

        Raises:
            InputError: something else than frames of one size: a file, say, which is not read here.
        """
        settings.pop("return_tensors", None)
        deep = self._frames.temporal_patch_size
        patches, grids = [], []
        for frames in map(_frames_of, _clips_of(videos)):
            frames = frames + frames[-1:] * (-len(frames) % deep)
            cut = self._frames(images=frames, return_tensors="np", **settings)
            _, rows, columns = (int(n) for n in cut["image_grid_thw"][0])
            side = self._frames.patch_size
            # A picture is cut as `deep` equal frames: one of them is enough of each frame here.
            flat = np.asarray(cut["pixel_values"]).reshape(
                len(frames) // deep, deep, rows * columns, 3, deep, side, side
            )
            stacked = flat[:, :, :, :, 0].transpose(0, 2, 3, 1, 4, 5)
            patches.append(stacked.reshape(len(frames) // deep * rows * columns, -1))
            grids.append([len(frames) // deep, rows, columns])
        return BatchFeature(
            {
                "pixel_values_videos": torch.from_numpy(np.ascontiguousarray(np.concatenate(patches))),
                "video_grid_thw": torch.tensor(grids),
            }
        )


def _clips_of(videos: Any) -> list[Any]:
    """One clip or several, as several."""
    if isinstance(videos, np.ndarray | torch.Tensor):
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, Sequence) or isinstance(videos, str) or not videos:
        raise InputError(f"A {type(videos).__name__} is no clip: {_FRAMES}.")
    nested = isinstance(videos[0], list | tuple) or getattr(videos[0], "ndim", 0) == 4
    return [one for clip in videos for one in _clips_of(clip)] if nested else [list(videos)]


def _frames_of(clip: Any) -> list[Image.Image]:
    frames = [frame if isinstance(frame, Image.Image) else _picture(frame) for frame in clip]
    if not frames or len({frame.size for frame in frames}) > 1:
        raise InputError(
            f"A clip has {len(frames)} frames, in sizes {sorted({f.size for f in frames})}: {_FRAMES}."
        )
    return frames


def _picture(frame: Any) -> Image.Image:
    if isinstance(frame, str):
        raise InputError(
            f"The video {frame[:80]!r} is not read here, for that takes a video library: {_FRAMES}."
        )
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(f"A frame of shape {pixels.shape} and type {pixels.dtype} is no picture: {_FRAMES}.")
    return Image.fromarray(pixels)


class FrameProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor with `FrameStacker` in place of a video processor.

    Args:
        image_processor: of Qwen2-VL.
        tokenizer: with an image and a video token.
        chat_template: if there is one.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        # Not `Qwen2VLProcessor.__init__`, which insists on a video processor.
        self.image_token, self.video_token = tokenizer.image_token, tokenizer.video_token
        self.image_token_id, self.video_token_id = tokenizer.image_token_id, tokenizer.video_token_id
        super(Qwen2VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def video_processor(self) -> FrameStacker:
        """What makes patches of clips."""
        return FrameStacker(self.image_processor)


class _FrameConfig(Qwen2VLConfig):
    """A key: transformers finds a registered processor by its name, whatever configuration it is registered for."""


@cache
def register_processor() -> None:
    """Let transformers' `AutoProcessor` find `FrameProcessor` where a folder names it."""
    AutoProcessor.register(_FrameConfig, FrameProcessor)
