"""DINOv2-S with its heads beside floors: mIoU, RMSE of depth and accuracy on held-out scenes and stamps.

What is stored as ``docs/results/tasks-dinov2.json`` is what methods inside the encoder are then judged against: the
tower at full tokens, at a quarter of them because the picture is halved, and predictions that look at nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from benchmarks.common import RESULTS, provenance
from tokenry.bench.run import measure
from tokenry.bench.vision import ClassificationTask, DepthTask, SegmentationTask
from tokenry.data import LARGE, OVERLAPPING, load_stamps, make_scene, pixel_depth
from tokenry.models import dinov2_for_scenes
from tokenry.models.backbones import HeadedEncoder
from tokenry.tokens.files import whole_file

SCENES = 200
_FLOORS = 200  # training scenes whose mean depth is predicted where nothing is looked at


def run(console: Console, rounds: int) -> None:
    """Measure the three tasks and write them; nothing is timed, so rounds do not count."""
    full = dinov2_for_scenes()
    half = replace(full, encode=_once(dinov2_for_scenes(side=full.side // 2).encode))
    full = replace(full, encode=_once(full.encode))
    encoders = {"full": full, "resized to half the side": half}
    stamps = load_stamps()
    with console.status("measuring DINOv2's heads"):
        rows = [
            _rows(
                SegmentationTask(
                    _subjects(encoders, _segment) | {"background everywhere": _background}, s, SCENES
                )
            )
            for s in (LARGE, OVERLAPPING)
        ]
        depth = _mean_depth()
        heights = DepthTask(_subjects(encoders, _depth) | {"mean depth": depth}, count=SCENES)
        rows.append(_rows(heights))
        rows[-1]["overall"] |= _one_height(heights)
        likely = Counter(stamp.category for stamp in stamps if stamp.split == "train").most_common(1)[0][0]
        category = {"most frequent category": lambda image: likely}
        rows.append(_rows(ClassificationTask(_subjects(encoders, _classify) | category, list(stamps))))
    _write(rows, console)


def _once(encode: Callable[[Sequence[Image.Image]], Tensor]) -> Callable[[Sequence[Image.Image]], Tensor]:
    """An encoder that is run once on a picture, whatever is asked about it: two tasks share their scenes."""
    known: dict[bytes, Tensor] = {}

    def remembered(images: Sequence[Image.Image]) -> Tensor:
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        for key, image in zip(keys, images, strict=True):
            if key not in known:
                known[key] = encode([image])
        return torch.cat([known[key] for key in keys])

    return remembered


def _subjects(
    encoders: Mapping[str, HeadedEncoder], ask: Callable[[HeadedEncoder, Image.Image], Any]
) -> dict[str, Callable[[Image.Image], Any]]:
    return {name: lambda image, encoder=encoder: ask(encoder, image) for name, encoder in encoders.items()}


def _segment(encoder: HeadedEncoder, image: Image.Image) -> Tensor:
    return encoder.segment([image])[0]


def _depth(encoder: HeadedEncoder, image: Image.Image) -> Tensor:
    return encoder.depth([image])[0]


def _classify(encoder: HeadedEncoder, image: Image.Image) -> str:
    return encoder.classify([image])[0]


def _background(image: Image.Image) -> Tensor:
    return torch.zeros(image.height, image.width, dtype=torch.long)


def _mean_depth() -> Callable[[Image.Image], Tensor]:
    """The floor that says everywhere what training scenes are on average."""
    mean = float(
        np.mean([pixel_depth(make_scene("train", i, style=OVERLAPPING)).mean() for i in range(_FLOORS)])
    )
    return lambda image: torch.full((image.height, image.width), mean)


def _one_height(task: DepthTask) -> dict[str, float]:
    """What a subject would have that knew the objects exactly and nothing of their order."""
    known = [pixel_depth(make_scene("train", i, style=task.style)) for i in range(_FLOORS)]
    height = float(np.concatenate([depth[depth > 0] for depth in known]).mean())
    told = [(scene, torch.from_numpy((pixel_depth(scene) > 0) * height)) for scene in task.items()]
    return {"true objects at one height": task.overall(told)}


def _rows(task: Any) -> dict[str, Any]:
    made = measure(task, list(task.subjects), tolerated=()).made
    found = {name: task.overall([(item, output) for item, output, _ in made[name]]) for name in task.subjects}
    means = {name: float(np.mean([score for *_, score in made[name]])) for name in task.subjects}
    style = {"style": task.style.name} if hasattr(task, "style") else {}
    return {
        "task": task.name,
        **style,
        "metric": task.metric,
        "higher is better": task.higher_is_better,
        "items": len(next(iter(made.values()))),
        "overall": found,
        "mean over items": means,
    }


def _write(rows: list[dict[str, Any]], console: Console) -> None:
    what = "DINOv2-S/14 with the heads that come with tokenry, on the test split; floors look at nothing"
    path = RESULTS / "tasks-dinov2.json"
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps({"what": what, "rows": rows} | provenance(), indent=1) + "\n")
    for row in rows:
        console.print(
            row["task"],
            row.get("style", ""),
            row["metric"],
            {k: round(v, 4) for k, v in row["overall"].items()},
        )
    console.print(f"written to {path}")
