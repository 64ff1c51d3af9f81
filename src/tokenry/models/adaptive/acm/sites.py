"""Which layers of a model Adaptive Computation Modules (arXiv 2312.10193) can replace.

Layers are found by their form, not by the class of the model: a feed-forward layer is a module whose weights are all
those of its own linear layers and which maps a token to one of the same width without looking at other tokens (which
is tried out); a projection is a square linear layer inside a transformer layer. Feed-forward layers that come in two
halves (BERT's ``intermediate`` and ``output.dense``) are found too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor, nn

from tokenry.hosts.upstream import Conv1D
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError

Linear = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class Site:
    """A layer that an ACM can stand for; `tail` is the path of its second half, if it has two."""

    name: str
    kind: Literal["ffn", "linear"]
    tail: str | None = None


def find_layers(model: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """Find the layers that can be replaced.

    Args:
        model: In evaluation mode, as layers are tried out.

    Returns:
        Sites in the order of the model, and path -> reason for linear layers that cannot be replaced.
    """
    sites: list[Site] = []
    refused: dict[str, str] = {}
    inside: tuple[str, ...] = ()  # paths that belong to a feed-forward layer
    for name, module in model.named_modules():
        if not name or name.startswith(inside) or not _in_a_layer(model, name):
            continue
        if isinstance(module, Linear):
            d_in, d_out = shape(module)
            if d_in == d_out:
                sites.append(Site(name, "linear"))
            else:
                refused[name] = f"it changes the width from {d_in} to {d_out}"
        elif (site := _ffn(model, name)) is not None:
            sites.append(site)
            inside += tuple(
                f"{path}." for path in (site.name, site.tail and site.tail.rpartition(".")[0]) if path
            )
    return sites, refused


def _ffn(model: nn.Module, name: str) -> Site | None:
    """The feed-forward layer that a module is, or begins."""
    module = model.get_submodule(name)
    linears = _own_linears(module)
    if not linears:
        return None
    width = shape(linears[0])[0]
    if any(shape(linear) == (width, width) for linear in linears):
        return None
    if len(linears) >= 2:
        return Site(name, "ffn") if _why_not(module, width) is None else None
    # one linear layer that widens: the first half, if one that narrows again stands in a module beside it
    parent = name.rpartition(".")[0]
    for path, sibling in model.get_submodule(parent).named_children():
        for tail, linear in sibling.named_children():
            if isinstance(linear, Linear) and shape(linear) == shape(linears[0])[::-1]:
                whole = nn.Sequential(module, linear)
                full = ".".join(filter(None, (parent, path, tail)))
                return Site(name, "ffn", full) if _why_not(whole, width) is None else None
    return None


def named_layers(model: nn.Module, names: Sequence[str]) -> list[Site]:
    """Find layers by their paths; see `tokenry.models.adaptive.acm.conversion.convert` for what is raised."""
    if not names:
        raise InputError(
            'There is no module to replace: name at least one, or take them by kind ("ffn", "linear", "all").'
        )
    if len(set(names)) < len(names):
        raise InputError(f"Each module can be replaced once, got {list(names)}.")
    existing = dict(model.named_modules())
    sites = []
    for name in names:
        if name not in existing or not name:
            near = get_close_matches(name, existing, 1)
            raise UnknownNameError(
                f"{type(model).__name__} has no module {name!r}{f'; there is {near[0]!r}' if near else ''}."
            )
        module = existing[name]
        site = None if isinstance(module, Linear) else _ffn(model, name)
        if site is None:
            linears = [m for m in module.modules() if isinstance(m, Linear)]
            if not linears:
                raise UnsupportedError(f"{name} cannot be replaced: it has no linear layer.")
            if (why := _why_not(module, shape(linears[0])[0])) is not None:
                raise UnsupportedError(
                    f"{name} cannot be replaced: {why}. An Adaptive Computation Module maps each token to one of the "
                    "same width."
                )
            site = Site(name, "linear" if isinstance(module, Linear) else "ffn")
        sites.append(site)
    return sites


def _in_a_layer(model: nn.Module, name: str) -> bool:
    """Whether a module lies in one of a list of layers: embeddings, poolers and heads do not."""
    parts = name.split(".")
    return any(
        part.isdigit() and isinstance(model.get_submodule(".".join(parts[:i])), nn.ModuleList)
        for i, part in enumerate(parts[:-1])
    )


def _own_linears(module: nn.Module) -> list[nn.Module]:
    """The linear layers right inside a module, if all its weights are theirs."""
    linears = [child for child in module.children() if isinstance(child, Linear)]
    theirs = sum(len(list(linear.parameters())) for linear in linears)
    return linears if theirs == len(list(module.parameters())) else []


@torch.no_grad()
def _why_not(module: nn.Module, width: int) -> str | None:
    """Try a module out on tokens: why it is not a map of each token alone to one of the same width; None if it is."""
    like = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=generator).to(like)
    try:
        y = module(x)
        if not isinstance(y, Tensor):
            return f"it returns {type(y).__name__}, not a tensor"
        if y.shape != x.shape:
            return f"it changes the width from {width} to {y.shape[-1]}"
        other = module(torch.cat([x[:, :1], -x[:, 1:]], 1))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"it cannot be called with a tensor of tokens alone ({first})"
    if not torch.allclose(y[:, 0], other[:, 0], rtol=1e-2, atol=1e-4):
        return "it mixes tokens"
    return None


def n_weights(layer: nn.Module) -> int:
    """Number of a layer's weights, which is what it costs a token in multiply-adds."""
    return sum(p.numel() for p in layer.parameters())


def shape(linear: nn.Module) -> tuple[int, int]:
    """(width in, width out)."""
    d_out, d_in = matrix(linear).shape
    return d_in, d_out


def matrix(linear: nn.Module) -> Tensor:
    """Weights as [out, in]; GPT-2's `Conv1D` has them the other way round."""
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight.T if isinstance(linear, Conv1D) else weight
