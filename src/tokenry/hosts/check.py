"""`tk.check`: the laws, run on the user's own model. It replaces a list of supported classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts.host import Host, evaluating
from tokenry.hosts.oracle import masked
from tokenry.hosts.prompt import sample_inputs
from tokenry.hosts.session import Session
from tokenry.reduce import Reducer
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import InputError, Positions, TokenryError, UnsupportedError


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
        lines = [f"{law.stage:<10} {law.name:<58} {marks[law.holds]:<7} {law.detail}" for law in self.laws]
        return "\n".join([self.model, *lines])


_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def check(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    steps: int = 6,
    budget: float = 0.4,
    tokens: slice | None = None,
    methods: Sequence[Reducer] | None = None,
) -> CheckReport:
    """Run the laws on a model with one batch of the user's inputs, through its unmodified `generate`.

    For each method: at 100 % the answer is the model's own; at `budget`, logits of the prompt's last token and of
    every decoding step equal those of the full sequence with the dropped tokens masked out; afterwards the model is
    what it was, bit for bit.

    Args:
        model: the model; also one of peft or `torch.compile`.
        inputs: what the processor made: `input_ids`, pixels and so on. Several rows and pictures test more. By
            default two made-up pictures with a question each, by the processor that the model came with.
        steps: decoding steps to compare.
        budget: share of visual tokens to keep.
        tokens: for a text model, the columns that may be dropped.
        methods: methods to check; by default one for each mechanism at the stages input and layer.

    Returns:
        A report that prints as a table; `report.ok`, `report.stages`.

    Raises:
        InputError: inputs without a picture.
    """
    host = Host.of(model)
    inputs = sample_inputs(host.model) if inputs is None else inputs
    if "input_ids" not in inputs:
        raise InputError(f"check needs `input_ids` among the inputs, got {', '.join(inputs)}.")
    with evaluating(host.model):
        laws: list[Law] = []
        before = _generate(host.model, inputs, steps)
        for method in methods if methods is not None else _default_methods(budget):
            laws += _check_method(host, inputs, method, steps, tokens, before)
        after = _generate(host.model, inputs, steps)
        same = all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        laws.append(Law("any", "afterwards the model is what it was, bit for bit", same, ""))
    return CheckReport(host.name, tuple(laws))


def _default_methods(budget: float) -> list[Reducer]:
    return [
        RandomTokens(budget=budget),
        RandomTokens(budget=budget, positions=Positions.COMPACT),
        Pool(budget=budget),
        FasterVLM(budget=budget),
        FastV(budget=budget, layer=1),
        PyramidDrop(budget=budget),
    ]


def _check_method(
    host: Host, inputs: Mapping[str, Any], method: Reducer, steps: int, tokens: slice | None, before: Any
) -> list[Law]:
    name = f"{method.slug} ({method.positions})"
    laws: list[Law] = []
    try:
        with Session(host.model, [replace(method, budget=1.0)], tokens=tokens):
            whole = _generate(host.model, inputs, steps)
        gap = _gap(whole[1], before[1])
        tolerance = _TOLERANCE.get(host.model.dtype, 2e-4) * _scale(before[1])
        laws.append(
            Law(method.stage, f"{name}: at 100% the model's own answer", gap <= tolerance, f"{gap:.1e}")
        )
        gap = oracle_gap(host, inputs, method, steps, tokens)
    except UnsupportedError as error:
        return [*laws, Law(method.stage, name, None, str(error))]
    except TokenryError as error:
        return [Law(method.stage, name, False, str(error))]
    return [
        *laws,
        Law(method.stage, f"{name}: equals the masked full sequence", gap <= tolerance, f"{gap:.1e}"),
    ]


def oracle_gap(
    host: Host,
    inputs: Mapping[str, Any],
    method: Reducer | Sequence[Reducer],
    steps: int = 6,
    tokens: slice | None = None,
    **generation: Any,
) -> float:
    """Largest logit difference between running reduced and the masked full sequence: prefill and `steps` tokens."""
    if host.why_no_layer_stage:
        raise UnsupportedError(
            f"No masked full sequence to compare with, since {host.why_no_layer_stage}; only the identity at 100% is "
            "checked."
        )
    methods = [method] if isinstance(method, Reducer) else list(method)
    with Session(host.model, methods, tokens=tokens) as run:
        mine = _generate(host.model, inputs, steps, **generation)
        trace = run.trace
    rules: dict[int, Positions] = {}
    for m in methods:
        for cut in m.cuts(host.depth):
            compact = m.positions == Positions.COMPACT or rules.get(cut) is Positions.COMPACT
            rules[cut] = Positions.COMPACT if compact else Positions.KEEP
    ids: Tensor = inputs["input_ids"]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    if tokens is not None:
        visual[:, tokens] = True
    for token in host.token_ids.values():
        visual |= ids == token
    mask = inputs.get("attention_mask")
    with masked(host, trace, visual, rules, None if mask is None else mask.bool()):
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
