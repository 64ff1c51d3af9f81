"""Bugs that are put into real functions: one place each, and the code still parses."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from tokenry.data.text import code_tasks
from tokenry.data.text.code_tasks import (
    Function,
    docstring_mismatch,
    exception_type,
    functions,
    variable_misuse,
)

SOURCES = [Path(textwrap.__file__), Path(ast.__file__), Path(textwrap.__file__).with_name("shutil.py")]
REAL = [f for path in SOURCES for f in functions(path.read_text(encoding="utf-8"), path.name)][::2]

CODE = '''
class Box:
    def grow(self, width, é):
        """Make it larger."""
        total = width + é
        if total < width:
            total = é - width
        return total
'''
(GROW,) = functions(CODE, "box.py")


def test_functions_are_taken_out_of_a_file() -> None:
    assert GROW.name == "grow"
    assert GROW.path == "box.py"
    assert GROW.docstring == "Make it larger."
    assert GROW.code.startswith("def grow(self, width, é):\n    total = width + é")
    assert functions("def broken(:") == ()
    assert functions(CODE, lines=(20, 40)) == ()
    assert len(REAL) > 50


def changed(before: str, after: str) -> int:
    """Number of places at which two programs differ."""
    kinds = (ast.Name, ast.cmpop, ast.operator, ast.boolop)
    a, b = (
        [ast.dump(n) for n in ast.walk(ast.parse(code)) if isinstance(n, kinds)] for code in (before, after)
    )
    return sum(x != y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", sorted(code_tasks.TASKS))
def test_a_bug_is_one_place_and_parses(name: str) -> None:
    task = code_tasks.TASKS[name]
    made = 0
    for function in [GROW, *REAL]:
        bugged, clean = task(function, 1), task(function, 1, bug=False)
        if bugged is None:
            continue
        assert clean is not None
        assert (clean.label, clean.code) == (0, function.code)
        assert bugged.label == 1
        assert bugged.code != function.code
        ast.parse(bugged.code)
        if name != "swapped-operands":
            assert changed(function.code, bugged.code) == 1
        assert task(function, 1) == bugged
        made += 1
    assert made > 12


def test_swapping_exchanges_two_sides() -> None:
    function = Function("f.py", "f", "def f(a, b):\n    return a - b * 2", None)
    swapped = code_tasks.swapped_operands(function, 0)
    assert swapped is not None
    assert swapped.code == "def f(a, b):\n    return b * 2 - a"
    assert code_tasks.swapped_operands(Function("f.py", "f", "def f(a):\n    return a - a", None), 0) is None
    assert (
        code_tasks.swapped_operands(Function("f.py", "f", "def f(a, b):\n    return a + b", None), 0) is None
    )


def test_an_operator_stays_in_its_family() -> None:
    function = Function("f.py", "f", "def f(a, b):\n    return a < b", None)
    found = {code_tasks.wrong_operator(function, seed).code[-5:] for seed in range(40)}
    assert found == {"a > b", " <= b", " >= b", " == b", " != b"} - {"a < b"}


def names_at(code: str, places: tuple[tuple[int, int], ...]) -> list[str]:
    lines = code.split("\n")
    found = []
    for line, column in places:
        rest = lines[line - 1][column:]
        found.append(next(rest[:n] for n in range(len(rest), 0, -1) if rest[:n].isidentifier()))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_places_of_a_misuse(seed: int) -> None:
    made = 0
    for function in [GROW, *REAL]:
        found = variable_misuse(function, seed)
        if found is None:
            continue
        made += 1
        assert found.place is not None
        (wrong,) = names_at(found.code, (found.place,))
        repairs = set(names_at(found.code, found.repairs))
        assert len(repairs) == 1
        (right,) = repairs
        assert wrong != right
        assert found.place in found.variables
        assert set(found.repairs) < set(found.variables)
        # Putting the right variable there gives the function back.
        line, column = found.place
        lines = found.code.split("\n")
        lines[line - 1] = lines[line - 1][:column] + right + lines[line - 1][column + len(wrong) :]
        assert "\n".join(lines) == function.code
    assert made > 20


def test_a_clean_function_has_variables_and_no_place() -> None:
    clean = variable_misuse(GROW, 0, bug=False)
    assert clean is not None
    assert clean.place is None
    assert clean.repairs == ()
    assert set(names_at(clean.code, clean.variables)) == {"self", "width", "é", "total"}
    assert variable_misuse(Function("f.py", "f", "def f(a):\n    return 1", None), 0) is None


def test_docstrings_of_others() -> None:
    others = (Function("g.py", "g", "def g(): pass", "Something else."), GROW)
    found = docstring_mismatch(GROW, others, 0)
    assert found is not None
    assert (found.label, found.second) == (1, "Something else.")
    clean = docstring_mismatch(GROW, others, 0, bug=False)
    assert clean is not None
    assert (clean.label, clean.second) == (0, "Make it larger.")
    assert docstring_mismatch(GROW, (GROW,), 0) is None
    assert docstring_mismatch(Function("f.py", "f", "def f(): pass", None), others, 0) is None


def test_which_exception() -> None:
    function = Function(
        "f.py", "f", "def f(a):\n    try:\n        a()\n    except KeyError:\n        pass", None
    )
    found = exception_type(function, ("ValueError", "KeyError"), 0)
    assert found is not None
    assert found.label == 1
    assert "except __HOLE__:" in found.code
    assert "KeyError" not in found.code
    assert exception_type(function, ("ValueError",), 0) is None
