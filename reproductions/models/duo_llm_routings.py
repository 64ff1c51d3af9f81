"""Duo-LLM: losses of fixed patterns and of trained routers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.bench.reproduce import Study
from tokenry.models.adaptive.duo_llm.model import Choice, DuoForCausalLM, Routing
from tokenry.models.adaptive.duo_llm.oracle import OracleResult
from tokenry.models.adaptive.duo_llm.routing import pattern, random_patterns
from tokenry.models.adaptive.duo_llm.training import RouterTraining, annealed, fit_budget
from tokenry.train.language import TokenBatches
from tokenry.train.loop import LoopSettings

_FIXED = ("first", "last", "alternating")


def loop_settings(steps: int, lr: float) -> LoopSettings:
    """Schedule and optimiser, the same for all trainings."""
    return LoopSettings(steps=steps, lr=lr, warmup=max(1, steps // 20), betas=(0.9, 0.95), weight_decay=0.1)


@torch.no_grad()
def _loss(duo: DuoForCausalLM, test: Int[Tensor, "b s"], routing: Routing) -> float:
    with duo.routed(routing):
        logits = duo(input_ids=test, use_cache=False).logits[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1).float(), test[:, 1:].flatten()))


def fixed_patterns(
    duo: DuoForCausalLM, test: Int[Tensor, "b s"], best: OracleResult, n: int, seed: int
) -> dict[str, dict[str, float]]:
    """By number of big layers: the oracle, and patterns that all tokens share."""
    layers, rows = best.routings.shape[1], {}
    losses: dict[Sequence[int], float] = {}

    def loss(choices: tuple[int, ...]) -> float:
        if choices not in losses:
            losses[choices] = _loss(duo, test, choices)
        return losses[choices]

    for bigs in range(layers + 1):
        drawn = {tuple(row) for row in random_patterns(layers, bigs, n, seed).tolist()}
        rows[f"{bigs} big"] = {
            "oracle, exactly": best.exactly(bigs).mean().item(),
            "oracle, at most": best.at_most(bigs).mean().item(),
            **{f"{name} layers big": loss(pattern(name, layers, bigs)) for name in _FIXED},
            "best random pattern": min(loss(choices) for choices in drawn),
            "mean random pattern": sum(loss(choices) for choices in drawn) / len(drawn),
            "depth of the oracle's big layers": _depth(best.layer_use(bigs)),
        }
    return rows


def _depth(use: Float[Tensor, " l"]) -> float:
    """Where the big layers lie on average: 0 is the first layer, 1 the last; one half for all layers or none."""
    places = torch.linspace(0, 1, len(use))
    return float((use * places).sum() / use.sum()) if use.sum() else 0.5


def train_routers(
    study: Study,
    duo: DuoForCausalLM,
    batches: TokenBatches,
    test: Int[Tensor, "b s"],
    target: float,
    name: str,
) -> tuple[float, float]:
    """The loss of hard choices of trained routers, and how many of them were big."""
    s = study.settings
    steps = s["router_steps"]
    objective = RouterTraining(duo, target, weight=s["budget_weight"])
    later = TokenBatches(batches.ids, batches.length, batches.batch, seed=batches.seed + 1)
    study.train(objective, annealed(later, steps), loop_settings(steps, s["router_lr"]), f"routers-{name}")
    duo.eval()
    fit_budget(duo, later(steps)["input_ids"], target)
    with duo.traced() as trace:
        loss = _loss(duo, test, "router")
    return loss, float((trace.choices == Choice.BIG).float().mean())
