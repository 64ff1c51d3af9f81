"""One registry for every kind: what cards list, what other packages bring, and what is said of a wrong name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any, ClassVar

import pytest

from tests.laws.codecs import members as codec_members
from tests.laws.connectors import members as connector_members
from tests.laws.generators import members as generator_members
from tokenry.catalog import Registry, card, cards, registry
from tokenry.catalog.card import KINDS
from tokenry.codecs import Codec
from tokenry.codecs.registry import CODECS
from tokenry.models import Connector
from tokenry.models.vlm.registry import CONNECTORS
from tokenry.predict import TokenGenerator
from tokenry.predict.image.registry import GENERATORS
from tokenry.predict.lm.registry import DECODERS
from tokenry.reduce import Scorer
from tokenry.reduce.registry import REDUCERS
from tokenry.text.kinds import TRAINERS
from tokenry.text.transplant.base import Transplant
from tokenry.text.transplant.registry import TRANSPLANTS
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError
from tokenry.train.loop import Objective
from tokenry.train.objectives import OBJECTIVES
from tokenry.train.recipe import RECIPES, TrainingRecipe

MODULE = "a_package_of_somebody_else"


@dataclass(frozen=True, kw_only=True)
class Loudest(Scorer):
    """A reducer."""

    slug: ClassVar[str] = "loudest"
    budget: float = 0.5

    def score(self, view: Any) -> Any:
        """The norm."""
        return view.features.norm(dim=2)


@dataclass(frozen=True, kw_only=True)
class Loudly(Transplant):
    """A transplanting method."""

    slug: ClassVar[str] = "loudest"
    strength: float = 1.0

    def make(self, plan: Any, input_rows: Any, output_rows: Any, context: Any) -> Any:
        """Nothing."""


class Whisper(Codec):
    """A codec."""


class Wire(Connector):
    """A connector."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()

    def forward(self, view: Any, keep: Any = None) -> Any:
        """Nothing."""


class Dice(TokenGenerator):
    """A generator."""


