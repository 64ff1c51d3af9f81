"""The metric of a comparison: one with a name (`tokenry.data.questions.metrics`), or a rule of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from tokenry.bench.lines import digest
from tokenry.data.questions.examples import Example
from tokenry.data.questions.metrics import METRICS, Metric
from tokenry.tokens import InputError, UnknownNameError

__all__ = ["METRICS", "Metric", "MetricLike", "metric", "require_judgeable"]

MetricLike: TypeAlias = str | Metric | Callable[[str, Example], float | bool]
"""A name, a rule (prediction, example) -> 0..1, or such a rule with a name of one's own (`Metric`)."""


def metric(given: MetricLike) -> Metric:
    """A metric by name, or made of the user's own rule.

    A rule is identified by its name and source: a changed rule is another metric. What it reads from elsewhere - a
    file, a variable around it - is not seen; ``Metric("mine, version 2", "what it counts", rule)`` says it by name.

    Raises:
        UnknownNameError: no such metric; the message names all.
        InputError: a `Metric` of the user's with a name that is taken.
    """
    if isinstance(given, Metric):
        if METRICS.get(given.name, given) is not given:
            raise InputError(f"Tokenry has a metric {given.name!r} already; give yours another name.")
        return given
    if not callable(given):
        if given not in METRICS:
            raise UnknownNameError(
                f"There is no metric {given!r}. There are {', '.join(METRICS)}; or hand over a function "
                "(prediction, example) -> 0..1."
            )
        return METRICS[given]
    name, source = _identity(given)
    summary = (inspect.getdoc(given) or "a rule of the user's own").splitlines()[0]
    return Metric(f"{name}-{digest(source)[:8]}" if source else name, summary, given)


def require_judgeable(judge: Metric, examples: Iterable[Example]) -> None:
    """Refuse data of which a named metric can judge nothing, before a model is asked.

    A rule of the user's own is not called in advance: it may cost time or money.

    Raises:
        InputError: the reason, of the first example.
    """
    if METRICS.get(judge.name) is not judge:
        return
    reason: InputError | None = None
    for example in examples:
        if not example.references:
            continue
        try:
            judge.score("", example)
        except InputError as error:
            reason = reason or error
        else:
            return
    if reason is not None:
        raise InputError(f"The metric {judge.name} can judge none of the examples. {reason}")


def _identity(rule: Any) -> tuple[str, list[str]]:
    """What a rule is called, and the source that it consists of; that of its class for an object."""
    if isinstance(rule, partial):
        name, source = _identity(rule.func)
        return name, [*source, repr(rule.args), repr(sorted(rule.keywords.items()))]
    name = getattr(rule, "__qualname__", type(rule).__qualname__)
    for written in (rule, type(rule)):
        with suppress(OSError, TypeError):
            return name, [inspect.getsource(written)]
    return name, []
