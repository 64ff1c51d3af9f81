"""Several processes that train one model: who does what, what they share, and what they must agree on."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from tokenry.tokens.errors import InputError, TokenryError
from tokenry.train.objective import Batch


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator for this process, also for the second training of a process with another precision."""
    shared = AcceleratorState._shared_state
    if shared and shared.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()  # accelerate fixes the precision of a process at its first use
    # Without this, processes that a launcher started on a machine without accelerator would each train alone.
    launched_on_cpu = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    # Objectives may leave parameters unused (a pooler, a head of a later stage): DDP has to be told.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=launched_on_cpu, kwargs_handlers=[unused])
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)  # once, however many trainings there are
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    """Part from the other processes in order: gloo's threads, if still running at the end, abort the interpreter."""
    if _several():
        gc.collect()  # a wrapped model that lies in a reference cycle would keep the group, and its threads, alive
        dist.destroy_process_group()


def share(batch: Batch, process: int, processes: int) -> Batch:
    """The rows of a batch that one of several processes trains on.

    Raises:
        InputError: if the rows cannot be shared evenly.
    """
    for name, tensor in batch.items():
        if tensor.ndim and tensor.shape[0] % processes:
            raise InputError(
                f"{processes} processes cannot share the {tensor.shape[0]} rows of {name!r} evenly: "
                f"choose a batch size that is a multiple of {processes}"
            )
    return {k: tensor.chunk(processes)[process] if tensor.ndim else tensor for k, tensor in batch.items()}


def on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Do something in the main process while the others wait; if it fails, it fails in all of them."""
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    if accelerator.num_processes > 1:
        said = broadcast_object_list([None if failure is None else str(failure)])[0]
        if said is not None and failure is None:
            raise TokenryError(f"The main process stopped: {said}")
    if failure is not None:
        raise failure


def once(action: Callable[[], object], precision: str = "bf16") -> None:
    """Do something in the main process only, while the others wait; if it fails, it fails in all of them.

    Args:
        action: what to do.
        precision: of the training that it prepares or ends.
    """
    on_main(make_accelerator(precision), action)


def seeded(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, torch's generators may be seeded; afterwards they are as before."""
    cuda = accelerator.device.type == "cuda"
    return torch.random.fork_rng(devices=[accelerator.device] if cuda else [])


def seed_step(seed: int, step: int, accelerator: Accelerator) -> None:
    """Seed torch from the step and the process, so that a resumed run draws what an uninterrupted one does."""
    words = (seed, step, accelerator.process_index)
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


def mean_figures(accelerator: Accelerator, figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures of a step, averaged over the processes."""
    values = torch.stack([figure.detach().float() for figure in figures.values()])
    return dict(zip(figures, accelerator.reduce(values, "mean").tolist(), strict=True))


# ------------------------------------------------------------------------------ what an objective asks of the others


@torch.no_grad()
def gathered(rows: Float[Tensor, "n *d"]) -> Float[Tensor, "m *d"]:
    """The rows of all processes, those of the first process first: the same everywhere; without others, as they are.

    A codebook that moves, or replaces what is dead in it, by the vectors of the whole batch stays one codebook, if what
    it draws is drawn from `tokenry.train.objective.Objective.shared`. Processes may have different numbers of rows.
    """
    if not _several():
        return rows
    processes = dist.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(processes)]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    padding = (0, 0) * (rows.ndim - 1) + (0, max(sizes) - len(rows))
    padded = F.pad(rows.contiguous(), padding)
    parts = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


@torch.no_grad()
def mean_of_processes(value: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """The mean of a tensor over all processes; without others, the tensor itself."""
    if not _several():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
