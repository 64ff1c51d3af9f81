"""Configurations: every method and budget goes through JSON text unchanged, and what cannot be read is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.reducers.variants import NONSENSE, settings_of
from tests.laws.strategies import laws
from tokenry.reduce import Reducer, read_methods, reducer, reducers
from tokenry.reduce.base import CONFIG_VERSION
from tokenry.tokens import Budget, TokenryError

METHODS = reducers()
every_method = pytest.mark.parametrize("slug", sorted(METHODS))

counts = st.integers(1, 2**40)
shares = st.floats(0, 1, exclude_min=True)
single = counts | shares
layers = st.integers(0, 200)
depths = st.floats(0, 1, exclude_max=True)


schedules = st.dictionaries(layers, single, min_size=1, max_size=4) | st.dictionaries(
    depths, single, min_size=1, max_size=4
)
ranges = st.tuples(single, single)


@laws
@given(single | ranges | schedules)
def test_a_budget_survives_json_text(value: Any) -> None:
    if isinstance(value, tuple):
        low, high = sorted(value) if type(value[0]) is type(value[1]) else value
        budget = Budget.between(low, high)
    else:
        budget = Budget.of(value)
    again = Budget.from_json(json.loads(json.dumps(budget.to_json())))
    assert again == budget
    assert hash(again) == hash(budget)
    assert Budget.of(budget) is budget


def configured(slug: str) -> list[Reducer]:
    """A method as it is, with each budget form, and with each changed setting."""
    cls = METHODS[slug]
    forms: list[Any] = [7, 0.3, "40%", "2..50%", {0.5: 0.5, 0.75: 9}]
    built = [cls(), *(cls(budget=form) for form in forms)]
    return built + [cls(**changed) for changed in settings_of(cls)]


@every_method
def test_a_method_survives_json_text(slug: str) -> None:
    for original in configured(slug):
        config = json.loads(json.dumps(original.to_json()))
        assert config["method"] == slug
        assert config["version"] == CONFIG_VERSION
        assert type(original).from_json(config) == original
        assert reducer(slug, **{k: v for k, v in config.items() if k != "method"}) == original
        assert read_methods(json.dumps(config)) == (original,)


@every_method
def test_every_setting_is_tried_with_another_value(slug: str) -> None:
    """The settings above are read off the fields; a field of a new type must not go untested."""
    cls = METHODS[slug]
    changed = {name for settings in settings_of(cls) for name in settings}
    assert changed == {f.name for f in dataclasses.fields(cls)} - {"budget"}


@every_method
def test_a_method_is_a_value(slug: str) -> None:
    """Equal settings, equal methods; nobody can change one that is shared."""
    cls = METHODS[slug]
    assert cls() == cls()
    assert hash(cls()) == hash(cls())
    assert cls(budget=3) != cls(budget=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().budget = 3  # type: ignore[misc]


@every_method
def test_what_is_not_its_configuration_is_refused(slug: str) -> None:
    cls = METHODS[slug]
    config = cls().to_json()
    with pytest.raises(TokenryError, match="wibble"):
        cls.from_json(config | {"wibble": 1})
    with pytest.raises(TokenryError, match=f"version {CONFIG_VERSION + 1}"):
        cls.from_json(config | {"version": CONFIG_VERSION + 1})
    with pytest.raises(TokenryError, match="somebody-else"):
        cls.from_json(config | {"method": "somebody-else"})
    with pytest.raises(TokenryError, match=NONSENSE):
        cls.from_json(config | {"positions": NONSENSE})
    with pytest.raises(TokenryError, match="between"):
        cls.from_json(config | {"budget": {"betwixt": [1, 2]}})


@every_method
def test_a_configuration_may_leave_out_what_is_default(slug: str) -> None:
    cls = METHODS[slug]
    assert cls.from_json({}) == cls()
    assert cls.from_json({"method": slug, "budget": 5}) == cls(budget=5)
