"""Tasks on real Python functions: bugs of five kinds, put in at one place each, and the functions without them.

The tasks of *Learning and Evaluating Contextual Embedding of Source Code* (CuBERT, arXiv 2001.00059), made from any
Python source: variable misuse (also where it is, and what would repair it), wrong operator, swapped operands,
docstring of another function, and which exception an `except` catches.

A function is taken in the one layout that `ast.unparse` gives it, without its docstring, so that a bug is one changed
place and nothing else.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

HOLE: Final = "__HOLE__"  # what stands where an exception's name was

_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_MEMBERSHIP = (ast.In, ast.NotIn)
_IDENTITY = (ast.Is, ast.IsNot)
_BOOLEAN = (ast.And, ast.Or)
_BITS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)
_FAMILIES = (_COMPARISONS, _ARITHMETIC, _MEMBERSHIP, _IDENTITY, _BOOLEAN, _BITS)
_ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.RShift, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
            ast.In, ast.NotIn)  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A function of a source file.

    Attributes:
        path: the file it is from: what training and test sets are divided by.
        name: its name.
        code: its source as `ast.unparse` writes it, without docstring.
        docstring: its docstring, if it has one.
    """

    path: str
    name: str
    code: str
    docstring: str | None


@dataclass(frozen=True)
class CodeExample:
    """A function to be classified.

    Attributes:
        function: where it is from.
        code: the text to classify.
        label: 1 where there is a bug (for exceptions: the class, an index into the task's names).
        second: a second segment (the docstring), where the task has one.
    """

    function: Function
    code: str
    label: int
    second: str | None = None


@dataclass(frozen=True)
class Misuse(CodeExample):
    """A function in which one variable may stand in the place of another.

    Places are (line, column) of a name in `code`, from 1 and from 0, in characters, as a lexer gives them.

    Attributes:
        place: of the wrong variable; None where there is no bug.
        repairs: where the right variable stands elsewhere in the function.
        variables: where any variable stands, the wrong place included.
    """

    place: tuple[int, int] | None = None
    repairs: tuple[tuple[int, int], ...] = ()
    variables: tuple[tuple[int, int], ...] = ()


