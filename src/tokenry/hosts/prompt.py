"""Putting a question about a picture to a model the way its processor wants it put."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedModel

from tokenry.tokens import InputError


def question_text(processor: Any, question: str) -> str:
    """The prompt for one picture and a question: the processor's chat template, or its image token on its own line.

    Raises:
        InputError: the processor knows neither.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
    token = getattr(processor, "image_token", None)
    if token is None:
        raise InputError(
            f"{type(processor).__name__} has neither a chat template nor an image token, so there is no telling how "
            "this model wants a question about a picture put."
        )
    return f"{token}\n{question}"


def sample_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Two questions of different length about two made-up pictures, by the processor that the model came with.

    Raises:
        InputError: the model did not come from a folder or hub id with a processor.
    """
    name = model.name_or_path
    try:
        processor: Any = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no processor beside the model ({name or 'it was not loaded from anywhere'!r}), so inputs cannot "
            "be made up. Pass your own: tk.check(model, inputs)."
        ) from error
    questions = ["what is this?", "what is at the top left of the picture?"]
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in questions:
        coarse = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
        pictures.append(Image.fromarray(coarse.numpy()).resize((192, 192)))
    texts = [question_text(processor, q) for q in questions]
    processor.tokenizer.padding_side = "left"
    batch = processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(model.device)
    return {
        k: v.to(model.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()
    }
