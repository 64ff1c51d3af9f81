"""Manual pages in two dozen languages: Debian's `manpages` packages as text."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tokenry.data.debian import fetch
from tokenry.data.packages import Provenance
from tokenry.data.text.roff import ManSection, read_sections
from tokenry.tokens.errors import InputError, UnknownNameError

_L10N: Final = ("https://manpages-l10n-team.pages.debian.net/manpages-l10n/", "GPL-3.0-or-later")
_LINUX: Final = (
    "https://www.kernel.org/doc/man-pages/",
    "Linux-man-pages-copyleft AND GPL-2.0-or-later AND BSD-3-Clause",
)
_TRANSLATED: Final = (
    "cs", "da", "de", "el", "es", "fi", "fr", "hu", "id", "it", "mk", "nb", "nl", "pl", "ro", "ru", "sr", "sv", "uk",
    "vi",
)  # fmt: skip
# language -> (folder under man/, packages, (source, licence of most pages))
_EDITIONS: Final = MappingProxyType(
    {
        "en": ("", ("manpages", "manpages-dev"), _LINUX),
        **{
            language: (language, (f"manpages-{language}",), _L10N)
            for language in _TRANSLATED
        },
        "pt": ("pt_BR", ("manpages-pt-br",), _L10N),
        "ja": ("ja", ("manpages-ja",), ("https://linuxjm.osdn.jp/", "LicenseRef-as-the-original-page")),
        "tr": ("tr", ("manpages-tr",), ("https://github.com/TLBP/manpages-tr", "GPL-2.0-or-later")),
        "zh": ("zh_CN", ("manpages-zh",), ("https://github.com/man-pages-zh/manpages-zh", "GFDL-1.2-or-later")),
    }
)  # fmt: skip

LANGUAGES: Final = tuple(sorted(_EDITIONS))

_DESCRIPTION: Final = frozenset(
    {
        "DESCRIPTION", "BESCHREIBUNG", "BESCHRIJVING", "BESKRIVELSE", "BESKRIVNING", "DESCRIERE", "DESCRIPCIÓN",
        "DESCRIZIONE", "DESCRIÇÃO", "DESKRIPSI", "KUVAUS", "LEÍRÁS", "MÔ TẢ", "OPIS", "POPIS", "ΠΕΡΙΓΡΑΦΉ", "ΠΕΡΙΓΡΑΦΗ",
        "ОПИС", "ОПИСАНИЕ", "AÇIKLAMA", "説明", "描述", "描 述", "解説",
    }
)  # fmt: skip


@dataclass(frozen=True)
class ManPage:
    """One page.

    Attributes:
        name: Name of the file: "ls", "printf".
        section: Section of the manual: "1", "3", "7".
        summary: What the first section (NAME) says after the dash; "" if it says nothing.
        description: The section DESCRIPTION; "" if there is none under a name we know.
        text: The whole page: headings on lines of their own, an empty line between paragraphs.
    """

    name: str
    section: str
    summary: str
    description: str
    text: str


def load_manpages(language: str = "en") -> tuple[ManPage, ...]:
    """Load a language's pages, sorted by section and name, fetching Debian's packages the first time.

    Links between pages, pages that only send the reader on (`.so`) and pages in mdoc(7) are left out.

    Args:
        language: One of `LANGUAGES`; "pt" is Brazilian Portuguese, "zh" is Chinese in simplified characters.

    Raises:
        UnknownNameError: If there are no pages in that language.
        PackageUnavailableError: If a package cannot be had here.
    """
    return tuple(each_manpage(language))


def each_manpage(language: str = "en") -> Iterator[ManPage]:
    """Hand out the pages of `load_manpages` one by one, in its order; a page is read when it is asked for."""
    folder, packages, _ = _edition(language)
    roots = [fetch(name).root / "usr/share/man" / folder for name in packages]
    files = [path for root in roots for path in root.glob("man*/*.gz") if not path.is_symlink()]
    for path in sorted(files, key=_section_and_name):
        if (page := read_manpage(path)) is not None:
            yield page


def manpages_provenance(language: str) -> tuple[Provenance, ...]:
    """Say where a language's pages come from, package by package."""
    _, packages, (source, licence) = _edition(language)
    return tuple(fetch(name).provenance(licence=licence, source=source) for name in packages)


def _edition(language: str) -> tuple[str, tuple[str, ...], tuple[str, str]]:
    if language not in _EDITIONS:
        raise UnknownNameError(f"No manual pages in {language!r}; there are: {', '.join(LANGUAGES)}")
    return _EDITIONS[language]


def read_manpage(path: Path) -> ManPage | None:
    """Read one file of a manual (gzipped or not); None if it holds no text of its own.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise InputError(f"Manual page {path} cannot be read: {error}") from error
    try:
        source = data.decode("utf-8")
    except UnicodeDecodeError:
        source = data.decode("latin-1")  # what pages were written in before UTF-8
    section, name = _section_and_name(path)
    return parse_manpage(source, name=name, section=section)


def _section_and_name(path: Path) -> tuple[str, str]:
    name, _, section = path.name.removesuffix(".gz").rpartition(".")
    return section, name


def parse_manpage(source: str, *, name: str, section: str) -> ManPage | None:
    """Turn a page's source into text; None if it holds none of its own."""
    sections = [part for part in read_sections(source) if part.paragraphs]
    if not sections:
        return None
    described = next((part for part in sections if _is_description(part.title)), None)
    return ManPage(
        name=name,
        section=section,
        summary=_summary(sections[0]),
        description="" if described is None else "\n\n".join(described.paragraphs),
        text="\n\n".join("\n\n".join((part.title, *part.paragraphs)).strip() for part in sections) + "\n",
    )


def _is_description(title: str) -> bool:
    title = title.upper()
    return title in _DESCRIPTION or any(word in _DESCRIPTION for word in re.split(r"[^\w]+", title))


def _summary(section: ManSection) -> str:
    found = re.search(r"\s[-–—−]+\s+(.+)", " ".join(section.paragraphs).replace("\n", " "))
    return found[1].strip() if found else ""
