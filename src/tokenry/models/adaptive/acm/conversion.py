"""Adaptive Computation Modules (arXiv 2312.10193) in trained models: finding layers, replacing them, undoing, saving.

Which layers that can be, `tokenry.models.adaptive.acm.sites` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from tokenry.hosts.host import evaluating
from tokenry.models.adaptive.acm.layer import ACM, AcmConfig, FixedLearnerGate, LearnerSize
from tokenry.models.adaptive.acm.sites import (
    Linear,
    Site,
    find_layers,
    matrix,
    n_weights,
    named_layers,
    shape,
)
from tokenry.models.adaptive.conditional import CostTable
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError
from tokenry.tokens.files import whole_folder

__all__ = ["Converted", "Watched", "convert", "load_converted"]

_FORMAT: Final = "tokenry-acm"
_KINDS: Final = ("ffn", "linear", "all")


@dataclass
class Watched:
    """What gates chose while they were watched.

    Attributes:
        gates: Module -> what its gate returned last: one-hot over the choices, with its gradient.
        counts: Module -> how many tokens made each choice, over all passes.
    """

    gates: dict[str, Float[Tensor, "... _"]] = field(default_factory=dict)
    counts: dict[str, Int[Tensor, " _"]] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, Int[Tensor, "..."]]:
        """Module -> choice of each token in the last pass."""
        return {name: gates.argmax(-1) for name, gates in self.gates.items()}

    def executed(self, table: CostTable) -> float:
        """Return the mean multiply-adds of the converted modules per token, gates included, over all passes.

        Raises:
            InputError: if nothing has run.
        """
        if not self.counts:
            raise InputError("No gate has chosen anything: run the model while it is watched.")
        spent = sum(
            float((counts.double() * counts.new_tensor(table.modules[name].choices)).sum() / counts.sum())
            for name, counts in self.counts.items()
        )
        return spent + table.overhead

    def _note(self, name: str, gates: Tensor) -> None:
        self.gates[name] = gates
        new = gates.detach().float().flatten(0, -2).sum(0).round().long().cpu()
        self.counts[name] = self.counts[name] + new if name in self.counts else new


class Converted:
    """A model some of whose layers are ACMs, and the way back.

    The model itself is used as before: ``model(...)``, ``model.generate(...)``, ``model.train()``. In a ``with`` block
    the conversion is undone at the end.

    Attributes:
        model: The model, changed in place.
        config: How.
        acms: Path in the model -> ACM, in the order of the model.
        costs: What their choices cost.
        refused: Path -> why a layer of the kinds that were asked for is no ACM.
    """

    def __init__(
        self, model: nn.Module, config: AcmConfig, sites: Sequence[Site], refused: Mapping[str, str]
    ) -> None:
        self.model, self.config, self.refused = model, config, dict(refused)
        self._sites = {site.name: site for site in sites}
        self._originals = {
            path: model.get_submodule(path) for site in sites for path in (site.name, site.tail) if path
        }
        self.acms: dict[str, ACM] = {}
        costs = {}
        for site in sites:
            layer = self._layer(site)
            acm = _acm_for(layer, site, config)
            self.acms[site.name] = acm
            costs[site.name] = acm.cost(n_weights(layer))
        self.costs = CostTable(costs)
        self._undone = False
        self._install()

    def _layer(self, site: Site) -> nn.Module:
        """What an ACM stands for, as one module."""
        head = self._originals[site.name]
        if site.tail is None:
            return head
        return nn.Sequential(head, self._originals[site.tail]).train(head.training)

    def _install(self) -> None:
        for name, acm in self.acms.items():
            tail = self._sites[name].tail
            _put(self.model, name, acm)
            if tail is not None:
                _put(self.model, tail, nn.Identity())

    def _restore(self) -> None:
        like = next(iter(self.acms.values())).w_in
        for module in self._originals.values():  # nobody moved them while they were outside the model
            module.to(like.device, like.dtype)
        for path, module in self._originals.items():
            _put(self.model, path, module)

    def undo(self) -> None:
        """Put the layers back that were there, the very same modules; a second call does nothing.

        They follow the model to the type and device that it has now. Weights outside them that training has changed
        since stay changed.
        """
        if not self._undone:
            self._restore()
            self._undone = True

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Undo the conversion."""
        self.undo()

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        """Inside, the model computes with the layers it came with, in the type and on the device it has now."""
        self._check_live()
        self._restore()
        try:
            yield self.model
        finally:
            self._install()

    @torch.no_grad()
    def recorded(self, **inputs: Any) -> dict[str, tuple[Float[Tensor, "... d"], Float[Tensor, "... d"]]]:
        """Run the model with the layers it came with, without dropout, and return what went into them and came out.

        Args:
            **inputs: as for the model's call.

        Returns:
            Module -> (input, output).
        """
        came: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}

        def note_input(name: str) -> Callable[..., None]:
            return lambda module, args, kwargs: came.__setitem__(name, _first(args, kwargs))

        def note_output(name: str) -> Callable[..., None]:
            return lambda module, args, output: left.__setitem__(name, output)

        with self.base() as model, evaluating(model):
            handles = []
            for name, site in self._sites.items():
                head, tail = self._originals[name], self._originals[site.tail or name]
                handles.append(head.register_forward_pre_hook(note_input(name), with_kwargs=True))
                handles.append(tail.register_forward_hook(note_output(name)))
            try:
                model(**inputs)
            finally:
                for handle in handles:
                    handle.remove()
        return {name: (came[name], left[name]) for name in self.acms}

    @contextmanager
    def watch(self) -> Iterator[Watched]:
        """Inside, what the gates choose is noted: for losses, for pictures, for bills.

        Gates that `with_gates` puts there have to be there first.
        """
        self._check_live()
        watched = Watched()

        def note(name: str) -> Callable[..., None]:
            return lambda module, args, gates: watched._note(name, gates)

        handles = [acm.gate.register_forward_hook(note(name)) for name, acm in self.acms.items()]
        try:
            yield watched
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def with_gates(self, make: Callable[[str, ACM], nn.Module]) -> Iterator[None]:
        """Inside, other gates choose.

        Args:
            make: path and ACM -> a module from tokens to one-hot choices, such as `FixedLearnerGate`,
                `RandomLearnerGate`, `ThresholdGate`.
        """
        self._check_live()
        learnt = {name: acm.gate for name, acm in self.acms.items()}
        others = {name: make(name, acm) for name, acm in self.acms.items()}
        try:
            for name, gate in others.items():
                self.acms[name].gate = gate
            yield
        finally:
            for name, gate in learnt.items():
                self.acms[name].gate = gate

    @contextmanager
    def forced(self, k: int) -> Iterator[None]:
        """Inside, every token runs k learners of every module.

        Raises:
            InputError: if there are not that many.
        """
        with self.with_gates(lambda name, acm: FixedLearnerGate(k, acm.learners)):
            yield

    def sort_neurons(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Give the neurons that add most to what the layers compute on these inputs to the first learners.

        Ours, and of use right after a conversion with ``start="slices"``: it reorders what `convert` has sorted by the
        size of the weights alone.

        Args:
            batches: keyword arguments for calls of the model.

        Raises:
            InputError: if there is no batch.
        """
        scores: dict[str, Tensor] = {}
        for batch in batches:
            for name, (x, _) in self.recorded(**batch).items():
                found = self.acms[name].importance(x.flatten(0, -2))
                scores[name] = scores[name] + found if name in scores else found
        if not scores:
            raise InputError("There are no inputs to sort neurons by: hand in at least one batch.")
        for name, score in scores.items():
            self.acms[name].reorder(score.argsort(descending=True))

    def save(self, folder: Path | str, *, host: bool = True) -> None:
        """Write the converted model: ``acm.json`` and ``model.safetensors``.

        Args:
            folder: complete afterwards, or as it was; one that exists is replaced.
            host: write the rest of the model too. Without it, ACMs that were trained with the model frozen are small
                to pass on.

        Raises:
            InputError: if it cannot be written.
        """
        self._check_live()
        described = {
            "format": _FORMAT,
            "version": 1,
            "config": asdict(self.config),
            "modules": {name: asdict(acm.size) for name, acm in self.acms.items()},
            "host": host,
        }
        with whole_folder(Path(folder)) as scratch:
            (scratch / "acm.json").write_text(json.dumps(described, indent=1) + "\n")
            if host:
                save_model(self.model, str(scratch / "model.safetensors"))
            else:
                save_file(
                    {
                        f"{name}.{key}": value.contiguous()
                        for name, acm in self.acms.items()
                        for key, value in acm.state_dict().items()
                    },
                    scratch / "model.safetensors",
                )

    def _check_live(self) -> None:
        if self._undone:
            raise InputError("This conversion has been undone: convert the model again.")


def convert(
    model: nn.Module,
    config: AcmConfig | None = None,
    modules: str | Sequence[str] = "ffn",
    *,
    seed: int = 0,
) -> Converted:
    """Put Adaptive Computation Modules (arXiv 2312.10193) in the place of layers of a trained model, in place.

    The model has to be trained afterwards (`tokenry.models.adaptive.acm.training`), unless the learners start as
    slices of the layers and all of them run.

    Args:
        model: Any model of transformers' form: encoder or decoder, of text or of pictures.
        config: How.
        modules: "ffn" for the feed-forward layers, "linear" for the square projections inside the layers (q, k, v, o),
            "all" for both; what of these kinds cannot be replaced is listed in `Converted.refused`. Or the paths of
            modules.
        seed: Of what is drawn for learners and gates; torch's own generator is left as it was.

    Returns:
        A handle, which can undo it.

    Raises:
        UnsupportedError: If a named module cannot be replaced, or nothing of a kind can; the message says why.
        UnknownNameError: If the model has no module of a name.
        InputError: If no module is named, one twice, or if the model is converted already.
    """
    config = AcmConfig() if config is None else config
    if any(isinstance(module, ACM) for module in model.modules()):
        raise InputError("This model has Adaptive Computation Modules already: undo the first conversion.")
    if isinstance(modules, str) and modules not in _KINDS:
        raise UnknownNameError(f"Modules is one of {', '.join(_KINDS)}, or a list of paths, got {modules!r}.")
    with evaluating(model):
        sites, refused = (
            find_layers(model) if isinstance(modules, str) else (named_layers(model, modules), {})
        )
    if isinstance(modules, str):
        sites = [site for site in sites if modules in (site.kind, "all")]
        if modules == "ffn":
            refused = {}
        if not sites:
            reasons = "".join(f" {name}: {why}." for name, why in list(refused.items())[:3])
            what = "layer" if modules == "all" else f"{modules} layer"
            raise UnsupportedError(
                f"{type(model).__name__} has no {what} that an Adaptive Computation Module could replace: it takes "
                f"modules that map tokens to tokens of the same width.{reasons}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Converted(model, config, sites, refused)


def load_converted(model: nn.Module, folder: Path | str) -> Converted:
    """Convert a model as a saved one was, and give it the saved weights.

    Args:
        model: One of the same class and sizes; its own weights matter only where none were saved
            (`Converted.save` with ``host=False``).
        folder: That `Converted.save` wrote.

    Raises:
        InputError: If the folder holds no converted model, or one that does not fit.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "acm.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no converted model: acm.json cannot be read ({error}).") from error
    if not isinstance(described, dict) or described.get("format") != _FORMAT or described.get("version") != 1:
        raise InputError(f"{folder / 'acm.json'} is not of a converted model that this version can read.")
    try:
        config, modules, host = AcmConfig(**described["config"]), described["modules"], described["host"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'acm.json'} is damaged: {error}.") from error
    converted = convert(model, config, list(modules))
    try:
        sizes = {name: asdict(acm.size) for name, acm in converted.acms.items()}
        if sizes != modules:
            raise InputError(f"The learners in {folder} have other sizes than those of this model.")
        if host:
            load_model(model, folder / "model.safetensors")
        else:
            tensors = load_file(folder / "model.safetensors")
            for name, acm in converted.acms.items():
                start = f"{name}."
                acm.load_state_dict(
                    {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                )
    except (InputError, RuntimeError, OSError, SafetensorError) as error:
        converted.undo()
        raise InputError(f"The converted model in {folder} does not fit this one: {error}") from error
    return converted


# ------------------------------------------------------------------------------------------------------- making


def _acm_for(layer: nn.Module, site: Site, config: AcmConfig) -> ACM:
    """An ACM that costs what a layer costs, in its type and on its device."""
    linears = [m for m in layer.modules() if isinstance(m, Linear)]
    d, first = shape(linears[0])[0], next(layer.parameters())
    ffn = site.kind == "ffn"
    own = config.form == "layer" and ffn
    multiplies = own and sum(shape(linear)[0] == d for linear in linears) == 2
    # the paper's learners have a bias where the layer has one; the cost that is divided counts it too
    bias = any(linear.bias is not None for linear in linears if shape(linear)[0] == d)
    size = LearnerSize.dividing(n_weights(layer), config.learners, d, multiplies=multiplies, bias=bias)
    if config.start == "slices":
        size = _sliced_size(layer, site, config, size)
    minimum = config.ffn_minimum if ffn else config.linear_minimum
    acm = ACM(size, config, act=_activation(layer) if ffn else nn.Identity(), minimum=minimum)
    if config.start == "slices":
        _slice(layer, linears, acm, site.name)
    return acm.to(first.device, first.dtype).train(layer.training)


def _sliced_size(layer: nn.Module, site: Site, config: AcmConfig, size: LearnerSize) -> LearnerSize:
    linears = [m for m in layer.modules() if isinstance(m, Linear)]
    into = [m for m in linears if shape(m)[0] == size.width]
    if site.kind == "linear":
        raise UnsupportedError(
            f'{site.name} is a projection, which has no neurons to deal out: take start="random".'
        )
    if len(into) + 1 != len(linears) or len(into) != 1 + size.multiplies:
        raise UnsupportedError(
            f'{site.name} cannot be dealt out to learners: it has {len(linears)} linear layers. Take start="random", '
            'or form="layer" if it is a gated layer of three (SwiGLU).'
        )
    neurons = shape(into[0])[1]
    if neurons % config.learners:
        raise InputError(
            f"{site.name} has {neurons} neurons, which {config.learners} learners cannot share evenly: "
            "choose a number that divides them."
        )
    return LearnerSize(size.width, neurons // config.learners, size.multiplies, size.bias)


@torch.no_grad()
def _slice(layer: nn.Module, linears: Sequence[nn.Module], acm: ACM, name: str) -> None:
    """Copy a feed-forward layer's neurons into an ACM, those with the largest weights first."""
    d = acm.size.width
    into = [m for m in linears if shape(m)[0] == d]
    out = next(m for m in linears if shape(m)[1] == d)
    x = torch.randn(4, d, generator=torch.Generator().manual_seed(0)).to(matrix(out).device)
    exact = deepcopy(layer).float().eval()  # without dropout, nor rounding that would hide a difference
    expected = exact(x) - _bias(out, x[0])
    acm.to(x.device)
    for first, *second in (into, into[::-1]):  # which of two matrices meets the activation is tried out
        acm.w_in.copy_(matrix(first))
        acm.w_out.copy_(matrix(out).T)
        if acm.b_in is not None:
            acm.b_in.copy_(_bias(first, acm.b_in))
        if acm.w_mul is not None:
            acm.w_mul.copy_(matrix(second[0]))
        if torch.allclose(acm.prefix(x, acm.learners), expected, rtol=1e-3, atol=1e-4):
            break
    else:
        raise UnsupportedError(
            f"{name} does not compute what its linear layers and {type(acm.act).__name__} say: "
            'it cannot be dealt out to learners, take start="random".'
        )
    size = acm.w_in.norm(dim=-1) * acm.w_out.norm(dim=-1)
    acm.reorder((size if acm.w_mul is None else size * acm.w_mul.norm(dim=-1)).argsort(descending=True))


def _bias(linear: nn.Module, like: Tensor) -> Tensor:
    return linear.bias if isinstance(linear.bias, Tensor) else torch.zeros_like(like)


def _activation(layer: nn.Module) -> nn.Module:
    """A copy of the layer's activation: the module in it without weights that is no dropout; GELU if there is none."""
    for module in layer.modules():
        leaf = not list(module.children()) and not list(module.parameters())
        if leaf and not isinstance(module, nn.Dropout | nn.Identity):
            return deepcopy(module)
    return nn.GELU()


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    found = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(found, Tensor):
        raise UnsupportedError(f"A replaced layer was called with {type(found).__name__}, not with tokens.")
    return found
