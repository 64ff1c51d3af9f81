"""Options that several commands have, as one parameter: how a model is loaded, what is compared, what is printed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tokenry.cli import options
from tokenry.cli.options import Attention, Dtype, Form
from tokenry.models.pretrained import require_model


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of its groups as parameters of their own, which is how typer reads them.

    Args:
        command: every parameter that is annotated with a dataclass gets one made of that class's options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    members = {name: [field.name for field in fields(group)] for name, group in groups.items()}

    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{member: given.pop(member) for member in members[name]})  # type: ignore[operator]
        command(**given)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        spelt = [parameter.replace(annotation=hints[parameter.name])] if group is None else _parameters(group)
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in spelt]
    called.__name__, called.__doc__, called.__module__ = command.__name__, command.__doc__, command.__module__
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(group)
    ]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a vision-language model is loaded."""

    dtype: options.DtypeOption = Dtype.AUTO
    attn: options.AttentionOption = Attention.SDPA
    device: options.DeviceOption = None
    device_map: options.DeviceMapOption = None
    adapter: options.AdapterOption = None
    trust_remote_code: options.TrustOption = False

    def require(self, model: str) -> None:
        """Refuse names that stand for no model and no adapter: said at once where torch is not imported yet.

        Raises:
            InputError: see `tokenry.models.pretrained.find`.
        """
        require_model(model, self.adapter)

    def load(self, model: str) -> tuple[Any, Any]:
        """The model and its processor."""
        from tokenry.models.load import load

        return load(
            model,
            reads="pictures",
            dtype=None if self.dtype is Dtype.AUTO else self.dtype.value,
            attn=self.attn.value,
            device=self.device,
            device_map=options.read_device_map(self.device_map),
            adapter=self.adapter,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True, kw_only=True)
class Printing:
    """How a comparison is printed."""

    wide: options.WideOption = False
    as_json: options.JsonOption = False
    as_csv: options.CsvOption = False

    @property
    def form(self) -> Form:
        """The form that is asked for.

        Raises:
            InputError: two of them.
        """
        return Form.of(self.wide, self.as_json, self.as_csv)


@dataclass(frozen=True)
class _PreparedComparison:
    """A comparison that can begin: everything that could be seen to be wrong before it has been looked at.

    Attributes:
        subject: the model, its processor and the questions.
        methods: names and configurations.
        budgets: of each method.
        settings: what else `bench.compare` and `bench.tune` are told.
    """

    subject: tuple[Any, Any, Sequence[Any]]
    methods: list[str]
    budgets: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What is compared, on which questions, and how they are put and scored."""

    data: options.DataOption = "scenes"
    methods: options.MethodsOption = None
    limit: options.LimitOption = None
    threads: options.ThreadsOption = None
    batch_size: options.BatchOption = 1
    positions: options.PositionsOption = None
    metric: options.MetricOption = "exact"
    prompt: options.PromptOption = None
    max_new_tokens: options.TokensOption = 32

    @contextmanager
    def asked(
        self, model: str, loading: Loading, budgets: Sequence[str], out: Path, **plan: Any
    ) -> Iterator[_PreparedComparison]:
        """The comparison that is asked for; a misspelt name is told before the model is loaded.

        Inside, Ctrl-C says that nothing is lost and how to go on.

        Args:
            model: its name.
            loading: how it is loaded.
            budgets: as the command line has them.
            out: folder for results and report.
            **plan: what else decides which arms there are.

        Raises:
            TokenryError: what cannot be done.
        """
        from tokenry import bench
        from tokenry.bench.reducers.arms import plan_arms

        names, limits = options.split_methods(self.methods), options.split_budgets(budgets)
        plan_arms(names, limits, **plan)
        bench.metric(self.metric)
        bench.Template(self.prompt)
        questions = options.questions(self.data, self.limit, model)
        options.check_writable(out)
        bench.require_free(out)
        loaded, processor = loading.load(model)
        settings = {
            "out": out,
            "name": options.display_name(model, loading.adapter),
            "data_name": questions.name,
            "left_out": questions.skipped,
            "max_new_tokens": self.max_new_tokens,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "positions": self.positions,
            "metric": self.metric,
            "prompt": self.prompt,
            "progress": True,
            **plan,
        }
        with options.resumable(out):
            yield _PreparedComparison((loaded, processor, questions.examples), names, limits, settings)
