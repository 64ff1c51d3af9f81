"""Objectives of training that are systems themselves.

Names are loaded on first use. The loop is `tokenry.train`; an objective that belongs to one system lives with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.learn.electra import ElectraMasking as ElectraMasking
    from tokenry.learn.electra import ElectraObjective as ElectraObjective
    from tokenry.learn.electra import ElectraSettings as ElectraSettings

_HOME = {
    "ElectraMasking": "learn.electra",
    "ElectraObjective": "learn.electra",
    "ElectraSettings": "learn.electra",
}

_MOVED = {
    "CallBatches": "predict.CallBatches",
    "CallObjective": "predict.CallObjective",
    "DupmaeObjective": "embed.DupmaeObjective",
    "EndToEnd": "models.EndToEnd",
    "GatePretraining": "models.GatePretraining",
    "LoopSettings": "train.LoopSettings",
    "ModuleDistillation": "models.ModuleDistillation",
    "Objective": "train.Objective",
    "RandomRouting": "models.RandomRouting",
    "RouterTraining": "models.RouterTraining",
    "RoutingExample": "predict.RoutingExample",
    "train": "train.train",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME, moved=_MOVED)
