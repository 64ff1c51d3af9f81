"""FLASH: is guessing several tokens a pass, from a compressed picture, cheaper than guessing one at a time?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from reproductions.predict.flash_decoding import DraftingArm, TimedProposer, decode_in_turns
from reproductions.predict.flash_host import ask_to_describe, describing_host
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.scenes.compose import make_scene
from tokenry.predict.lm.flash.drafter import ChainDrafter, Drafter, FlashConfig, FlashDrafter
from tokenry.predict.lm.flash.proposer import ChainDrafts, Flash, static_tree
from tokenry.predict.lm.flash.training import FlashObjective, LessonBatches, Lessons, record
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.train.loop import LoopSettings

_AR, _AR_SHORT = "one token a pass, 5 levels", "one token a pass, as many levels"
_SEMI, _OURS = "several tokens a pass", "several tokens a pass, compressed picture"


def experiment(study: Study) -> Outcome:
    """Teach the embedded model to describe, train three drafters on what it says, and decode with each in turns."""
    runs = [_run(study, seed) for seed in study.seeds]

    def figure(name: str, arm: str) -> list[float]:
        return [getattr(run[arm], name) for run in runs]

    def over(name: str, other: str) -> Measurement:
        return Measurement.of([a / b for a, b in zip(figure(name, _OURS), figure(name, other), strict=True)])

    arms = (_AR, _AR_SHORT, _SEMI, _OURS)
    return Outcome(
        metric="milliseconds of the drafter's process time per written token",
        ours=Arm.of(_OURS, tuple(figure("cost", _OURS))),
        baseline=Arm.of(_AR_SHORT, tuple(figure("cost", _AR_SHORT))),
        measurements={
            "descriptions that differ from greedy decoding": Measurement.of(
                [float(sum(run[arm].different for arm in arms)) for run in runs]
            ),
            "lowest acceptance length": Measurement.of([min(run[arm].tau for arm in arms) for run in runs]),
            "drafter's time over one token a pass, as many levels": over("cost", _AR_SHORT),
            "acceptance length over one token a pass, as many levels": over("tau", _AR_SHORT),
            "drafter's time over one token a pass, 5 levels": over("cost", _AR),
            "acceptance length over one token a pass, 5 levels": over("tau", _AR),
        },
        tables={"drafters": {arm: _row([run[arm] for run in runs]) for arm in arms}},
        details={
            "descriptions": {
                "tokens": Measurement.of(figure("length", _OURS)).value,
                "word for word as composed": Measurement.of([run[_OURS].right for run in runs]).value,
            }
        },
    )


def _row(arms: Sequence[DraftingArm]) -> dict[str, float]:
    columns = {"acceptance length": "tau", "drafter ms per token": "cost", "speed over greedy": "speed"}
    return {
        title: round(Measurement.of([getattr(arm, n) for arm in arms]).value, 3)
        for title, n in columns.items()
    }


def _run(study: Study, seed: int) -> dict[str, DraftingArm]:
    """All of one seed: host, drafters, decoding."""
    s = study.settings
    model, processor = describing_host(study, seed)
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
    clocks = {name: TimedProposer(proposer) for name, proposer in proposers.items()}
    arms = {name: DraftingArm(Speculation(clock, Fixed(s["nodes"])), clock) for name, clock in clocks.items()}
    for index in range(-s["warm_up"], s["pictures"]):
        if index == 0:  # what the first calls set up is no drafter's cost
            for name, arm in arms.items():
                clocks[name].seconds = 0.0
                arms[name] = DraftingArm(arm.how, arm.clock)
        decode_in_turns(
            model, processor, make_scene("test", index + s["warm_up"], seed), arms, s["longest"], index
        )
    return arms


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
        parts.append(record(model, ask_to_describe(processor, scenes), max_new_tokens=s["longest"]))
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
