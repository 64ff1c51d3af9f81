"""Arms that several experiments on reducers compare with."""

from __future__ import annotations

from tokenry.bench.reproduce import Chain, Study, VqaLab
from tokenry.reduce.fastv import FastV
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import BudgetLike, InputError


def positions(study: Study) -> str:
    """The position rule that all arms share, so that a difference is one of selection."""
    return str(study.settings.get("positions", "keep"))


def random_tokens(study: Study, budget: BudgetLike, rule: str | None = None) -> list[Chain]:
    """Random selection on the way in, once with each of the design's seeds.

    Args:
        study: gives the seeds.
        budget: how many tokens stay.
        rule: for positions; that of the study by default.
    """
    rule = positions(study) if rule is None else rule
    return [
        (RandomTokens(budget=budget, positions=rule, seed=seed),) for seed in study.settings["random_seeds"]
    ]


def fastv_at(lab: VqaLab, flops: float, layer: int, n: int) -> FastV:
    """FastV with K = `layer` at given FLOPs on visual tokens, or the first step above: it is never given less.

    Args:
        lab: the model.
        flops: see `VqaLab.visual_flops`.
        layer: K.
        n: visual tokens of a picture.

    Raises:
        InputError: its full layers alone cost more.
    """
    layers = len(lab.host.layers)
    for k in range(n + 1):
        if lab.visual_flops([n] * layer + [k] * (layers - layer)) >= flops:
            if k == 0:
                break
            return FastV(layer=layer, budget=k)
    raise InputError(f"FastV with K = {layer} cannot meet {flops:.3g} FLOPs in {layers} layers.")
