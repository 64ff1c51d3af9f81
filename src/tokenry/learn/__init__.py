"""Objectives, and the one training loop they share.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry.learn.acm import EndToEnd as EndToEnd
    from tokenry.learn.acm import GatePretraining as GatePretraining
    from tokenry.learn.acm import ModuleDistillation as ModuleDistillation
    from tokenry.learn.duo import RandomRouting as RandomRouting
    from tokenry.learn.duo import RouterTraining as RouterTraining
    from tokenry.learn.dupmae import DupmaeObjective as DupmaeObjective
    from tokenry.learn.electra import ElectraObjective as ElectraObjective
    from tokenry.learn.loop import LoopSettings as LoopSettings
    from tokenry.learn.loop import Objective as Objective
    from tokenry.learn.loop import train as train
    from tokenry.learn.octopus import CallBatches as CallBatches
    from tokenry.learn.octopus import CallObjective as CallObjective
    from tokenry.learn.octopus import RoutingExample as RoutingExample

_HOME = {
    "CallBatches": "learn.octopus",
    "CallObjective": "learn.octopus",
    "DupmaeObjective": "learn.dupmae",
    "ElectraObjective": "learn.electra",
    "EndToEnd": "learn.acm",
    "GatePretraining": "learn.acm",
    "LoopSettings": "learn.loop",
    "ModuleDistillation": "learn.acm",
    "Objective": "learn.loop",
    "RandomRouting": "learn.duo",
    "RouterTraining": "learn.duo",
    "RoutingExample": "learn.octopus",
    "train": "learn.loop",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy(__name__, _HOME)
