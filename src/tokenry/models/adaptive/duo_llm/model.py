"""Duo-LLM (arXiv 2410.10846): a big and a small feed-forward layer in every block, and a choice of one for each token.

`convert` makes a `DuoForCausalLM` of a causal language model: each ``mlp`` gets a small sibling and a router beside it.
A token takes one of them in each layer (or neither, with ``skip``); attention always runs, so the KV cache is complete
whatever is chosen. What tokens choose is set with `DuoForCausalLM.route` and holds for the model's own ``forward`` and
``generate``; a feed-forward layer runs on the tokens that chose it and on no others.

The authors published no code. The paper trains models from scratch with 16 times smaller siblings; to convert a model
that is already trained, and to start its small siblings from the strongest neurons of the big ones, is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from tokenry.hosts.upstream import (
    cache_given,
    kernel_asked_for,
    named_arguments,
    require_arguments,
    require_release,
)
from tokenry.models.adaptive.conditional import CostTable, ModuleCost, gather_run_scatter, gumbel_st
from tokenry.models.adaptive.duo_llm.routing import Choice, Mix, Routing, Trace
from tokenry.tokens.errors import InputError, UnsupportedError

__all__ = ["Choice", "DuoConfig", "DuoFeedForward", "DuoForCausalLM", "Mix", "Routing", "Trace", "convert"]


@dataclass
class _Current:
    """What all layers of a model look at: the routing in force, and where in the text the pass begins."""

    routing: tuple[int, ...] | Tensor | Mix | None = None  # None: the routers choose
    start: int = 0
    traces: list[Trace] = field(default_factory=list)

    def locate(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the decoder runs: its first column is the one after those in the cache."""
        past = cache_given(named_arguments(decoder, args, kwargs))
        self.start = 0 if past is None else int(past.get_seq_length())


class DuoFeedForward(nn.Module):
    """The feed-forward part of one layer: big, small, or nothing, for each token.

    Args:
        big: the layer's own.
        small: a narrower one of the same class.
        router: from the normed hidden state to one logit a choice.
        layer: number of the layer.
        current: the routing in force, shared by all layers.
    """

    def __init__(
        self, big: nn.Module, small: nn.Module, router: nn.Linear, layer: int, current: _Current
    ) -> None:
        super().__init__()
        self.big, self.small, self.router = big, small, router
        self.layer, self._current = layer, current

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        """Run what each token chose."""
        routing = self._current.routing
        if isinstance(routing, Mix):
            return self._mixed(x, routing)
        if routing is None:
            choices = self.router(x).argmax(-1)
        elif isinstance(routing, tuple):
            self._note(x.new_full(x.shape[:2], routing[self.layer], dtype=torch.long))
            return self.run(x, routing[self.layer])
        else:
            choices = self._columns(routing, x)
        self._note(choices)
        big = gather_run_scatter(x, choices == Choice.BIG, self.big)
        return big + gather_run_scatter(x, choices == Choice.SMALL, self.small)

    def run(self, x: Float[Tensor, "*n d"], choice: int) -> Float[Tensor, "*n d"]:
        """Run one choice on all tokens."""
        if choice == Choice.SKIP:
            return torch.zeros_like(x)
        chosen = self.big if choice == Choice.BIG else self.small
        out: Tensor = chosen(x)
        return out

    def _columns(
        self, routing: Int[Tensor, "rows columns l"], x: Float[Tensor, "b s d"]
    ) -> Int[Tensor, "b s"]:
        """The part of a routing that belongs to the columns of this pass."""
        rows, length = x.shape[:2]
        start, end = self._current.start, self._current.start + length
        if len(routing) not in (1, rows):
            raise InputError(
                f"The routing has {len(routing)} rows and the batch {rows}: hand in one row a text, or one for all."
            )
        if end > routing.shape[1]:
            raise InputError(
                f"The routing covers {routing.shape[1]} columns and the model has come to column {end}: "
                "hand in a routing that covers prompt (padding included) and new tokens."
            )
        return routing[:, start:end, self.layer].to(x.device).expand(rows, length)

    def _mixed(self, x: Float[Tensor, "b s d"], mix: Mix) -> Float[Tensor, "b s d"]:
        logits = self.router(x).float()
        probabilities = (logits / mix.temperature).softmax(-1)
        weights = gumbel_st(logits, mix.temperature) if mix.gumbel else probabilities
        self._note(weights.argmax(-1), weights)
        small, big = (weights[..., c, None].to(x.dtype) for c in (Choice.SMALL, Choice.BIG))
        return small * self.small(x) + big * self.big(x)

    def _note(self, choices: Tensor, probabilities: Tensor | None = None) -> None:
        for trace in self._current.traces:
            trace.add(choices, probabilities)


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class DuoConfig(PreTrainedConfig):
    """Configuration of `DuoForCausalLM`.

    Attributes:
        host: configuration of the language model, or a dictionary of it with its `model_type`.
        small: width of the small feed-forward layers as a share of the big ones' width.
        skip: whether routers may choose to run neither.
        routing: what is in force when the model is made or loaded, see `DuoForCausalLM.route`: a name or a pattern.
    """

    model_type = "tokenry-duo-llm"
    sub_configs: ClassVar = {"host": AutoConfig}

    host: Any = None
    small: float = 1 / 16
    skip: bool = False
    routing: Any = "big"

    def __post_init__(self, **kwargs: Any) -> None:
        host = {"model_type": "llama"} if self.host is None else self.host
        if isinstance(host, dict):
            self.host = AutoConfig.for_model(**host)
        else:  # what is not handed on here, transformers overwrites
            kwargs.setdefault("attn_implementation", kernel_asked_for(host))
        if not 0 < self.small <= 1:
            raise InputError(
                f"Small is the width of the small feed-forward layers as a share of the big ones', got {self.small}"
            )
        self.tie_word_embeddings = self.host.tie_word_embeddings
        super().__post_init__(**kwargs)
        self.dtype = self.host.dtype = getattr(self, "dtype", None) or self.host.dtype


class DuoForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model with two feed-forward layers a block (Duo-LLM, arXiv 2410.10846).

    `convert` makes one of a model in memory, the constructor a new one with random weights. The language model itself
    is ``.model``: its own ``forward`` and ``generate`` run under the routing in force, and the methods of this class of
    those names only call them.

    Args:
        config: sizes and the configuration of the language model.
        host: the model to convert, in place; a new one by default.

    Raises:
        UnsupportedError: if the blocks of the model have no feed-forward layer that could get a sibling.
    """

    config_class = DuoConfig
    config: DuoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: DuoConfig, host: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        given = host is not None
        if host is None:
            host = AutoModelForCausalLM.from_config(config.host)
            config.host = host.config  # which is a copy
        _check(host)
        self._current = _Current()
        layers = host.get_decoder().layers
        parts = [self._duo(layer.mlp, number) for number, layer in enumerate(layers)]
        self._learnt_before = {name: p.requires_grad for name, p in host.named_parameters()}
        for module in host.modules() if given else ():
            module._is_hf_initialized = True  # `post_init` must not draw its weights anew
        for layer, part in zip(layers, parts, strict=True):
            layer.mlp = part
        self._handle = host.get_decoder().register_forward_pre_hook(self._current.locate, with_kwargs=True)
        self.model = host
        self.post_init()
        self.route(config.routing)

    def _duo(self, big: nn.Module, number: int) -> DuoFeedForward:
        """Give a feed-forward layer its sibling and a router, of the same type and on the same device."""
        config, like = copy.deepcopy(self.config.host), next(big.parameters())
        inner = config.intermediate_size
        config.intermediate_size = max(1, round(self.config.small * inner))
        try:
            small = type(big)(config)
        except TypeError as error:
            raise UnsupportedError(f"A small {type(big).__name__} cannot be made: {error}") from error
        if _weights(small) * inner != _weights(big) * config.intermediate_size:
            raise UnsupportedError(f"{type(big).__name__} does not take its width from intermediate_size.")
        router = nn.Linear(config.hidden_size, self.choices)
        small, router = small.to(like.device, like.dtype), router.to(like.device, like.dtype)
        return DuoFeedForward(big, small, router, number, self._current).train(big.training)

    # ------------------------------------------------------------------------------------------- the host

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the language model; arguments and output are its own."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with the language model; arguments and output are its own."""
        return self.model.generate(*args, **kwargs)

    @property
    def generation_config(self) -> Any:
        """The language model's; saved and loaded with this model."""
        return self.model.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        # transformers sets one before there is a model, which brings its own
        if "model" in self._modules:
            self.model.generation_config = value

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """The language model's."""
        return self.model.get_output_embeddings()

    def undo(self) -> PreTrainedModel:
        """Take everything out again and return the language model as it was; this object is of no more use."""
        for layer, part in zip(self.model.get_decoder().layers, self.feed_forwards, strict=True):
            layer.mlp = part.big
        self._handle.remove()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._learnt_before[name])
        return self.model

    # ------------------------------------------------------------------------------------------- routing

    @property
    def feed_forwards(self) -> list[DuoFeedForward]:
        """The feed-forward part of every layer, in order."""
        found = [layer.mlp for layer in self.model.get_decoder().layers]
        if not all(isinstance(part, DuoFeedForward) for part in found):
            raise UnsupportedError("This conversion was undone: convert the model again.")
        return found

    @property
    def choices(self) -> int:
        """How many choices there are: 2, or 3 with skip."""
        return 3 if self.config.skip else 2

    def route(self, routing: Routing) -> None:
        """Set what tokens choose, until it is set again.

        Args:
            routing: One of

                - "big", "small", "skip": the same everywhere;
                - "router": each router's first choice;
                - a `Choice` for each layer, [l]: the same for all tokens;
                - a tensor of choices [b, s, l], one for each column of a text in each layer, padding and tokens yet to
                  be generated included; a single row serves all texts;
                - a `Mix`, or "soft" for that of temperature 1: to train routers.

        Raises:
            InputError: If it is none of these, or does not fit the model.
        """
        self._current.routing = self._read(routing)

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[None]:
        """Set what tokens choose inside a ``with`` block; see `route`.

        Raises:
            UnsupportedError: In training with gradient checkpointing, which would run the layers again after the block.
        """
        if self.training and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            raise UnsupportedError(
                "Gradient checkpointing runs layers again when this routing is over: turn it off, or use route()"
            )
        before = self._current.routing
        self._current.routing = self._read(routing)
        try:
            yield
        finally:
            self._current.routing = before

    @contextmanager
    def traced(self) -> Iterator[Trace]:
        """Note down what tokens choose inside a ``with`` block."""
        trace = Trace(len(self.feed_forwards))
        self._current.traces.append(trace)
        try:
            yield trace
        finally:
            self._current.traces.remove(trace)

    def _read(self, routing: Routing) -> tuple[int, ...] | Tensor | Mix | None:
        """Check a routing, and bring it into the form that the layers read."""
        layers = len(self.feed_forwards)
        if isinstance(routing, Mix):
            return routing
        if isinstance(routing, str):
            named = {"big": Choice.BIG, "small": Choice.SMALL, "skip": Choice.SKIP}
            if routing in ("router", "soft"):
                return None if routing == "router" else Mix()
            if routing not in named:
                raise InputError(f"A routing is called {', '.join(named)}, router or soft, got {routing!r}")
            routing = [named[routing]] * layers
        # on the CPU also while transformers makes models without memory
        choices = routing if isinstance(routing, Tensor) else torch.tensor(list(routing), device="cpu")
        if choices.is_floating_point() or choices.ndim not in (1, 3) or choices.shape[-1] != layers:
            raise InputError(
                f"A routing holds whole numbers, one for each of {layers} layers, or [texts, columns, {layers}] of "
                f"them; got {str(choices.dtype).removeprefix('torch.')} of shape {tuple(choices.shape)}"
            )
        if choices.numel() and not 0 <= int(choices.min()) <= int(choices.max()) < self.choices:
            raise InputError(
                f"Choices are 0 (small), 1 (big){' and 2 (skip)' if self.config.skip else ''}, got "
                f"{int(choices.min())} to {int(choices.max())}"
                + ("" if self.config.skip else "; to skip, convert the model with skip=True")
            )
        return tuple(choices.tolist()) if choices.ndim == 1 else choices.long()

    # ------------------------------------------------------------------------------------------- costs

    def costs(self) -> CostTable:
        """What the feed-forward parts cost a token, in multiply-adds: modules "0", "1", ... by number of the layer.

        The routers are the overhead; fixed patterns do not run them.
        """
        modules = {}
        for part in self.feed_forwards:
            small, big = _weights(part.small), _weights(part.big)
            modules[str(part.layer)] = ModuleCost(
                (small, big, 0)[: self.choices], overhead=part.router.weight.numel()
            )
        return CostTable(modules)

    def other_cost(self) -> int:
        """What everything else costs a token: linear layers of attention and output, without attention scores."""
        linear = {id(m): m.weight.numel() for m in self.model.modules() if isinstance(m, nn.Linear)}
        inside = {id(m) for part in self.feed_forwards for m in part.modules()}
        return sum(n for module, n in linear.items() if module not in inside)


