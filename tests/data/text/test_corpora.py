"""Corpora: documents, splits, files of the user's, and what comes out of packages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tokenry.data.packages import PackageUnavailableError
from tokenry.data.text import corpora
from tokenry.data.text.corpora import Corpus, corpus_names, load_corpus, read_corpus, without_page_breaks
from tokenry.tokens.errors import InputError, UnknownNameError

# --- a corpus ---------------------------------------------------------------------------------------------------------


def test_a_corpus_counts_bytes_and_cuts_between_characters() -> None:
    corpus = Corpus("x", "pt", ("maçã", "b"))
    assert corpus.n_bytes == 7
    assert corpus.text() == "maçã\n\nb"
    assert corpus.text(3) == "ma"


def test_splits_are_by_document_and_repeatable() -> None:
    corpus = Corpus("x", "en", tuple(str(index) for index in range(50)))
    train, test = corpus.split(0.1, seed=3)
    assert (len(train.documents), len(test.documents)) == (45, 5)
    assert sorted(train.documents + test.documents, key=int) == list(corpus.documents)
    assert list(train.documents) == sorted(train.documents, key=int)
    assert corpus.split(0.1, seed=3) == (train, test)
    assert corpus.split(0.1, seed=4)[1] != test
    assert len(corpus.split(0.001)[1].documents) == 1
    assert len(corpus.split(0.999)[0].documents) == 1


@pytest.mark.parametrize(
    ("documents", "held_out", "message"),
    [
        (("a",), 0.5, "one document"),
        (("a", "b"), 0.0, "between 0 and 1"),
        (("a", "b"), 1.0, "between 0 and 1"),
    ],
)
def test_what_cannot_be_split(documents: tuple[str, ...], held_out: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Corpus("x", "en", documents).split(held_out)


# --- files of the user's ----------------------------------------------------------------------------------------------


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.txt").write_text("second é")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst")
    (tmp_path / "c.md.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "blank.txt").write_text(" \n")
    other = tmp_path / "named.log"
    other.write_text("named")
    assert read_corpus(tmp_path).documents == ("first", "packed", "second é")
    assert read_corpus([other, str(tmp_path / "sub")]).documents == ("named", "second é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\0c", r"bad\.txt holds a NUL at byte 2.*errors=.replace"),
        (b"ab\xff", r"bad\.txt is not UTF-8: byte 0xff at 2.*errors=.replace"),
        (b"caf\xc3", r"byte 0xc3 at 3"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_corpus(tmp_path)


def test_what_is_no_text_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"a\0b\xff")
    assert read_corpus(tmp_path, errors="replace").documents == ("ab�",)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus is empty: no files in .*\.txt, \.md"):
        read_corpus(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(InputError, match="corpus is empty: 1 file in"):
        read_corpus(tmp_path)
    with pytest.raises(InputError, match=r"corpus is empty: there is no text in .*a\.txt$"):
        read_corpus(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no file or folder was given"):
        read_corpus([])
    with pytest.raises(InputError, match="no file or folder"):
        read_corpus(tmp_path / "nowhere")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"not packed")
    with pytest.raises(InputError, match=r"a\.txt\.gz cannot be read"):
        read_corpus(tmp_path)


# --- loaders ----------------------------------------------------------------------------------------------------------


def test_there_are_corpora_in_many_languages() -> None:
    names = corpus_names()
    assert len([name for name in names if name.startswith("manpages/")]) >= 8
    assert {"bible", "bible/es", "debian-docs", "debian-docs/pt", "licences", "python", "rfc"} <= set(names)
    with pytest.raises(UnknownNameError, match=r"No corpus 'novels'; there are: bible, "):
        load_corpus("novels")


def test_the_standard_library_is_a_corpus() -> None:
    corpus = load_corpus("python", limit=50_000)
    assert corpus == load_corpus("python", limit=50_000)
    assert 0 < corpus.n_bytes <= 50_000
    assert corpus.language == "python"
    assert any("def " in document for document in corpus.documents)
    assert load_corpus("python", limit=10).n_bytes == 10


def test_paragraphs_are_taken_once() -> None:
    licence = "This page is free documentation; see the licence for what you may do."
    first, second = corpora._without_repeats([f"A\n\n{licence}\n", f"B\n\n{licence}\n\nA\n"])
    assert (first, second) == (f"A\n\n{licence}\n", "B\n\nA\n")


def test_pages_of_an_rfc_are_joined() -> None:
    page = (
        "RFC 9999                Toys               May 2030\n\n\nfirst part\n   of it\n\n\n\n"
        "Bear                  Informational                    [Page 1]\n\f\n"
        "RFC 9999                Toys               May 2030\n\n\n   second part\n"
    )
    assert without_page_breaks(page).endswith("first part\n   of it\n\n   second part\n")


def test_rfcs_say_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> None:
        raise PackageUnavailableError(f"`apt-get` cannot get {name}")

    monkeypatch.setattr(corpora, "fetch", fetch)
    with pytest.raises(PackageUnavailableError, match=r"doc-rfc-std.*non-free"):
        load_corpus("rfc")


@pytest.mark.packages
@pytest.mark.parametrize(
    ("name", "language", "documents", "n_bytes", "word"),
    [
        ("manpages/pt", "pt", 80, 400_000, "arquivo"),
        ("bible", "en", 1189, 4_000_000, "beginning"),
        ("bible/es", "es", 1189, 3_500_000, "principio"),
        ("licences", "en", 600, 2_000_000, "warranty"),
    ],
)
def test_real_corpora(name: str, language: str, documents: int, n_bytes: int, word: str) -> None:
    try:
        corpus = load_corpus(name)
    except PackageUnavailableError as error:
        pytest.skip(f"the real package cannot be had here: {error}")
    assert corpus.language == language
    assert len(corpus.documents) >= documents
    assert corpus.n_bytes > n_bytes
    assert word in corpus.text()
    assert all(document.strip() for document in corpus.documents)
    assert corpus.provenance[0].licence
    assert len(corpus.provenance[0].sha256) == 64
    short = load_corpus(name, limit=10_000)
    assert 0 < short.n_bytes <= 10_000
    assert corpus.text().startswith(short.text().rstrip())
