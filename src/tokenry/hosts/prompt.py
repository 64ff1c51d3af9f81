"""Putting a question about a picture to a model the way its processor wants it put.

The prompt is the processor's own: its chat template's where it has one (`tokenry.hosts.chat`), else pictures before the
question. The question is text, whatever it says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from tokenry.hosts.chat import ChatPrompt, Message
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.host import Host
from tokenry.hosts.wrappers import device_of
from tokenry.tokens import InputError


def question_inputs(
    model: Any,
    processor: Any,
    pictures: Sequence[Sequence[Image.Image]],
    questions: Sequence[str],
) -> dict[str, Any]:
    """The inputs that a model's own `generate` takes for questions about pictures, one row for each question.

    Args:
        model: what is asked; its device and type of numbers are what the inputs get.
        processor: its processor, which is not changed.
        pictures: RGB, one or several for each question; they stand before it.
        questions: the user's texts. Rows of different length are padded on the left, as generation wants them.

    Raises:
        InputError: the processor has neither a chat template nor an image token, its chat template refuses a question
            about a picture, or it lacks a setting that the model's configuration does not tell either.
    """
    processor = _complete(processor, model)
    options = {"padding": True, "padding_side": "left"} if len(questions) > 1 else {}
    found = ChatPrompt(processor).encode(
        list(questions),
        partial(_chats, pictures),
        partial(_without_template, pictures, options),
        what="a question about a picture",
        processor_kwargs=options,
    )
    return _moved(found, model)


def _chats(pictures: Sequence[Sequence[Image.Image]], questions: Sequence[str]) -> list[list[Message]]:
    """A chat of one turn for each question, which stands behind its pictures."""
    return [
        [
            {
                "role": "user",
                "content": [*({"type": "image", "image": p} for p in several), {"type": "text", "text": q}],
            }
        ]
        for several, q in zip(pictures, questions, strict=True)
    ]


def _without_template(
    pictures: Sequence[Sequence[Image.Image]],
    options: Mapping[str, Any],
    processor: Any,
    questions: Sequence[str],
) -> Mapping[str, Any]:
    """One row for each question about its pictures, by the processor's image token.

    Raises:
        InputError: it has none.
    """
    token = getattr(processor, "image_token", None)
    if token is None:
        raise InputError(
            f"{type(processor).__name__} has neither a chat template nor an image token, so there is no telling how "
            "this model wants a question about a picture put."
        )
    asked = zip(pictures, questions, strict=True)
    texts = ["".join(f"{token}\n" for _ in several) + question for several, question in asked]
    images = [picture for several in pictures for picture in several]
    own: Mapping[str, Any] = processor(images=images, text=texts, return_tensors="pt", **options)
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
