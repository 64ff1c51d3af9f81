"""What a user may take instead of a method that a model cannot run: asked of the catalogue, by what methods need."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.hosts.host import Host
from tokenry.tokens import Cut, Depth, Method, Stage, TokenryError

_METHODS: Final = Registry[type[Method]]("reducer", Method, "method")


def reads_cls(method: Method, layer: int, depth: Depth) -> bool:
    """Whether a method reads anything of [CLS] at a cut; also where it asks for a block of an encoder without any."""
    try:
        return method.needs(layer, depth).cls
    except TokenryError:
        if depth.encoder:
            raise
        return True


def without_cls(host: Host) -> list[str]:
    """The methods that read nothing of [CLS] on a model, by name; those that cannot be imported are left out."""
    return [name for name in _METHODS.names() if _does_without_cls(name, host.depth)]


def _does_without_cls(name: str, depth: Depth) -> bool:
    try:
        method: Method = _METHODS.make(name)
        cuts = [Cut.of(cut) for cut in method.cuts(depth)]
        return all(cut.stage is not Stage.ENCODER and not reads_cls(method, cut.block, depth) for cut in cuts)
    except TokenryError:
        return False


def no_cls(host: Host) -> str:
    """What to tell a user whose encoder has no [CLS] token."""
    return (
        f"{host.name} has no vision encoder with a [CLS] token whose attention can be read. Methods that do without: "
        f"{', '.join(without_cls(host))}."
    )
