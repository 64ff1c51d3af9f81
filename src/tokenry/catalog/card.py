"""The card of one system: what it is, where it lives, and how far it has come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_type_hints

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
    "tokenizer",  # signal or text to tokens and back
    "vocabulary",  # a model's vocabulary changed or extended
    "architecture",  # a network, or a part of one
    "objective",  # what is learned from, and with which loss
    "decoding",  # next tokens, faster or differently
    "generator",  # a model of token sequences
    "embedding",  # many tokens to one vector
    "steering",  # what a token in the prompt does
    "pipeline",  # several models working together
    "analysis",  # measurements and laws
)

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_ENTRY_POINT = re.compile(r"tokenry(\.[a-z_][a-z0-9_]*)+:[A-Za-z_]\w*")

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
        room: Field it belongs to, one of `ROOMS`; its code is where `entry_point` says (a language model of the room
            "text" lives in `models`).
        stage: For reducers, where it acts, one of `STAGES`; a method that acts at several places names the deepest.
        kind: What sort of thing it is, one of `KINDS`.
        trained: True if the paper's method needs training; False if it works on a model as it is.
        summary: One line in our own words, without a full stop.
        entry_point: What a user would call, as "package.module:name".
        use: Python that uses it and runs as it stands, in lines of at most 84 characters; reducers do without, as they
            are all used alike.
        command: A command line that uses it, if there is one; reducers do without.
        state: "done", "partly" or "open"; what done means is in docs/adding-a-method.md.
        baseline: True for methods that every comparison needs but that are not among the catalogued systems.
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
    use: str | None = None
    command: str | None = None
    baseline: bool = False
    notes: str | None = None
    caution: str | None = None

    def __post_init__(self) -> None:
        self._check_choice("room", self.room, ROOMS)
        self._check_choice("kind", self.kind, KINDS)
        self._check_choice("state", self.state, STATES)
        if self.stage is not None:
            self._check_choice("stage", self.stage, STAGES)
        self._check_pattern("slug", self.slug, _SLUG, "lower-case words joined by hyphens")
        self._check_pattern("arxiv", self.arxiv, _ARXIV, "an id without version, such as 2412.01818")
        self._check_pattern("entry_point", self.entry_point, _ENTRY_POINT, "tokenry.room.module:Name")
        if not self.baseline and (self.year is None or not (self.arxiv or self.url)):
            raise self._error("a paper needs its year and its arxiv id or url (only baselines go without)")
        if self.state == "done" and self.entry_point is None:
            raise self._error("a system that is done has an entry_point")
        if "\n" in self.summary or self.summary.endswith("."):
            raise self._error("summary is one line without a full stop")

    @classmethod
    def from_mapping(cls, slug: str, values: Mapping[str, Any]) -> Card:
        """Make a card from parsed TOML.

        Args:
            slug: The card's file name without suffix.
            values: Its fields; anything that is not a field of a card is refused.

        Raises:
            TokenryError: If a field is unknown, missing or has a value that it must not have.
        """
        known = {field.name for field in fields(cls)} - {"slug"}
        required = {field.name for field in fields(cls) if field.default is MISSING} - {"slug"}
        if unknown := sorted(set(values) - known):
            raise TokenryError(
                f"Card {slug!r}: unknown field {unknown[0]!r}; a card has {', '.join(sorted(known))}"
            )
        if missing := sorted(required - set(values)):
            raise TokenryError(f"Card {slug!r}: {', '.join(missing)} missing.")
        hints = get_type_hints(cls)
        for name, value in values.items():
            allowed = [hint for hint in get_args(hints[name]) or (hints[name],) if hint is not type(None)]
            if type(value) not in allowed or value == "":  # not isinstance: True is no year
                raise TokenryError(
                    f"Card {slug!r}: {name} must be a non-empty {allowed[0].__name__}, not {value!r}"
                )
        return cls(slug=slug, **values)

    @property
    def page(self) -> str:
        """Path of its page in the documentation, from the repository's root."""
        return f"docs/methods/{self.slug}.md"

    @property
    def tests(self) -> str:
        """Path of its tests, from the repository's root: tests mirror where the code lies."""
        room = self.room if self.entry_point is None else self.entry_point.split(".")[1]
        return f"tests/{room}/test_{self.slug.replace('-', '_')}.py"

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
            return f'tokenry run MODEL picture.jpg "what is this?" --method {self.slug}'
        return self.command

    @property
    def link(self) -> str | None:
        """Address of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    def _check_choice(self, field: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise self._error(f"{field} {value!r} is none of {', '.join(choices)}")

    def _check_pattern(self, field: str, value: str | None, pattern: re.Pattern[str], meaning: str) -> None:
        if value is not None and not pattern.fullmatch(value):
            raise self._error(f"{field} {value!r} is not {meaning}")

    def _error(self, problem: str) -> TokenryError:
        return TokenryError(f"Card {self.slug!r}: {problem}")
