"""FLASH: is guessing several tokens a pass, from a compressed picture, cheaper than guessing one at a time?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import PLACES, Scene, make_scene
from tokenry.models.load import load
from tokenry.models.vlm.embedded.batches import IGNORE, token_ids
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.models.vlm.embedded.objectives import PixelNorm
from tokenry.predict.lm.flash.drafter import ChainDrafter, Drafter, FlashConfig, FlashDrafter
from tokenry.predict.lm.flash.proposer import ChainDrafts, Flash, static_tree
from tokenry.predict.lm.flash.training import FlashObjective, LessonBatches, Lessons, record
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.tree import Draft
from tokenry.train.loop import Batch, Figures, LoopSettings, Objective

_QUESTION = "what can you see?"
_AR, _AR_SHORT = "one token a pass, 5 levels", "one token a pass, as many levels"
_SEMI, _OURS = "several tokens a pass", "several tokens a pass, compressed picture"


def experiment(study: Study) -> Outcome:
    """Teach the embedded model to describe, train three drafters on what it says, and decode with each in turns."""
    s = study.settings
    runs = [_run(study, seed) for seed in study.seeds]

    def figure(name: str, arm: str) -> list[float]:
        return [getattr(run[arm], name) for run in runs]

    def over(name: str, other: str) -> Figure:
        return Figure.of([a / b for a, b in zip(figure(name, _OURS), figure(name, other), strict=True)])

    arms = (_AR, _AR_SHORT, _SEMI, _OURS)
    return Outcome(
        metric="milliseconds of the drafter's process time per written token",
        ours=Arm(_OURS, tuple(figure("cost", _OURS))),
        baseline=Arm(_AR_SHORT, tuple(figure("cost", _AR_SHORT))),
        figures={
            "descriptions that differ from greedy decoding": Figure.of(
                [float(sum(run[arm].different for arm in arms)) for run in runs]
            ),
            "lowest acceptance length": Figure.of([min(run[arm].tau for arm in arms) for run in runs]),
            "drafter's time over one token a pass, as many levels": over("cost", _AR_SHORT),
            "acceptance length over one token a pass, as many levels": over("tau", _AR_SHORT),
            "drafter's time over one token a pass, 5 levels": over("cost", _AR),
            "acceptance length over one token a pass, 5 levels": over("tau", _AR),
        },
        tables={"drafters": {arm: _row([run[arm] for run in runs]) for arm in arms}},
        details={
            "descriptions": {
                "tokens": Figure.of(figure("length", _OURS)).value,
                "word for word as composed": Figure.of([run[_OURS].right for run in runs]).value,
            }
        },
        notes=(
            "The embedded model answers in a word or two; so that there is something to draft, its language model was "
            f"first taught to describe whole pictures ({s['host_steps']} steps). The sentences have one form, which "
            "makes them easier to guess than free text: acceptance lengths are high for all drafters.",
            f"With k = {s['offsets']} at most {s['offsets'] + 1} tokens come from a pass, with the published tree of 5 "
            "levels 6: the drafters are compared at as many levels, and also as published.",
            "Time is process time on one thread, the drafters taking turns on every picture; it includes reading the "
            "prompt.",
        ),
    )


# ---------------------------------------------------------------------------------------------------- decoding


@dataclass(eq=False)
class _Timed:
    """A proposer with a clock."""

    inner: Proposer
    hidden: bool = True
    seconds: float = 0.0

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Any) -> None:
        """See `Proposer.begin`."""
        self._timed(self.inner.begin, prompts, hidden)

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self._timed(self.inner.propose, row, text, limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        self._timed(self.inner.learn, row, verified)

    def _timed(self, do: Any, *what: Any) -> Any:
        started = time.process_time()
        found = do(*what)
        self.seconds += time.process_time() - started
        return found


@dataclass
class _Arm:
    """What one way of drafting took, over all pictures."""

    how: Speculation
    clock: _Timed
    tokens: int = 0
    steps: int = 0
    texts: int = 0
    different: int = 0
    right: float = 0.0
    seconds: float = 0.0
    greedy_seconds: float = 0.0

    @property
    def tau(self) -> float:
        """Acceptance length: tokens a pass, the first token of a text aside, which needs none."""
        return (self.tokens - self.texts) / self.steps

    @property
    def cost(self) -> float:
        """Milliseconds of the drafter per token."""
        return 1000 * self.clock.seconds / (self.tokens - self.texts)

    @property
    def length(self) -> float:
        """Tokens of a description."""
        return self.tokens / self.texts

    @property
    def speed(self) -> float:
        """Greedy decoding's time over this one's, the pass over the prompt and the picture included."""
        return self.greedy_seconds / self.seconds


def _row(arms: Sequence[_Arm]) -> dict[str, float]:
    columns = {"acceptance length": "tau", "drafter ms per token": "cost", "speed over greedy": "speed"}
    return {
        title: round(Figure.of([getattr(arm, n) for arm in arms]).value, 3) for title, n in columns.items()
    }


def _run(study: Study, seed: int) -> dict[str, _Arm]:
    """All of one seed: host, drafters, decoding."""
    s = study.settings
    model, processor = _host(study, seed)
    lessons = _lessons(study, model, processor, seed)
    drafters = {
        name: _drafter(study, kind, latents, model, lessons, file, seed)
        for name, kind, latents, file in (
            (_AR, ChainDrafter, None, "chain"),
            (_SEMI, FlashDrafter, None, "semi"),
            (_OURS, FlashDrafter, s["latents"], "compressed"),
        )
    }
    proposers: dict[str, Proposer] = {
        _AR: ChainDrafts(drafters[_AR], model),
        _AR_SHORT: ChainDrafts(drafters[_AR], model, tree=static_tree(s["offsets"])),
        _SEMI: Flash(drafters[_SEMI], model, nodes=s["nodes"]),
        _OURS: Flash(drafters[_OURS], model, nodes=s["nodes"]),
    }
    clocks = {name: _Timed(proposer) for name, proposer in proposers.items()}
    arms = {name: _Arm(Speculation(clock, Fixed(s["nodes"])), clock) for name, clock in clocks.items()}
    for index in range(-s["warm_up"], s["pictures"]):
        if index == 0:  # what the first calls set up is no drafter's cost
            for name, arm in arms.items():
                clocks[name].seconds = 0.0
                arms[name] = _Arm(arm.how, arm.clock)
        _decode(model, processor, make_scene("test", index + s["warm_up"], seed), arms, s["longest"], index)
    return arms


def _decode(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scene: Scene,
    arms: Mapping[str, _Arm],
    longest: int,
    turn: int,
) -> None:
    """Describe a picture greedily and with every drafter; who begins changes from picture to picture."""
    asked: dict[str, Any] = dict(_ask(processor, [scene]), max_new_tokens=longest, do_sample=False)
    started = time.process_time()
    expected: Tensor = model.generate(**asked)
    greedy = time.process_time() - started
    new = expected[0, asked["input_ids"].shape[1] :].tolist()
    right = float(new == _answer(scene))
    names = list(arms)
    for name in (names[(i + turn) % len(names)] for i in range(len(names))):
        arm = arms[name]
        started = time.process_time()
        found = model.generate(**asked, custom_generate=arm.how)
        arm.how.stats.raise_if_interrupted()
        arm.seconds += time.process_time() - started
        arm.greedy_seconds += greedy
        arm.different += not torch.equal(found, expected)
        arm.right += (right - arm.right) / (arm.texts + 1)
        arm.tokens += arm.how.stats.tokens
        arm.steps += arm.how.stats.steps
        arm.texts += 1


# ---------------------------------------------------------------------------------------------------- training


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


def _answer(scene: Scene) -> list[int]:
    return [*token_ids(describe(scene)), *token_ids("<eos>")]


def _ask(processor: LlavaProcessor, scenes: Sequence[Scene]) -> dict[str, Tensor]:
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
    answers = [_answer(scene) for scene in scenes]
    width = len(prompt) + max(map(len, answers))
    ids = torch.zeros(size, width, dtype=torch.long)  # 0 is padding
    labels = torch.full((size, width), IGNORE)
    ids[:, : len(prompt)] = prompt
    for row, answer in enumerate(answers):
        for tensor in (ids, labels):
            tensor[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    pixels = torch.stack([torch.from_numpy(scene.pixels) for scene in scenes])
    return {"ids": ids, "labels": labels, "pixels": pixels}


def _host(study: Study, seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The embedded model, taught to describe."""
    s = study.settings
    model, processor = load("embedded")
    prompt = _ask(processor, [make_scene("train", 0)])["input_ids"][0]
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


