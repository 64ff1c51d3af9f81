"""The card of one system: what it is, where it lives, and how far it has come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, get_args, get_origin, get_type_hints

from tokenry.tokens.errors import TokenryError

ROOMS = ("reduce", "text", "codecs", "models", "predict", "learn", "embed", "steer", "bench")
STAGES = ("encoder", "input", "layer", "cache")
STATE_MEANINGS = {
    "done": "entry point, exact tests, a real host and a committed reproduction",
    "partly": "usable, but something of what done means is missing; its notes say what",
    "open": "planned, not usable yet",
}
STATES = tuple(STATE_MEANINGS)
KINDS = (
    "reducer",  # fewer tokens for a model that exists
    "connector",  # from a vision encoder's tokens to a language model's
    "tokenizer",  # trains a vocabulary on text
    "codec",  # pictures, video, sound or shapes to tokens and back
    "vocabulary",  # a model's vocabulary changed or extended
    "transplant",  # rows of a new vocabulary for a model that exists
    "architecture",  # a network, or a part of one
    "objective",  # what is learned from, and with which loss
    "decoder",  # guesses ahead, so that next tokens come faster
    "decoding",  # next tokens drawn differently
    "generator",  # a model of token sequences
    "embedding",  # many tokens to one vector
    "steering",  # what a token in the prompt does
    "pipeline",  # several models working together
    "recipe",  # trains a model as a file says
    "analysis",  # measurements and laws
)

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_ENTRY_POINT = re.compile(r"tokenry(\.[a-z_][a-z0-9_]*)+:[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z0-9]+([-+][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Something that can be named without being a system of its own; the card of a system answers for it.

    Variants are a paper's further recipes, and what its authors compare it with.

    Attributes:
        name: Name by which it is called among the members of its kind.
        kind: One of `KINDS`: the registry that has it.
        summary: One line in our own words, without a full stop.
        entry_point: What a user would call, as "package.module:name".
        aliases: Further names.
        default: True for the member of its kind that is taken where none is named.
    """

    name: str
    kind: str
    summary: str
    entry_point: str
    aliases: tuple[str, ...] = ()
    default: bool = False

    def __post_init__(self) -> None:
        _check_choice(self._label, "kind", self.kind, KINDS)
        for name in (self.name, *self.aliases):
            _check_pattern(self._label, "name", name, _NAME, "lower-case words joined by hyphens or +")
        _check_pattern(self._label, "entry_point", self.entry_point, _ENTRY_POINT, "tokenry.room.module:Name")
        _check_summary(self._label, self.summary)

    @property
    def _label(self) -> str:
        return f"Variant {self.name!r}"


