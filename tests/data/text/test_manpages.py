"""Manual pages: files, summaries, languages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tokenry.data.packages import Package, PackageUnavailableError
from tokenry.data.text import manpages
from tokenry.data.text.manpages import LANGUAGES, each_manpage, load_manpages, parse_manpage, read_manpage
from tokenry.tokens.errors import InputError, UnknownNameError

PAGE = """.TH CUT 1
.SH BEZEICHNUNG
cut \\- Teile jeder Zeile
ausgeben
.SH BESCHREIBUNG
Gibt Teile aus.
.PP
Mehr dazu.
.SH "SIEHE AUCH"
.BR paste (1)
"""


def test_a_page_has_summary_description_and_text() -> None:
    page = parse_manpage(PAGE, name="cut", section="1")
    assert (page.name, page.section) == ("cut", "1")
    assert page.summary == "Teile jeder Zeile ausgeben"
    assert page.description == "Gibt Teile aus.\n\nMehr dazu."
    assert page.text == (
        "BEZEICHNUNG\n\ncut - Teile jeder Zeile ausgeben\n\nBESCHREIBUNG\n\nGibt Teile aus.\n\nMehr dazu.\n\n"
        "SIEHE AUCH\n\npaste(1)\n"
    )


@pytest.mark.parametrize(
    "title", ["DESCRIPTION", "说明 (DESCRIPTION)", "描述(DESCRIPTION)", "説明", "Description"]
)
def test_the_description_is_found_in_any_language(title: str) -> None:
    page = parse_manpage(f'.SH NAME\nx \\- y\n.SH "{title}"\nthis\n', name="x", section="1")
    assert page.description == "this"


def test_a_page_that_sends_on_has_no_text() -> None:
    assert parse_manpage(".so man1/other.1\n", name="x", section="1") is None


def test_a_file_may_be_compressed_and_old(tmp_path: Path) -> None:
    (tmp_path / "a.b.3x.gz").write_bytes(gzip.compress(b".SH NAME\nna\xefve \\- fa\xe7ade\n"))
    page = read_manpage(tmp_path / "a.b.3x.gz")
    assert (page.name, page.section, page.summary) == ("a.b", "3x", "façade")
    (tmp_path / "broken.1.gz").write_bytes(gzip.compress(b"long enough" * 99)[:-12])
    with pytest.raises(InputError, match=r"broken\.1\.gz cannot be read"):
        read_manpage(tmp_path / "broken.1.gz")


def test_pages_are_sorted_and_links_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "usr/share/man/de"
    for name in ("man3/b.3.gz", "man1/z.1.gz", "man1/a.1.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(PAGE.encode()))
    (folder / "man1/link.1.gz").symlink_to("a.1.gz")
    (folder / "man1/empty.1.gz").write_bytes(gzip.compress(b".so x\n"))
    monkeypatch.setattr(manpages, "fetch", lambda name: Package(name, "1", "0" * 64, tmp_path))
    assert [(page.section, page.name) for page in load_manpages("de")] == [("1", "a"), ("1", "z"), ("3", "b")]


def test_a_page_that_is_not_asked_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "usr/share/man/de/man1"
    folder.mkdir(parents=True)
    (folder / "a.1.gz").write_bytes(gzip.compress(PAGE.encode()))
    (folder / "b.1.gz").write_bytes(gzip.compress(PAGE.encode())[:-12])
    monkeypatch.setattr(manpages, "fetch", lambda name: Package(name, "1", "0" * 64, tmp_path))
    pages = each_manpage("de")
    assert next(pages).name == "a"
    with pytest.raises(InputError, match=r"b\.1\.gz cannot be read"):
        next(pages)


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'tlh'; there are: cs, da, de"):
        load_manpages("tlh")


@pytest.mark.packages
def test_the_real_pages_read_like_text() -> None:
    assert len(LANGUAGES) >= 8
    try:
        pages = load_manpages("pt")
    except PackageUnavailableError as error:
        pytest.skip(f"the real package cannot be had here: {error}")
    assert len(pages) > 80
    assert sum(bool(page.summary) and bool(page.description) for page in pages) > 0.95 * len(pages)
    text = "".join(page.text for page in pages if page.name != "man")  # man(7) is about the macros
    assert " de " in text
    assert not any(mark in text for mark in ("\\fB", "\\fP", "\\(aq", "\n.PP", "\n.B "))