def _lessons(
    study: Study, model: LlavaForConditionalGeneration, processor: LlavaProcessor, seed: int
) -> Lessons:
    """What the taught model says about other pictures, and thinks on the way; kept for a continued run."""
    s = study.settings
    folder = study.folder / f"lessons-{seed}"
    if folder.is_dir():
        return Lessons.load(folder)
    parts = []
    for first in range(0, s["lessons"], s["lesson_batch"]):
        scenes = [
            make_scene("train", i, 10 * seed + 2)
            for i in range(first, min(first + s["lesson_batch"], s["lessons"]))
        ]
        parts.append(record(model, _ask(processor, scenes), max_new_tokens=s["longest"]))
    found = Lessons.join(parts)
    found.save(folder)
    return found


def _drafter(
    study: Study,
    kind: type[Drafter],
    latents: int | None,
    model: LlavaForConditionalGeneration,
    lessons: Lessons,
    name: str,
    seed: int,
) -> Drafter:
    """A drafter of the host's own sizes, trained on the lessons."""
    s, text = study.settings, model.config.text_config
    chain = kind is ChainDrafter
    config = FlashConfig(
        width=text.hidden_size,
        offsets=s["offsets"],
        latents=latents,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        feed_forward=text.intermediate_size if chain else None,
        residual=s["residual"],
    )
    torch.manual_seed(seed)
    objective = FlashObjective(kind(config), model, noise=s["noise"])
    settings = LoopSettings(
        steps=s["steps"], lr=s["lr"], warmup=max(1, s["steps"] // 20), betas=(0.9, 0.95), clip=0.5, seed=seed
    )
    return study.train(
        objective, LessonBatches(lessons, s["batch"], seed), settings, f"{name}-{seed}"
    ).drafter