class Shouting(Objective):
    """An objective."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength


@dataclass(frozen=True)
class Practice(TrainingRecipe):
    """A recipe."""

    trains: ClassVar[str] = "a voice"
    hours: int = 1

    def train(self, **options: Any) -> None:
        """Nothing."""


class Parrot:
    """A proposer, which is one by what it has."""

    hidden = False

    def __init__(self, depth: int = 2) -> None:
        self.depth = depth

    @classmethod
    def for_model(cls, model: Any) -> Parrot:
        """One."""
        return cls()

    def begin(self, prompts: Any, hidden: Any) -> None:
        """Start."""

    def propose(self, row: int, text: Any, limit: int) -> Any:
        """Guess."""

    def learn(self, row: int, verified: Any) -> None:
        """See."""


def whole_words(texts: Any, size: int, *, glue: str = " ") -> Any:
    """A trainer of vocabularies."""
    return size, glue


BROUGHT: dict[str, tuple[Registry[Any], Any, tuple[Any, ...], dict[str, Any]]] = {
    "reducer": (REDUCERS, Loudest, (), {"budget": 0.25}),
    "transplant": (TRANSPLANTS, Loudly, (), {"strength": 2.0}),
    "objective": (OBJECTIVES, Shouting, (), {"strength": 2.0}),
    "recipe": (RECIPES, Practice, (), {"hours": 2}),
    "decoder": (DECODERS, Parrot, (), {"depth": 3}),
    "connector": (CONNECTORS, Wire, (), {"strength": 2.0}),
    "codec": (CODECS, Whisper, (), {}),
    "generator": (GENERATORS, Dice, (), {}),
    "tokenizer": (TRAINERS, whole_words, ([], 300), {"glue": "-"}),
}
every_kind = pytest.mark.parametrize("kind", BROUGHT)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that a package is installed that registers things: ``install("reducer", loudest=Loudest)``."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def installed(kind: str, **things: Any) -> None:
        vars(module).update({thing.__name__: thing for thing in things.values()})
        found = EntryPoints(
            EntryPoint(name, f"{MODULE}:{thing.__name__}", f"tokenry.{kind}s")
            for name, thing in things.items()
        )
        monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))

    return installed


@every_kind
def test_what_the_cards_list_is_there_and_is_what_it_says(kind: str) -> None:
    opened = BROUGHT[kind][0]
    own = {c.slug for c in cards(kind=kind) if c.entry_point is not None}
    assert own <= set(opened.names()) == opened.all().keys()
    assert list(opened.names()) == sorted(opened.names())
    assert all(entry.summary and entry.card is not None for entry in opened.entries().values())


@every_kind
def test_another_package_may_bring_one(kind: str, install: Callable[..., None]) -> None:
    opened, thing, given, settings = BROUGHT[kind]
    install(kind, loudest=thing)
    assert "loudest" in opened.names()
    assert opened.get("loudest") is thing
    if not settings:  # made of a configuration, as every model of transformers
        return
    made = opened.make("loudest", *given, **settings)
    assert made == (300, "-") if given else isinstance(made, thing)
    (name,) = settings
    assert list(opened.settings("loudest", len(given))) >= [name]
    with pytest.raises(InputError, match=f"loudest has no setting tone; its settings: .*{name}"):
        opened.make("loudest", *given, tone=3)
    with pytest.raises(UnknownNameError, match=f"There is no {opened.what} 'loudes'. Did you mean 'loudest'"):
        opened.get("loudes")


def test_the_laws_of_what_can_be_built_hold_to_every_member() -> None:
    codecs = {type(member.build()) for member in codec_members.MEMBERS.values()}
    connectors = {type(member.build(8)) for member in connector_members.MEMBERS.values()}
    generators = {type(member.build(member.codes())) for member in generator_members.MEMBERS.values()}
    assert codecs >= set(CODECS.all().values())
    assert connectors >= set(CONNECTORS.all().values())
    assert generators >= set(GENERATORS.all().values())


@pytest.mark.parametrize("kind", sorted(BROUGHT.keys() - {"tokenizer"}))
def test_what_is_something_else_is_refused(kind: str, install: Callable[..., None]) -> None:
    opened = BROUGHT[kind][0]
    install(kind, loudest=int)
    with pytest.raises(
        TokenryError, match=f"is registered as 'loudest', but is not a {opened.base.__name__}"
    ):
        opened.get("loudest")


@every_kind
def test_a_name_or_an_alias_of_ours_cannot_be_taken(kind: str, install: Callable[..., None]) -> None:
    opened = BROUGHT[kind][0]
    for name in (opened.names()[0], *(a for e in registry.catalogued(kind).values() for a in e.aliases)):
        install(kind, **{name: BROUGHT[kind][1]})
        with pytest.raises(TokenryError, match=f"'{re.escape(name)}' in tokenry.{kind}s.*already taken by"):
            opened.names()


def test_a_variant_and_an_alias_are_found_by_the_card_that_answers_for_them() -> None:
    assert TRANSPLANTS.entry("mean") is not None
    assert TRANSPLANTS.entry("mean").name == "retok"
    assert TRANSPLANTS.entry("retok").card == card("tokenadapt")
    assert TRANSPLANTS.get("mean") is TRANSPLANTS.get("retok")


@pytest.mark.parametrize("kind", ["reducer", "transplant", "tokenizer", "decoder", "recipe"])
def test_one_member_of_what_commands_take_is_the_default(kind: str) -> None:
    assert registry.default(kind) == BROUGHT[kind][0].default
    assert registry.default(kind) in BROUGHT[kind][0].names()


def test_a_kind_without_a_default_says_so() -> None:
    with pytest.raises(TokenryError, match="has to be its default; the cards name none"):
        registry.default("steering")


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_cards_want_the_same_name(kind: str) -> None:
    assert list(registry.catalogued(kind)) == sorted(registry.catalogued(kind))


def test_there_is_no_registry_of_what_cards_do_not_know() -> None:
    with pytest.raises(InputError, match="no kind 'gadget'"):
        Registry("gadget", object)


def test_a_member_that_is_only_planned_is_said_to_be_so() -> None:
    planned = next(c for c in cards(kind="reducer") if c.entry_point is None)
    with pytest.raises(UnknownNameError, match=rf"{planned.slug}' is open: .* no code yet"):
        REDUCERS.get(planned.slug)
