"""Vision encoders with a table of position embeddings, on pictures of other sizes than the table was made for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tokenry.hosts.host import Host
from tokenry.hosts.upstream import INTERPOLATE, interpolates, parameters
from tokenry.tokens import UnsupportedError


@contextmanager
def interpolated_positions(host: Host) -> Iterator[None]:
    """While open, the model's vision encoders interpolate their position embeddings to the size of the picture.

    Some encoders do that of themselves, others only when they are told to, which few models hand on.

    Raises:
        UnsupportedError: the encoder does not know how.
    """
    tables = [m for tower in host.towers.values() for m in tower.modules() if interpolates(m)]
    if not tables:
        raise UnsupportedError(
            f"The vision encoder of {host.name} interpolates no position embeddings, so it takes pictures of one size "
            "only."
        )

    def told(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {INTERPOLATE: True}

    with ExitStack() as stack:
        for table in tables:
            if INTERPOLATE in parameters(table):
                stack.callback(table.register_forward_pre_hook(told, with_kwargs=True).remove)
        yield
