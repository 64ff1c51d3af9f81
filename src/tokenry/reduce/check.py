"""`tk.check`: the laws, run on the user's own model. It replaces a list of supported classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.catalog import STAGES, cards
from tokenry.hosts.host import Host, evaluating
from tokenry.hosts.prompt import sample_inputs
from tokenry.hosts.reducing.oracle import cut_by_hand, masked
from tokenry.hosts.reducing.session import Session
from tokenry.hosts.vision import visual_kinds
from tokenry.reduce.base import Reducer
from tokenry.reduce.registry import REDUCERS, fill_in
from tokenry.tokens import InputError, Positions, Stage, TokenryError, UnsupportedError


@dataclass(frozen=True)
class Law:
    """One law on one model.

    Attributes:
        stage: the stage it belongs to.
        name: what must hold.
        holds: whether it does; None = it does not apply, for the reason in `detail`.
        detail: the largest difference found, or the reason.
    """

    stage: str
    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """What `check` found."""

    model: str
    laws: tuple[Law, ...] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        """Whether every law that applies holds."""
        return all(law.holds is not False for law in self.laws)

    @property
    def stages(self) -> dict[str, bool]:
        """Which stages the model supports."""
        held: dict[str, list[bool]] = {}
        for law in self.laws:
            held.setdefault(law.stage, []).extend([] if law.holds is None else [law.holds])
        return {stage: bool(holds) and all(holds) for stage, holds in held.items()}

    def __str__(self) -> str:
        marks = {True: "holds", False: "BROKEN", None: "n/a"}
        width = max((len(law.name) for law in self.laws), default=0)
        lines = [
            f"{law.stage:<10} {law.name:<{width}} {marks[law.holds]:<7} {law.detail}" for law in self.laws
        ]
        return "\n".join([self.model, *lines])


_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9, torch.float16: 2e-2, torch.bfloat16: 1e-1}

Method: TypeAlias = "str | Reducer | Sequence[str | Reducer]"
"""A method or a chain of several: as `tokenry.reduced` takes them."""


def check(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    steps: int = 6,
    budget: float = 0.4,
    tokens: slice | None = None,
    methods: Sequence[Method] | None = None,
) -> CheckReport:
    """Run the laws on a model with one batch of the user's inputs, through its unmodified `generate`.

    For each method: at 100 % the answer is the model's own; at `budget`, logits of the prompt's last token and of
    every decoding step equal those of the full sequence with the dropped tokens masked out (where layers read their
    tokens into a state, which no mask can undo: those of a sequence cut by hand); afterwards the model is what it was,
    bit for bit. A law that ends in an exception of whatever kind is broken, and says so; the other laws are still run.

    Args:
        model: the model; also one of peft or `torch.compile`.
        inputs: what the processor made: `input_ids`, pixels and so on. Several rows and pictures test more. By
            default two made-up pictures with a question each, by the processor that the model came with.
        steps: decoding steps to compare.
        budget: share of visual tokens to keep, for the default methods and those given by name.
        tokens: for a text model, the columns that may be dropped.
        methods: methods to check, each a name, a `Reducer` or a chain ("pool+fastv", or a list of its members); by
            default one for each mechanism at the stages input and layer, as their cards say.

    Returns:
        A report that prints as a table; `report.ok`, `report.stages`.

    Raises:
        InputError: inputs without `input_ids`, or without a picture; no step to compare.
        UnsupportedError: no decoder can be found in the model.
    """
    if steps < 1:
        raise InputError(f"Check compares at least 1 decoding step, got steps={steps}.")
    host = Host.of(model)
    inputs = sample_inputs(host.model) if inputs is None else inputs
    if "input_ids" not in inputs:
        raise InputError(f"Check needs `input_ids` among the inputs, got {', '.join(inputs)}.")
    if tokens is None and host.token_ids and not visual_kinds(host, inputs["input_ids"], inputs):
        raise InputError(
            f"There is no picture in these inputs: none of their tokens is a placeholder of {host.name}, so there is "
            "nothing to drop and nothing to check."
        )
    chains = _read(methods, budget)
    bench = _Bench(host, inputs, steps, tokens)
    with evaluating(host.model):
        laws = [law for chain in chains for law in bench.laws_of(chain)]
        if bench.ran:
            laws.append(bench.removal())
    return CheckReport(host.name, tuple(laws))


def _read(methods: Sequence[Method] | None, budget: float) -> list[tuple[Reducer, ...]]:
    if methods is None:
        return [(method,) for method in _default_methods(budget)]
    given: Sequence[Method] = [methods] if isinstance(methods, str) else methods
    return [fill_in(method, budget=budget) for method in given]


def _default_methods(budget: float) -> list[Reducer]:
    """Those whose cards say that they stand for a mechanism: the controls first, then from the way in to the depth."""
    found = [card for card in cards(kind=REDUCERS.kind) if card.checks and card.entry_point]
    found.sort(key=lambda c: (c.control or len(found), STAGES.index(c.stage or STAGES[0]), c.slug))
    return [
        REDUCERS.make(card.slug, budget=budget, **json.loads(settings))
        for card in found
        for settings in card.checks
    ]


class _Bench:
    """The laws of one model on one batch of inputs; the model's own answer is asked for once, when it is needed."""

    def __init__(self, host: Host, inputs: Mapping[str, Any], steps: int, tokens: slice | None) -> None:
        self.host, self.inputs, self.steps, self.tokens = host, inputs, steps, tokens
        self.ran = False

    @cached_property
    def before(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens and logits of the model as it is."""
        self.ran = True
        return _generate(self.host.model, self.inputs, self.steps)

    @property
    def tolerance(self) -> float:
        return _TOLERANCE.get(self.host.model.dtype, 2e-4) * _scale(self.before[1])

    def laws_of(self, chain: tuple[Reducer, ...]) -> list[Law]:
        """Identity and equality of a method or a chain; one law that does not apply where the model is refused."""
        name = "+".join(f"{method.slug} ({method.position_rule})" for method in chain)
        stage = max((method.stage for method in chain), key=list(Stage).index)
        truth = "sequence cut by hand" if self.host.why_no_layer_stage else "masked full sequence"
        laws: list[Law] = []
        for what, gap in (
            ("at 100% the model's own answer", self._identity),
            (f"equals the {truth}", self._equality),
        ):
            law = _judged(stage, f"{name}: {what}", partial(gap, chain), lambda: self.tolerance)
            if law.holds is None:
                return [*laws, replace(law, name=name)]
            laws.append(law)
        return laws

    def _identity(self, chain: tuple[Reducer, ...]) -> float:
        session = Session(self.host.model, [replace(m, budget=1.0) for m in chain], tokens=self.tokens)
        before = self.before  # after that: for a method that is refused the model need not run
        with session:
            whole = _generate(self.host.model, self.inputs, self.steps)
        return _gap(whole[1], before[1])

    def _equality(self, chain: tuple[Reducer, ...]) -> float:
        return oracle_gap(self.host, self.inputs, chain, self.steps, self.tokens)

    def removal(self) -> Law:
        """Afterwards the model is what it was."""

        def gap() -> float:
            after = _generate(self.host.model, self.inputs, self.steps)
            same = all(torch.equal(a, b) for a, b in zip(self.before[1], after[1], strict=True))
            return 0.0 if same else float("inf")

        law = _judged("any", "afterwards the model is what it was, bit for bit", gap, lambda: 0.0)
        return replace(law, detail="" if law.holds else law.detail)


def _judged(stage: str, name: str, gap: Callable[[], float], tolerance: Callable[[], float]) -> Law:
    """A law that holds where a gap is small enough; what goes wrong on the way is told, and breaks this law only."""
    try:
        found = gap()
        return Law(stage, name, found <= tolerance(), f"{found:.1e}")
    except UnsupportedError as error:
        return Law(stage, name, None, str(error))
    except TokenryError as error:
        return Law(stage, name, False, str(error))
    except Exception as error:
        return Law(stage, name, False, f"{type(error).__name__}: {error}")


def oracle_gap(
    host: Host,
    inputs: Mapping[str, Any],
    method: Reducer | Sequence[Reducer],
    steps: int = 6,
    tokens: slice | None = None,
    **generation: Any,
) -> float:
    """Largest logit difference between running reduced and the masked full sequence: prefill and `steps` tokens.

    Where layers read their tokens into a state, which no mask can undo, the truth is the sequence cut by hand.
    """
    methods = [method] if isinstance(method, Reducer) else list(method)
    with Session(host.model, methods, tokens=tokens) as run:
        mine = _generate(host.model, inputs, steps, **generation)
        trace = run.trace
    rules: dict[int, Positions] = {}
    for m in methods:
        for cut in m.decoder_cuts(host.depth):
            compact = m.position_rule is Positions.COMPACT or rules.get(cut) is Positions.COMPACT
            rules[cut] = Positions.COMPACT if compact else Positions.KEEP
    ids: Tensor = inputs["input_ids"]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    if tokens is not None:
        visual[:, tokens] = True
    for token in host.token_ids.values():
        visual |= ids == token
    mask = inputs.get("attention_mask")
    truthful = cut_by_hand if host.why_no_layer_stage else masked
    with truthful(host, trace, visual, rules, None if mask is None else mask.bool()):
        truth = _generate(host.model, inputs, steps, **generation)
    if mine[0].shape != truth[0].shape or not torch.equal(mine[0], truth[0]):
        return float("inf")
    return _gap(mine[1], truth[1])


def _generate(
    model: PreTrainedModel, inputs: Mapping[str, Any], steps: int, **generation: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Tokens and raw logits of a generation of fixed length."""
    settings = {
        "do_sample": False,
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "use_cache": True,
    } | generation
    torch.manual_seed(0)
    out = model.generate(
        **inputs, **settings, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )
    return out.sequences, out.logits


def _gap(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float((x.float() - y.float()).abs().max()) for x, y in zip(a, b, strict=True))


def _scale(logits: Sequence[Tensor]) -> float:
    """Logits of random models can be large; differences are judged relative to them."""
    return max(1.0, *(float(x.float().abs().max()) for x in logits))