def convert(
    model: PreTrainedModel,
    *,
    small: float = 1 / 16,
    skip: bool = False,
    start: str = "pruned",
    seed: int = 0,
) -> DuoForCausalLM:
    """Give every feed-forward layer of a causal language model a small sibling, in place (arXiv 2410.10846).

    The model runs as before until another routing is set: all tokens choose the big layers.

    Args:
        model: A causal language model of transformers whose blocks hold an ``mlp`` made of linear layers: Llama, Qwen2,
            Qwen3, Mistral, SmolLM and the like.
        small: Width of the siblings as a share of the big ones' (at least one neuron).
        skip: Whether tokens may also run neither.
        start: "pruned" copies the neurons of the big layer with the largest product of weight norms, the better start
            where the model is trained already; "random" draws weights as the model's own class does.
        seed: Of random weights and routers; torch's own generator is left as it was.

    Returns:
        The conversion; its `undo` gives the model back.

    Raises:
        UnsupportedError: If the model is of another kind; the message names it.
        InputError: If `small` is not a share, or `start` is not one of the two.
    """
    if start not in ("pruned", "random"):
        raise InputError(f'Start is "pruned" or "random", got {start!r}')
    config = DuoConfig(host=model.config, small=small, skip=skip)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        duo = DuoForCausalLM(config, model)
    duo.train(model.training)
    if start == "pruned":
        for part in duo.feed_forwards:
            _prune(part.big, part.small, config.host.intermediate_size)
    return duo


