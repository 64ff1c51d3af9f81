"""One system, one home: where the code of each is, and that nothing elsewhere knows it by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenry
from tokenry.catalog import Card, cards

SOURCES = Path(tokenry.__file__).parent
HOMES = [card for card in cards() if card.entry_point is not None]
WORDS = {
    "read", "core", "seed", "align", "lib", "random", "flash", "zero", "identity", "embedded", "language", "pretrain",
}  # fmt: skip
"""Names that are common words: they mean a system only where a registry, or the catalogue, is asked."""
DOORS = {
    "make", "entry", "settings", "info", "card", "reducer", "reduced", "read_methods", "fill_in", "transplant",
    "transplant_method", "train", "decoder", "generate",
}  # fmt: skip
"""Functions that take a system's name; `get` is one where a registry is asked, or tokenry itself."""


def _module(card: Card) -> str:
    assert card.entry_point is not None
    return card.entry_point.partition(":")[0]


@pytest.mark.parametrize("card", HOMES, ids=lambda card: card.slug)
def test_a_home_is_called_like_its_system(card: Card) -> None:
    assert _module(card).rpartition(".")[2] == card.slug.replace("-", "_")


def test_no_home_is_inside_another() -> None:
    homes = sorted(f"{_module(card)}." for card in HOMES)
    assert not [(a, b) for a in homes for b in homes if a != b and b.startswith(a)]


# ------------------------------------------------------------------------------------------------------ slugs as names


def docstrings(tree: ast.Module) -> set[ast.expr]:
    """Texts that stand alone as a statement: docstrings of modules, classes, functions and attributes."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def arguments(tree: ast.Module) -> set[ast.expr]:
    """What is handed to a function that takes a system's name."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        one
        for call in calls
        if _is_a_door(ast.unparse(call.func))
        for one in (*call.args, *(keyword.value for keyword in call.keywords))
    }


def _is_a_door(function: str) -> bool:
    owner, _, name = function.rpartition(".")
    return name in DOORS or (name == "get" and (owner.isupper() or owner in ("", "tk", "tokenry", "catalog")))


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Line and slug of every text in Python code that is a slug and nothing else."""
    tree = ast.parse(source)
    told, asked = docstrings(tree), arguments(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or node in told:
            continue
        slug = node.value.replace("_", "-")
        if slug in SLUGS and (slug not in WORDS or node in asked):
            yield node.lineno, slug


SLUGS = {card.slug for card in cards()} | {variant.name for card in cards() for variant in card.variants}


def _is_at_home(path: Path, slug: str) -> bool:
    """Whether a file belongs to the system, or to the variant of a system, of that slug."""
    paths = [c.entry_point for c in cards() if c.slug == slug and c.entry_point]
    paths += [v.entry_point for c in cards() for v in c.variants if v.name == slug]
    homes = [SOURCES.joinpath(*one.partition(":")[0].split(".")[1:]) for one in paths]
    return any(home in path.parents or home.with_suffix(".py") == path for home in homes)


def test_slugs_are_found_where_they_are_names_and_only_there() -> None:
    code = "\n".join(
        (
            '"""divprune"""',
            'x = "divprune"',
            'y = options["seed"], options.get("seed"), TRAINERS.get("seed"), f(method="a divprune")',
            'z: str = "kl3m"',
        )
    )
    assert sorted(literals(code)) == [(2, "divprune"), (3, "seed"), (4, "kl3m")]


def test_no_code_outside_its_home_knows_a_system_by_name() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{line}: {slug}"
        for path in sorted(SOURCES.rglob("*.py"))
        for line, slug in literals(path.read_text(encoding="utf-8"))
        if not _is_at_home(path, slug)
    ]
    assert not found, "ask the registry, or a property, instead:\n" + "\n".join(found)
