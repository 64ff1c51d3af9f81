"""Putting a question about a picture to a model the way its processor wants it put.

The prompt is the processor's own: its chat template's where it has one (`tokenry.hosts.chat`), else pictures before the
question. The question is text, whatever it says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from PIL import Image

from tokenry.hosts.chat import ChatPrompt, Message
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.host import Host
from tokenry.hosts.wrappers import device_of
from tokenry.tokens import InputError
from tokenry.tokens.renamed import renamed

_TOKENS: Final = {False: "image_token", True: "video_token"}
"""What a processor calls its token for pictures, and for videos."""
_ABOUT: Final = {False: ("an image token", "a picture"), True: ("a video token", "a video")}


@renamed(pictures="images")
def question_inputs(
    model: Any,
    processor: Any,
    images: Sequence[Sequence[Image.Image]],
    questions: Sequence[str],
    videos: Sequence[bool] = (),
) -> dict[str, Any]:
    """The inputs that a model's own `generate` takes for questions about pictures or videos, a row for each question.

    Args:
        model: what is asked; its device and type of numbers are what the inputs get.
        processor: its processor, which is not changed.
        images: RGB, one or several for each question; they stand before it.
        questions: the user's texts. Rows of different length are padded on the left, as generation wants them.
        videos: for each question, whether its pictures are the frames of one video; by default none are.

    Raises:
        InputError: the processor has neither a chat template nor a token for pictures (or videos), its chat template
            refuses a question about a picture, or it lacks a setting that the model's configuration does not tell
            either.
    """
    processor = _complete(processor, model)
    seen = [
        _Seen(tuple(several), video)
        for several, video in zip(images, videos or [False] * len(images), strict=True)
    ]
    options = {"padding": True, "padding_side": "left"} if len(questions) > 1 else {}
    found = ChatPrompt(processor).encode(
        list(questions),
        partial(_chats, seen),
        partial(_without_template, seen, options),
        what="a question about a picture",
        processor_kwargs=options,
    )
    return _moved(found, model)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a question is about.

    Attributes:
        images: pictures, or the frames of a video.
        video: whether they are one video.
    """

    images: tuple[Image.Image, ...]
    video: bool

    def parts(self) -> list[dict[str, Any]]:
        """What stands for it in a chat."""
        if self.video:
            return [{"type": "video", "video": list(self.images)}]
        return [{"type": "image", "image": image} for image in self.images]


def _chats(seen: Sequence[_Seen], questions: Sequence[str]) -> list[list[Message]]:
    """A chat of one turn for each question, which stands behind what it is about."""
    return [
        [{"role": "user", "content": [*one.parts(), {"type": "text", "text": q}]}]
        for one, q in zip(seen, questions, strict=True)
    ]


def _without_template(
    seen: Sequence[_Seen], options: Mapping[str, Any], processor: Any, questions: Sequence[str]
) -> Mapping[str, Any]:
    """One row for each question about what is seen, by the processor's tokens for pictures and videos.

    Raises:
        InputError: it has none.
    """
    tokens = {video: getattr(processor, _TOKENS[video], None) for video in {one.video for one in seen}}
    for video, token in tokens.items():
        if token is None:
            raise InputError(
                f"{type(processor).__name__} has neither a chat template nor {_ABOUT[video][0]}, so there is no "
                f"telling how this model wants a question about {_ABOUT[video][1]} put."
            )
    texts = [
        f"{tokens[one.video]}\n" * (1 if one.video else len(one.images)) + question
        for one, question in zip(seen, questions, strict=True)
    ]
    given: dict[str, Any] = {}
    if images := [image for one in seen if not one.video for image in one.images]:
        given["images"] = images
    if videos := [list(one.images) for one in seen if one.video]:
        given["videos"] = videos
    own: Mapping[str, Any] = processor(**given, text=texts, return_tensors="pt", **options)
    return own


def _complete(processor: Any, model: Any) -> Any:
    """The processor, or a copy with the settings that files from before transformers 4.46 lack.

    LLaVA's processors count a picture's tokens themselves, and cannot do without them.

    Raises:
        InputError: the model's configuration does not tell a setting that is missing.
    """
    told = {
        "patch_size": getattr(getattr(model.config, "vision_config", None), "patch_size", None),
        "vision_feature_select_strategy": getattr(model.config, "vision_feature_select_strategy", None),
    }
    missing = [name for name in told if getattr(processor, name, "") is None]
    if not missing:
        return processor
    if unknown := [name for name in missing if told[name] is None]:
        raise InputError(
            f"{type(processor).__name__} has no {' and no '.join(unknown)}, and the configuration of "
            f"{type(model).__name__} does not tell. Set it before use (`processor.{unknown[0]} = ...`) or add it to "
            "the model's processor_config.json: the side of the vision encoder's patches in pixels is its patch_size."
        )
    processor = copy.copy(processor)
    for name in missing:
        setattr(processor, name, told[name])
    if "patch_size" in missing and getattr(processor, "num_additional_image_tokens", None) == 0:
        processor.num_additional_image_tokens = int(Host.of(model).has_cls)
    return processor


def _moved(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """On the model's device; what is no whole number, in the model's type."""
    found = {}
    for name, value in inputs.items():
        if torch.is_tensor(value):
            value = value.to(device_of(model), model.dtype if value.is_floating_point() else None)
        found[name] = value
    return found


def sample_inputs(model: Any) -> dict[str, Any]:
    """Two questions of different length about two made-up pictures, by the processor that the model came with.

    Raises:
        InputError: the model did not come from a folder or hub id with a processor.
    """
    name = model.name_or_path
    try:
        processor = Checkpoint.find(name).processor()
    except InputError as error:
        raise InputError(
            f"There is no processor beside the model ({name or 'it was not loaded from anywhere'!r}), so inputs cannot "
            "be made up. Pass your own: tk.check(model, inputs)."
        ) from error
    questions = ["what is this?", "what is at the top left of the picture?"]
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in questions:
        coarse = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
        pictures.append([Image.fromarray(coarse.numpy()).resize((192, 192))])
    return question_inputs(model, processor, pictures, questions)
