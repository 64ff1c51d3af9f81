"""Small-scale reproductions: does a paper's claim hold, in direction and size?

This is what runs, judges and records them; what they do stands beside the package, in a checkout. A system has two
files there: ``reproductions/ROOM/SLUG.yaml``, its `StudyDesign`, and a module named after it with a function
``experiment(study) -> Outcome``. Nothing else has to change to add one.
"""

from __future__ import annotations

from tokenry.bench.reproduce.design import Criterion, Questions, StudyDesign
from tokenry.bench.reproduce.folder import load_experiment, reproductions_folder, systems
from tokenry.bench.reproduce.measurement import BY_SEED, BY_SET, Measurement
from tokenry.bench.reproduce.outcome import Arm, Asked, Outcome
from tokenry.bench.reproduce.result import Reproduction
from tokenry.bench.reproduce.running import Plan, find, reproduce
from tokenry.bench.reproduce.study import Study
from tokenry.bench.reproduce.vqa.lab import Arms, Chain, VqaLab
from tokenry.bench.reproduce.vqa.predictions import Predictions, mean_over, points
from tokenry.bench.reproduce.vqa.recorder import TokenRecorder

__all__ = [
    "BY_SEED",
    "BY_SET",
    "Arm",
    "Arms",
    "Asked",
    "Chain",
    "Criterion",
    "Measurement",
    "Outcome",
    "Plan",
    "Predictions",
    "Questions",
    "Reproduction",
    "Study",
    "StudyDesign",
    "TokenRecorder",
    "VqaLab",
    "find",
    "load_experiment",
    "mean_over",
    "points",
    "reproduce",
    "reproductions_folder",
    "systems",
]
