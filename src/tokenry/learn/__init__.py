"""Objectives of training that are systems themselves.

Names are loaded on first use. The loop is `tokenry.train`; an objective that belongs to one system lives with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.learn.electra import ElectraMasking as ElectraMasking
    from tokenry.learn.electra import ElectraObjective as ElectraObjective
    from tokenry.learn.electra import ElectraSettings as ElectraSettings

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

__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)