_REDUCING = """\
import tokenry as tk
from tokenry.data import load_scenes
from tokenry.hosts import question_inputs

model, processor = tk.load("embedded")  # or another one of transformers
(scene,) = load_scenes(n=1)
inputs = question_inputs(model, processor, [[scene.image]], [scene.question])
with tk.reduced(model, "{slug}", budget=0.25) as run:
    ids = model.generate(**inputs, max_new_tokens=8)
print(run.cost)
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One system of the catalogue.

    The slug is the card's file name. Where tests, result and docs page live follows from slug and room, so a card
    does not repeat them.

    Attributes:
        slug: Name by which the system is called everywhere (`tk.reduced(model, slug)`, `tokenry info slug`).
        name: Name as the authors write it.
        title: Title of the paper, or for a baseline without one, what it does.
        arxiv: arXiv identifier without version, such as "2412.01818".
        url: Where to find a paper that is not on arXiv.
        venue: Where it was published, such as "ICLR 2025".
        year: Year of the first version of the paper.
        room: Where its code is, or will be; one of `ROOMS`.
        stage: For reducers, where it acts, one of `STAGES`; a method that acts at several places names the deepest.
        kind: What sort of thing it is, one of `KINDS`.
        trained: True if the paper's method needs training; False if it works on a model as it is.
        summary: One line in our own words, without a full stop.
        entry_point: What a user would call, as "package.module:name"; its module is called like the system. It is a
            member of its kind's registry.
        aliases: Further names among the members of its kind.
        variants: What else its card answers for by name, such as further recipes and the simple ways it is compared
            with.
        default: True for the member of its kind that is taken where none is named.
        use: Python that uses it and runs as it stands, in lines of at most 84 characters; reducers do without, as they
            are all used alike.
        command: A command line that uses it, if there is one; reducers do without.
        state: "done", "partly" or "open"; what done means is in docs/adding-a-method.md.
        baseline: True for methods that comparisons need but that are not among the catalogued systems.
        control: For a baseline that stands in every comparison of its kind: its place among these.
        folder: For a model that `tokenry.load` knows by this name and that is put together out of parts: what gives the
            folder of its weights, as "package.module:name".
        scenes: For a model that is a test bed: which scenes it knows (the name of a `tokenry.data.SceneStyle`).
        checks: For a reducer with which `tk.check` tries a mechanism: with which settings, each a JSON object.
        notes: What a reader must know besides, such as related papers.
        caution: Why the verdict of its reproduction is to be read with care, such as a model that favours it; stands
            beside the verdict wherever that is shown.
    """

    slug: str
    name: str
    title: str
    room: str
    kind: str
    trained: bool
    summary: str
    state: str
    arxiv: str | None = None
    url: str | None = None
    venue: str | None = None
    year: int | None = None
    stage: str | None = None
    entry_point: str | None = None
    aliases: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    default: bool = False
    use: str | None = None
    command: str | None = None
    baseline: bool = False
    control: int | None = None
    folder: str | None = None
    scenes: str | None = None
    checks: tuple[str, ...] = ()
    notes: str | None = None
    caution: str | None = None

    def __post_init__(self) -> None:
        _check_choice(self._label, "room", self.room, ROOMS)
        _check_choice(self._label, "kind", self.kind, KINDS)
        _check_choice(self._label, "state", self.state, STATES)
        if self.stage is not None:
            _check_choice(self._label, "stage", self.stage, STAGES)
        _check_pattern(self._label, "slug", self.slug, _SLUG, "lower-case words joined by hyphens")
        for alias in self.aliases:
            _check_pattern(self._label, "alias", alias, _NAME, "lower-case words joined by hyphens or +")
        _check_pattern(self._label, "arxiv", self.arxiv, _ARXIV, "an id without version, such as 2412.01818")
        for field in ("entry_point", "folder"):
            _check_pattern(self._label, field, getattr(self, field), _ENTRY_POINT, "tokenry.room.module:Name")
        _check_summary(self._label, self.summary)
        if not self.baseline and (self.year is None or not (self.arxiv or self.url)):
            raise self._error("a paper needs its year and its arxiv id or url (only baselines go without)")
        if self.entry_point is not None and self.entry_point.split(".")[1] != self.room:
            raise self._error(f"entry_point {self.entry_point} is not in its room, {self.room!r}")
        if self.control is not None and not self.baseline:
            raise self._error("only a baseline can be the control of every comparison")
        if self.state == "done" and self.entry_point is None:
            raise self._error("a system that is done has an entry_point")

    @classmethod
    def from_mapping(cls, slug: str, values: Mapping[str, Any]) -> Card:
        """Make a card from parsed TOML.

        Args:
            slug: The card's file name without suffix.
            values: Its fields; anything that is not a field of a card is refused.

        Raises:
            TokenryError: If a field is unknown, missing or has a value that it must not have.
        """
        return cls(slug=slug, **_read(cls, f"Card {slug!r}", values, "slug"))

    @property
    def page(self) -> str:
        """Path of its page in the documentation, from the repository's root."""
        return f"docs/methods/{self.slug}.md"

    @property
    def tests(self) -> str:
        """Path of its tests, from the repository's root: tests mirror where the code lies."""
        return f"tests/{self.room}/test_{self.slug.replace('-', '_')}.py"

    @property
    def reproduction(self) -> str:
        """Path of its committed reproduction, from the repository's root."""
        return f"docs/results/{self.slug}.json"

    @property
    def example(self) -> str | None:
        """Python that uses it and runs as it stands; None for a system that cannot be used."""
        if self.use is None and self.entry_point is not None and self.kind == "reducer":
            return _REDUCING.format(slug=self.slug)
        return self.use

    @property
    def shell(self) -> str | None:
        """A command line that uses it, if there is one."""
        if self.command is None and self.entry_point is not None and self.kind == "reducer":
            return f'tokenry reduce run MODEL picture.jpg "what is this?" --method {self.slug}'
        return self.command

    @property
    def link(self) -> str | None:
        """Address of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    @property
    def _label(self) -> str:
        return f"Card {self.slug!r}"

    def _error(self, problem: str) -> TokenryError:
        return TokenryError(f"{self._label}: {problem}")


def _read(
    cls: type[Card] | type[Variant], label: str, values: Mapping[str, Any], *given: str
) -> dict[str, Any]:
    """The fields of a card or a variant from parsed TOML, without those that are `given` otherwise."""
    known = {field.name for field in fields(cls)} - set(given)
    required = {field.name for field in fields(cls) if field.default is MISSING} - set(given)
    what = cls.__name__.lower()
    if unknown := sorted(set(values) - known):
        raise TokenryError(f"{label}: unknown field {unknown[0]!r}; a {what} has {', '.join(sorted(known))}")
    if missing := sorted(required - set(values)):
        raise TokenryError(f"{label}: {', '.join(missing)} missing.")
    hints = _HINTS[cls.__name__]
    return {name: _value(label, name, value, hints[name]) for name, value in values.items()}


_HINTS: Final = {cls.__name__: get_type_hints(cls) for cls in (Card, Variant)}


def _value(label: str, name: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if not isinstance(value, list) or not value:
            raise TokenryError(f"{label}: {name} must be a non-empty list, not {value!r}")
        if element is not Variant:
            return tuple(_value(label, name, one, element) for one in value)
        tables = [_value(label, name, one, dict) for one in value]
        return tuple(Variant(**_read(Variant, f"{label}, {name}", table)) for table in tables)
    allowed = [one for one in get_args(hint) or (hint,) if one is not type(None)]
    if type(value) not in allowed or value == "":  # not isinstance: True is no year
        raise TokenryError(f"{label}: {name} must be a non-empty {allowed[0].__name__}, not {value!r}")
    return value


def _check_choice(label: str, field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TokenryError(f"{label}: {field} {value!r} is none of {', '.join(choices)}")


def _check_pattern(label: str, field: str, value: str | None, pattern: re.Pattern[str], meaning: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise TokenryError(f"{label}: {field} {value!r} is not {meaning}")


def _check_summary(label: str, summary: str) -> None:
    if "\n" in summary or summary.endswith("."):
        raise TokenryError(f"{label}: summary is one line without a full stop, got {summary!r}")
