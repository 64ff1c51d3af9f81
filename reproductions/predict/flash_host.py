"""FLASH: the embedded model, taught to describe whole pictures so that there is something to draft."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from tokenry.bench.reproduce import Study
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import PLACES, Scene
from tokenry.models.load import load
from tokenry.models.vlm.answering import IGNORE
from tokenry.models.vlm.embedded.batches import token_ids
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.models.vlm.embedded.objectives import PixelNorm
from tokenry.train.loop import Batch, Figures, LoopSettings, Objective

_QUESTION = "what can you see?"


def describe(scene: Scene) -> str:
    """What a scene shows, from the top left on: "a yellow key at the top a red sign at the left"."""
    objects = load_pack().objects
    shown = [
        (item.cell, " ".join(filter(None, (objects[item.index].colour, objects[item.index].name))))
        for item in scene.items
    ]
    if scene.sign:
        shown.append((scene.sign.cells[0], f"{scene.sign.colour} sign"))
    return " ".join(
        f"{'an' if what[0] in 'aeiou' else 'a'} {what} at the {PLACES[3 * row + column]}"
        for (row, column), what in sorted(shown)
    )


def answer_ids(scene: Scene) -> list[int]:
    """The tokens of what a scene shows, and the end of the answer."""
    return [*token_ids(describe(scene)), *token_ids("<eos>")]


def ask_to_describe(processor: LlavaProcessor, scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """The inputs of a batch of scenes with the question about all that they show."""
    text = [PROMPT.format(question=_QUESTION)] * len(scenes)
    return dict(processor(images=[scene.image for scene in scenes], text=text, return_tensors="pt"))


class _Description(Objective):
    """Say what a picture shows; the eyes of the model stay as they are."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model, self.norm = model, PixelNorm()

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the description, and how many of its words are the likeliest."""
        output = self.model(
            input_ids=batch["ids"],
            pixel_values=self.norm(batch["pixels"]),
            labels=batch["labels"],
            use_cache=False,
        )
        target = batch["labels"][:, 1:]
        counts = target != IGNORE
        return output.loss, {"words": (output.logits[:, :-1].argmax(-1) == target)[counts].float().mean()}


def _descriptions(step: int, *, prompt: Tensor, size: int, seed: int) -> Batch:
    """Pictures with their descriptions, for one step."""
    scenes = [make_scene("train", step * size + i, seed) for i in range(size)]
    answers = [answer_ids(scene) for scene in scenes]
    width = len(prompt) + max(map(len, answers))
    ids = torch.zeros(size, width, dtype=torch.long)  # 0 is padding
    labels = torch.full((size, width), IGNORE)
    ids[:, : len(prompt)] = prompt
    for row, answer in enumerate(answers):
        for tensor in (ids, labels):
            tensor[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    pixels = torch.stack([torch.from_numpy(scene.pixels) for scene in scenes])
    return {"ids": ids, "labels": labels, "pixels": pixels}


def describing_host(study: Study, seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The embedded model, taught to describe."""
    s = study.settings
    model, processor = load("embedded")
    prompt = ask_to_describe(processor, [make_scene("train", 0)])["input_ids"][0]
    settings = LoopSettings(
        steps=s["host_steps"],
        lr=s["host_lr"],
        warmup=max(1, s["host_steps"] // 20),
        lr_scale={"model.model.vision_tower": 0.0, "model.model.multi_modal_projector": 0.0},
        seed=seed,
    )
    batches = partial(_descriptions, prompt=prompt, size=s["host_batch"], seed=10 * seed + 1)
    study.train(_Description(model), batches, settings, f"host-{seed}")
    return model.eval(), processor
