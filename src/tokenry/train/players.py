"""What generators and critics have in common: how much of its gradient the critic is given."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenry.tokens.errors import InputError
from tokenry.train.processes import mean_of_processes

_TINY = 1e-6


def adaptive_weight(
    task: Float[Tensor, ""], judged: Float[Tensor, ""], at: nn.Parameter, *, limit: float = 1e4
) -> Float[Tensor, ""]:
    """Weight at which a critic's judgement pulls a parameter as hard as the task does (VQGAN, arXiv 2012.09841).

    ``|d task / d at| / (|d judged / d at| + 1e-6)``, at most `limit`, as a constant. Both gradients are those of the
    whole batch: processes average them first.

    Args:
        task: the loss without the critic (reconstruction).
        judged: the critic's judgement, before it is weighed.
        at: a parameter that both pass through; the generator's last layer.
        limit: the most that comes out.

    Raises:
        InputError: a parameter that does not learn in this turn.
    """
    if not at.requires_grad:
        raise InputError(
            "The parameter at which the losses are weighed does not learn in this turn: take one of the generator's, "
            "in the generator's turn."
        )
    pulls = [torch.autograd.grad(loss, at, retain_graph=True)[0] for loss in (task, judged)]
    own, other = (mean_of_processes(pull.float()).norm() for pull in pulls)
    return (own / (other + _TINY)).clamp(max=limit).detach()