def _check(host: PreTrainedModel) -> None:
    """Refuse what cannot be converted, by name."""
    name = type(host).__name__
    kind = type(host.config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or not isinstance(host, MODEL_FOR_CAUSAL_LM_MAPPING[kind]):
        raise UnsupportedError(
            f"{name} is not a causal language model of transformers: Duo-LLM converts those only."
        )
    require_release()
    require_arguments(host.get_decoder(), ["cache"])  # where columns are counted from
    parts = [getattr(layer, "mlp", None) for layer in getattr(host.get_decoder(), "layers", ())]
    if not parts:
        raise UnsupportedError(f"The decoder of {name} has no `layers`, which Duo-LLM converts.")
    width, inner = host.config.hidden_size, getattr(host.config, "intermediate_size", None)
    for number, part in enumerate(parts):
        if isinstance(part, DuoFeedForward):
            raise UnsupportedError(
                f"{name} has two feed-forward layers a block already: undo() that conversion first."
            )
        shapes = (
            {m.weight.shape for m in part.modules() if isinstance(m, nn.Linear)}
            if part is not None
            else set()
        )
        weights = _weights(part) if part is not None else 0
        known = sum(p.numel() for p in part.parameters() if p.ndim > 1) if part is not None else 0
        if not shapes or weights != known or not shapes <= {(inner, width), (width, inner)}:
            what = "no `mlp`" if part is None else f"an `mlp` of class {type(part).__name__}"
            raise UnsupportedError(
                f"Layer {number} of {name} has {what}: Duo-LLM needs one of linear layers between "
                f"hidden_size and intermediate_size (no experts), as in Llama or Qwen2."
            )


def _weights(part: nn.Module) -> int:
    """Multiply-adds that the linear layers of a module cost a token."""
    return sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear))


@torch.no_grad()
def _prune(big: nn.Module, small: nn.Module, inner: int) -> None:
    """Copy the neurons of the big layer with the largest product of weight norms into the small one."""
    pairs = [
        (mine, copy_)
        for mine, copy_ in zip(big.modules(), small.modules(), strict=True)
        if isinstance(mine, nn.Linear) and isinstance(copy_, nn.Linear)
    ]
    *_, last = pairs
    # Where intermediate_size equals hidden_size, shapes do not tell: the last layer is the one that leads back.
    leads_back = [mine is last[0] or mine.out_features != inner for mine, _ in pairs]
    strength = torch.stack(
        [
            mine.weight.float().norm(dim=0 if back else 1)
            for (mine, _), back in zip(pairs, leads_back, strict=True)
        ]
    ).prod(0)
    n = pairs[0][1].out_features
    keep = strength.topk(n).indices.sort().values
    for (mine, copy_), back in zip(pairs, leads_back, strict=True):
        copy_.weight.copy_(mine.weight[:, keep] if back else mine.weight[keep])
        if mine.bias is not None and copy_.bias is not None:
            copy_.bias.copy_(mine.bias if back else mine.bias[keep])
