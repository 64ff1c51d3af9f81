"""Which method acts where: checked before a model is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenry.hosts.host import Host
from tokenry.hosts.upstream import attention_kernel
from tokenry.hosts.vision import no_cls
from tokenry.tokens import Cut, Depth, Method, Stage, TokenryError, UnsupportedError

_SUPPORTED: Final = frozenset({Stage.INPUT, Stage.LAYER})


def plan_methods(host: Host, methods: Sequence[Method], marked: bool) -> dict[int, list[tuple[int, Method]]]:
    """Which methods act before which decoder layer, each with its number in the list.

    Args:
        host: the model.
        methods: in the order in which they act.
        marked: whether the user says which tokens may go (a text model has none of its own).

    Raises:
        UnsupportedError: a method cannot run on this model; the message says what can.
        TokenryError: no method, or methods in an order in which they cannot act.
    """
    if not methods:
        raise TokenryError("No method given; name at least one (`tokenry list` shows them).")
    if not host.token_ids and not marked:
        raise UnsupportedError(
            f"{host.name} has no visual tokens ({host.why_no_pictures}). For a text model, say which "
            "tokens may go: tk.reduced(model, method, tokens=slice(5, 69))."
        )
    require_kernel(host)
    if host.why_not:
        raise UnsupportedError(f"{host.name} supports no stage: {host.why_not}.")
    depth, first = host.depth, -1
    plan: dict[int, list[tuple[int, Method]]] = {}
    for number, method in enumerate(methods):
        cuts = _decoder_cuts(method, depth)
        if any(cut > 0 for cut in cuts) and host.why_no_layer_stage:
            raise UnsupportedError(f"{host.name} supports stage input only: {host.why_no_layer_stage}.")
        if not cuts or list(cuts) != sorted(set(cuts)) or not 0 <= cuts[0] <= cuts[-1] < depth.decoder:
            raise TokenryError(
                f"{method.slug} wants to act before layers {cuts} of a decoder with {depth.decoder}."
            )
        if cuts[0] < first:
            raise TokenryError(
                f"{method.slug} acts before layer {cuts[0]}, but is listed after {methods[number - 1].slug}, which "
                f"begins at layer {first}. List methods in the order in which they act."
            )
        first = cuts[0]
        for cut in cuts:
            if not host.has_cls and _reads_cls(method, cut, depth):
                raise UnsupportedError(no_cls(host))
            plan.setdefault(cut, []).append((number, method))
    return dict(sorted(plan.items()))


def _decoder_cuts(method: Method, depth: Depth) -> tuple[int, ...]:
    """The decoder layers before which a method acts, if it acts nowhere else."""
    cuts = [Cut.of(cut) for cut in method.cuts(depth)]
    stages = {method.stage, *(cut.stage for cut in cuts)}
    if beyond := sorted(stages - _SUPPORTED):
        raise UnsupportedError(
            f"{method.slug} acts at stage {', '.join(beyond)}; supported here: {', '.join(sorted(_SUPPORTED))}."
        )
    return tuple(cut.block for cut in cuts)


def require_kernel(host: Host) -> None:
    """Refuse a decoder whose attention takes masks of an unknown form.

    Raises:
        UnsupportedError: naming it.
    """
    kernel = attention_kernel(host.text_config)
    if not any(name in kernel for name in ("sdpa", "eager", "flash")):
        raise UnsupportedError(
            f"Attention {kernel!r} is not supported; load the model with sdpa, flash or eager."
        )


def _reads_cls(method: Method, cut: int, depth: Depth) -> bool:
    try:
        return method.needs(cut, depth).cls
    except TokenryError:
        if depth.encoder:
            raise
        return True  # it asks for a block of an encoder that is not there
