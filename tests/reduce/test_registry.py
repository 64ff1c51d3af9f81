"""Finding methods by name: the catalogue's own, and those of other packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tokenry.catalog import cards, registry
from tokenry.reduce import Reducer, Scorer, read_methods, reducer, reducers
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.tokens import Budget, BudgetError, Positions, TokenryError, TokenView, UnknownNameError

MODULE = "a_package_of_somebody_else"


@dataclass(frozen=True, kw_only=True)
class Loudest(Scorer):
    """Keep the tokens with the largest norm: what a user's own package may hold."""

    slug: ClassVar[str] = "loudest"

    budget: int | float = 2
    order: float = 2.0

    def score(self, view: TokenView) -> Tensor:
        """The norm of each token."""
        return view.features.float().norm(self.order, dim=2)


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Pretend that packages are installed that register methods: ``install(loudest="module:Class")``."""
    module = ModuleType(MODULE)
    module.Loudest, module.not_a_class = Loudest, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)

    def installed(*entries: tuple[str, str]) -> None:
        found = EntryPoints(EntryPoint(name, value, registry.group("reducer")) for name, value in entries)
        monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))

    return installed


# --- the catalogue's own --------------------------------------------------------------------------------------------


def test_every_card_with_an_entry_point_is_a_method_of_that_name_and_stage() -> None:
    ours = {c.slug: c for c in cards() if c.room == "reduce" and c.entry_point is not None}
    assert {"random", "pool", "fastervlm"} <= ours.keys() == reducers().keys()
    assert list(reducers()) == sorted(reducers())
    for slug, cls in reducers().items():
        assert issubclass(cls, Reducer)
        assert cls.slug == slug
        assert cls.stage == (ours[slug].stage or cls.stage)
        assert isinstance(reducer(slug), cls)


def test_settings_reach_the_method() -> None:
    assert reducer("fastervlm", budget=64, layer=-3) == FasterVLM(budget=64, layer=-3)
    assert reducer("divprune", budget="25%").limit == Budget.of(0.25)
    assert reducer("divprune", positions="keep").positions is Positions.KEEP


@pytest.mark.parametrize(
    ("typed", "meant"), [("divprun", "divprune"), ("fastvlm", "fastervlm"), ("rand", "random")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no method '{typed}'. Did you mean '{meant}'"):
        reducer(typed)


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(UnknownNameError, match=r"no method 'xyzzy'. There are aim, .*vtc-cls"):
        reducer("xyzzy")


def test_a_setting_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        TokenryError, match=r"divprune has no setting bugdet; its settings: budget, positions"
    ):
        reducer("divprune", bugdet=64)
    with pytest.raises(TokenryError, match="no field bugdet; it has budget, positions"):
        reducer("divprune", bugdet=64, version=1)


def test_a_setting_of_a_wrong_value_is_refused() -> None:
    with pytest.raises(BudgetError, match="0 tokens"):
        reducer("divprune", budget=0)
    with pytest.raises(TokenryError, match="'keep', 'compact', 'paper', got 'shrink'"):
        reducer("divprune", positions="shrink")


# --- specifications -------------------------------------------------------------------------------------------------


def test_a_specification_is_a_name_a_chain_a_configuration_a_method_or_a_list() -> None:
    divprune, faster = DivPrune(budget=9), FasterVLM(budget=9)
    assert read_methods("divprune", budget=9) == (divprune,)
    assert read_methods("divprune + fastervlm", budget=9) == (divprune, faster)
    assert read_methods(divprune) == (divprune,)
    assert read_methods([divprune, "fastervlm"], budget=9) == (divprune, faster)
    assert read_methods(json.dumps(faster.to_json())) == (faster,)
    assert read_methods(' {"method": "divprune", "budget": 9}') == (divprune,)
    assert read_methods('{"method": "divprune"}', budget=9) == (divprune,)
    assert read_methods([]) == ()


def test_a_list_that_can_be_read_only_once_is_a_specification_too() -> None:
    parts = [DivPrune(budget=3), "fastervlm"]
    assert read_methods(iter(parts), budget=9) == read_methods(parts, budget=9)


def test_settings_for_a_method_that_is_already_configured_are_refused() -> None:
    with pytest.raises(TokenryError, match=r"already configured; budget would be ignored"):
        read_methods(DivPrune(), budget=3)


def test_settings_never_replace_what_a_member_of_a_chain_says_itself() -> None:
    said = '{"method": "divprune", "budget": 9}'
    chain = read_methods([said, FasterVLM(budget=3), "fastv", '{"method": "pool"}'], budget=0.25)
    assert [str(m.limit) for m in chain] == ["9", "3", "25%", "25%"]
    with pytest.raises(TokenryError, match="divprune is already configured; budget would be ignored"):
        read_methods(said, budget=0.25)
    with pytest.raises(TokenryError, match="already configured; budget would be ignored"):
        read_methods([said, FasterVLM()], budget=0.25)


def test_a_setting_goes_to_the_members_of_a_chain_that_have_it() -> None:
    divprune, fastv = read_methods("divprune+fastv", budget=9, layer=3)
    assert (str(divprune.limit), str(fastv.limit), fastv.layer) == ("9", "9", 3)  # type: ignore[attr-defined]
    with pytest.raises(
        TokenryError, match=r"divprune\+fastv takes no setting tau\. Settings: budget, layer, positions"
    ):
        read_methods("divprune+fastv", tau=0.1)


def test_a_list_of_configurations_is_a_chain() -> None:
    chain = read_methods("divprune+fastv", budget=9)
    assert read_methods(json.dumps([member.to_json() for member in chain])) == chain
    assert [m.slug for m in read_methods('["divprune", {"method": "fastv"}]')] == ["divprune", "fastv"]


@pytest.mark.parametrize(
    "text", ["{", '{"budget": 3}', '{"method": "divprune",}', "[5]", '["divprune", {"budget": 3}]', "[[]]"]
)
def test_a_configuration_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(TokenryError, match="A configuration is JSON such as"):
        read_methods(text)


def test_a_chain_with_a_misspelt_link_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'pyramidrop'\. Did you mean 'pyramiddrop'"):
        read_methods("divprune+pyramidrop")


# --- other packages -------------------------------------------------------------------------------------------------


def test_another_package_may_bring_a_method(install: Install) -> None:
    install(("loudest", f"{MODULE}:Loudest"))
    assert reducers()["loudest"] is Loudest
    assert reducer("loudest", budget=1) == Loudest(budget=1)
    assert read_methods("divprune+loudest")[1] == Loudest()
    with pytest.raises(UnknownNameError, match="Did you mean 'loudest'"):
        reducer("loudes")
    x = torch.tensor([[[1.0], [3.0], [2.0]]])
    assert reducer("loudest").apply(TokenView.of(x)).anchor.tolist() == [[1, 2]]
    config = json.loads(json.dumps(Loudest(budget=0.5, order=1.0).to_json()))
    assert read_methods(json.dumps(config)) == (Loudest(budget=0.5, order=1.0),)


def test_extras_of_an_entry_point_are_no_part_of_its_path(install: Install) -> None:
    install(("loudest", f"{MODULE}:Loudest [fast]"))
    assert reducer("loudest") == Loudest()


def test_a_name_of_ours_cannot_be_taken(install: Install) -> None:
    install(("divprune", f"{MODULE}:Loudest"))
    with pytest.raises(
        TokenryError, match=r"'divprune'.*already taken by tokenry\.reduce\.divprune:DivPrune"
    ):
        reducer("random")


def test_two_packages_cannot_share_a_name(install: Install) -> None:
    install(("loudest", f"{MODULE}:Loudest"), ("loudest", "another_package:Loudest"))
    with pytest.raises(TokenryError, match=f"another_package:Loudest.*already taken by {MODULE}:Loudest"):
        reducers()
    install(("loudest", f"{MODULE}:Loudest"), ("loudest", f"{MODULE}:Loudest"))  # found twice on the path
    assert reducer("loudest") == Loudest()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package:Method", "cannot be imported from no_such_package:Method.*Repair or uninstall"),
        (f"{MODULE}:Missing", f"cannot be imported from {MODULE}:Missing"),
        (f"{MODULE}:not_a_class", "is not a Reducer"),
        (f"{MODULE}:Loudest", "is not a Reducer whose slug is 'broken'"),
    ],
)
def test_a_broken_package_is_named(install: Install, path: str, message: str) -> None:
    install(("broken", path))
    with pytest.raises(TokenryError, match=message):
        reducer("broken")
    with pytest.raises(TokenryError, match="'broken'"):
        reducers()
    assert reducer("random").slug == "random"  # the others still work