def functions(
    source: str, path: str = "<string>", *, lines: tuple[int, int] = (3, 40)
) -> tuple[Function, ...]:
    """All functions of a source file, nested ones inside the outer one only.

    Args:
        source: Python source; what does not parse has no functions.
        path: its name.
        lines: least and greatest number of lines, without docstring.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    found = []
    for node in _outermost(tree):
        docstring = ast.get_docstring(node)
        if docstring is not None:
            node.body = node.body[1:] or [ast.Pass()]
        try:
            code = ast.unparse(node)
        except RecursionError:
            continue
        if lines[0] <= code.count("\n") + 1 <= lines[1]:
            found.append(Function(path, node.name, code, docstring))
    return tuple(found)


def _outermost(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
        else:
            yield from _outermost(child)


# --------------------------------------------------------------------------------------------------- the tasks


def variable_misuse(function: Function, seed: int, *, bug: bool = True) -> Misuse | None:
    """Put one variable in the place of another, or leave the function as it is.

    A use is replaced by another variable of the same function, such that the right one stands somewhere else as well.

    Args:
        function: from `functions`.
        seed: decides which use and which variable.
        bug: whether to put one in.

    Returns:
        The example; None for a function with fewer than two variables, or no use that qualifies.
    """
    tree = ast.parse(function.code)
    names = _variables(tree)
    places = [
        node for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.arg)) and _name(node) in names
    ]
    uses = [
        node
        for node in places
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and sum(_name(other) == node.id for other in places) > 1
    ]
    if len(names) < 2 or not uses:
        return None
    lines = function.code.split("\n")
    if not bug:
        return Misuse(function, function.code, 0, variables=tuple(sorted(_place(n, lines) for n in places)))
    rng = random.Random(seed)
    use = rng.choice(uses)
    wrong = rng.choice(sorted(names - {use.id}))
    line, column = _place(use, lines)
    right = lines[line - 1]
    lines[line - 1] = right[:column] + wrong + right[column + len(use.id) :]
    shift = len(wrong) - len(use.id)

    def moved(node: ast.Name | ast.arg) -> tuple[int, int]:
        at = _place(node, function.code.split("\n"))
        return (at[0], at[1] + shift) if at[0] == line and at[1] > column else at

    return Misuse(
        function,
        "\n".join(lines),
        1,
        place=(line, column),
        repairs=tuple(sorted(moved(n) for n in places if n is not use and _name(n) == use.id)),
        variables=tuple(sorted(moved(n) for n in places)),
    )


def wrong_operator(function: Function, seed: int, *, bug: bool = True) -> CodeExample | None:
    """Replace one binary operator by another of its family (comparison, arithmetic, membership ...), or none.

    Args, Returns: as of `variable_misuse`; None for a function without binary operators.
    """

    def change(node: ast.AST, rng: random.Random) -> None:
        old = _operator(node)
        family = next(f for f in _FAMILIES if isinstance(old, f))
        _set_operator(node, rng.choice([kind for kind in family if not isinstance(old, kind)])())

    return _edited(function, seed, bug, lambda node: _operator(node) is not None, change)


def swapped_operands(function: Function, seed: int, *, bug: bool = True) -> CodeExample | None:
    """Exchange the two sides of one operator whose sides may not be exchanged, or of none.

    Args, Returns: as of `variable_misuse`; None for a function without such operators.
    """

    def applies(node: ast.AST) -> bool:
        old = node.op if isinstance(node, ast.BinOp) else _operator(node)
        if not isinstance(old, _ORDERED):
            return False
        left, right = _sides(node)
        return ast.dump(left) != ast.dump(right)

    def change(node: ast.AST, rng: random.Random) -> None:
        if isinstance(node, ast.BinOp):
            node.left, node.right = node.right, node.left
        elif isinstance(node, ast.Compare):
            node.left, node.comparators[0] = node.comparators[0], node.left

    return _edited(function, seed, bug, applies, change)


def docstring_mismatch(
    function: Function, others: Sequence[Function], seed: int, *, bug: bool = True
) -> CodeExample | None:
    """A function with its docstring, or with that of another function.

    Args:
        function: from `functions`.
        others: where to take the wrong docstring from.
        seed: decides which.
        bug: whether to take a wrong one.

    Returns:
        The example with the docstring as its second segment; None for a function without docstring, or if no other
        function has a different one.
    """
    if function.docstring is None:
        return None
    if not bug:
        return CodeExample(function, function.code, 0, function.docstring)
    choices = sorted({o.docstring for o in others if o.docstring is not None} - {function.docstring})
    if not choices:
        return None
    return CodeExample(function, function.code, 1, random.Random(seed).choice(choices))


def exception_type(function: Function, names: Sequence[str], seed: int) -> CodeExample | None:
    """Replace the name of one caught exception by ``__HOLE__``; which one it was is the label.

    Args:
        function: from `functions`.
        names: the classes; CuBERT has the 20 most frequent ones.
        seed: decides which `except`, if there are several.

    Returns:
        The example; None for a function that catches none of these.
    """
    tree = ast.parse(function.code)
    caught = [
        handler.type
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler)
        and isinstance(handler.type, ast.Name)
        and handler.type.id in names
    ]
    if not caught:
        return None
    chosen = random.Random(seed).choice(caught)
    label = list(names).index(chosen.id)
    chosen.id = HOLE
    return CodeExample(function, ast.unparse(tree), label)


TASKS: Final = MappingProxyType(
    {
        "variable-misuse": variable_misuse,
        "wrong-operator": wrong_operator,
        "swapped-operands": swapped_operands,
    }
)
"""The tasks that are one function and a bug or none, by name."""


# ------------------------------------------------------------------------------------------------------ parts


def _edited(
    function: Function,
    seed: int,
    bug: bool,
    applies: Callable[[ast.AST], bool],
    change: Callable[[ast.AST, random.Random], None],
) -> CodeExample | None:
    """Change one of the nodes that a change applies to, so that the text really differs."""
    tree = ast.parse(function.code)
    sites = [i for i, node in enumerate(ast.walk(tree)) if applies(node)]
    if not sites:
        return None
    if not bug:
        return CodeExample(function, function.code, 0)
    rng = random.Random(seed)
    for site in rng.sample(sites, len(sites)):
        edited = copy.deepcopy(tree)
        change(list(ast.walk(edited))[site], rng)
        code = ast.unparse(edited)
        if code != function.code:
            return CodeExample(function, code, 1)
    return None


def _variables(tree: ast.AST) -> set[str]:
    """Names that a function binds: its arguments and what it assigns to."""
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    elsewhere = {
        name for n in ast.walk(tree) if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names
    }
    return (stored | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}) - elsewhere


def _name(node: ast.Name | ast.arg) -> str:
    return node.id if isinstance(node, ast.Name) else node.arg


def _place(node: ast.Name | ast.arg, lines: Sequence[str]) -> tuple[int, int]:
    """Line and column in characters; ast counts UTF-8 bytes."""
    line = lines[node.lineno - 1]
    return node.lineno, len(line.encode()[: node.col_offset].decode())


def _operator(node: ast.AST) -> ast.AST | None:
    """The operator of an expression with one operator that belongs to a family."""
    if isinstance(node, ast.Compare):
        found: ast.AST | None = node.ops[0] if len(node.ops) == 1 else None
    else:
        found = node.op if isinstance(node, (ast.BinOp, ast.BoolOp)) else None
    return found if any(isinstance(found, family) for family in _FAMILIES) else None


def _set_operator(node: ast.AST, operator: ast.AST) -> None:
    if isinstance(node, ast.Compare) and isinstance(operator, ast.cmpop):
        node.ops = [operator]
    elif (isinstance(node, ast.BinOp) and isinstance(operator, ast.operator)) or (
        isinstance(node, ast.BoolOp) and isinstance(operator, ast.boolop)
    ):
        node.op = operator


def _sides(node: ast.AST) -> tuple[ast.AST, ast.AST]:
    if isinstance(node, ast.BinOp):
        return node.left, node.right
    assert isinstance(node, ast.Compare)  # the only other expression with an ordered operator
    return node.left, node.comparators[0]
