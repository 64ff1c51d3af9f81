"""Whatever a results file has become, it is read, and what is made of it is a table and a page, or a sentence."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.bench.reducers import synthetic
from tokenry.bench import as_table
from tokenry.bench import lines as module
from tokenry.bench.reducers.page import render
from tokenry.bench.reducers.results import Failure, read_results
from tokenry.bench.reducers.summary import failed
from tokenry.tokens import TokenryError

FAILURE = Failure(
    synthetic.SETTING, "pool", "50%", 0, "item-1", "question 1", "p", "what?", "ValueError", "Odd."
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The lines of a small comparison: of every kind, with traces and pictures."""
    path = tmp_path_factory.mktemp("whole") / "results.jsonl"
    synthetic.write(path, [*synthetic.lines(2), FAILURE])
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 2, 10**25, 10**400, -1e300, 1e308, 0.5, float("nan"), float("inf"), "", "none",
     "\ud800", "a\0b", "<b>", "25%", [], {}, [1], ["a", "b"], [[1, 2]], {"a": 1}, [None], "x" * 5000]
)  # fmt: skip
JSON = st.recursive(
    ODD | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


BYTES = st.binary(max_size=40).filter(lambda line: bool(line.strip()) and b"\n" not in line)
SETTINGS = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every part of a JSON value; of a long array to its ends."""
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if not isinstance(value, list) or key in (0, len(value) - 1):
            yield from _places(value[key], (*path, key))


def _damage(line: Any, draw: Callable[[Any], Any]) -> None:
    """Put something else in the place of a part of a line, take it away, or put something beside it."""
    *way, last = draw(st.sampled_from(list(_places(line)) or [("more",)]))
    owner = line
    for key in way:
        owner = owner[key]
    match draw(st.sampled_from(["other", "gone", "more"])):
        case "gone" if way or last in line:
            del owner[last]
        case "more" if isinstance(owner, list):
            owner.append(draw(JSON))
        case "more":
            owner["more"] = draw(JSON)
        case _:
            owner[last] = draw(JSON)


def _shown(path: Path) -> None:
    """Everything that is made of a file."""
    with suppress(TokenryError):
        found = read_results(path)
        Console(file=io.StringIO(), width=200).print(as_table(found))
        assert all(str(one) for one in failed(found))
        render(found)


@settings(SETTINGS, max_examples=25)
@given(data=st.data())
def test_a_part_of_a_line_that_is_something_else_breaks_nothing(
    whole: list[Any], tmp_path: Path, data: st.DataObject
) -> None:
    lines = copy.deepcopy(whole)
    kinds = sorted({line["kind"] for line in lines})
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(kinds))
        _damage(
            data.draw(st.sampled_from([line for line in lines if line.get("kind") == kind] or lines)),
            data.draw,
        )
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    _shown(path)


@settings(SETTINGS, max_examples=60)
@given(line=BYTES | JSON.map(lambda value: json.dumps(value).encode()))
@example(line=b"[" * 100_000)
@example(line=b'{"kind":' * 100_000)
@example(line=b'{"kind":"run","format":1,"setting":"5e77","facts":' + b'{"a":' * 900 + b"1" + b"}" * 901)
@example(line=b"9" * 5000)
@example(line=b'{"kind":[],"format":1}')
@example(line=b'{"kind":"refusal","format":true,"setting":"5e77","method":"a","budget":"b","reason":"c"}')
def test_a_line_that_is_none_is_counted(whole: list[Any], tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "results.jsonl"
    good = [json.dumps(one).encode() for one in whole]
    path.write_bytes(b"\n".join([*good[:3], line, *good[3:]]))
    found = read_results(path)
    assert found.skipped == 1
    assert len(found.results) == sum(one["kind"] == "result" for one in whole) - 1  # that of the failure


def test_a_line_too_long_to_be_ours_is_skipped_and_not_held(
    whole: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 10_000)
    path = tmp_path / "results.jsonl"
    good = [json.dumps(one).encode() for one in whole]
    assert max(map(len, good)) < 10_000
    long = json.dumps(whole[-1] | {"reason": "x" * 35_000}).encode()
    path.write_bytes(b"\n".join([*good[:3], long, *good[3:], b"y" * 10_000]))
    found = read_results(path)
    assert found.skipped == 2
    assert len(found.results) == sum(one["kind"] == "result" for one in whole) - 1
