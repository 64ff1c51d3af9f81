"""HTML pages and Bibles as text."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from tokenry.data.text.markup import html_text, sword_chapters
from tokenry.tokens.errors import InputError


def test_html_becomes_paragraphs() -> None:
    source = (
        "<html><head><title>no</title><style>p {}</style></head><body><nav>menu <nav>of</nav> things</nav>"
        '<div class="a toc"><div>inner</div>also no</div><div id="banner">no</div><h1>Title</h1>'
        "<p>One &amp; <em>two</em>\n three&nbsp;&eacute;.</p><ul><li>item<li>other</ul>"
        "<pre>a\n  b  \n</pre><script>no()</script>after</body></html>"
    )
    assert html_text(source) == "Title\n\nOne & two three é.\n\nitem\n\nother\n\na\n  b\n\nafter\n"


def _module(folder: Path, ot: list[str], nt: list[str]) -> None:
    for name, books in (("ot", ot), ("nt", nt)):
        data, index = b"", b""
        for book in books:
            packed = zlib.compress(book.encode())
            index += struct.pack("<3I", len(data), len(packed), len(book.encode()))
            data += packed
        (folder / f"{name}.bzz").write_bytes(data)
        (folder / f"{name}.bzs").write_bytes(index)


def test_bibles_become_chapters(tmp_path: Path) -> None:
    genesis = (
        '<div type="book"/><title>Genesis</title><chapter n="1" osisID="Gen.1" sID="Gen.1"/><w lemma="H1">In the</w> '
        '<w>beginning</w>,<note n="1">a <hi>note</hi></note> God. <div sID="g1" type="x-p"/>And &amp; then<chapter '
        'eID="Gen.1" osisID="Gen.1"/><chapter n="2" osisID="Gen.2" sID="Gen.2"/><w>siervos</w><transChange>miran'
        "</transChange>, así"
    )
    _module(tmp_path, [genesis], ['<chapter n="1" osisID="Matt.1" sID="Matt.1"/>The book'])
    assert sword_chapters(tmp_path) == [
        "In the beginning, God.\nAnd & then\n",
        "siervos miran, así\n",
        "The book\n",
    ]


def test_a_damaged_bible_is_named(tmp_path: Path) -> None:
    _module(tmp_path, ["x"], ["y"])
    (tmp_path / "ot.bzz").write_bytes(b"not compressed")
    with pytest.raises(InputError, match="cannot be read"):
        sword_chapters(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        sword_chapters(tmp_path / "nowhere")
