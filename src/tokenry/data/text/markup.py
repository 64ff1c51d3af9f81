"""Text out of marked-up documents: HTML pages, and Bibles in the SWORD project's zText format."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from tokenry.tokens.errors import InputError

_BLOCKS: Final = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "div", "dl", "dt", "figcaption",
        "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "pre", "section", "table", "td", "th", "tr",
        "ul",
    }
)  # fmt: skip
_HIDDEN: Final = frozenset({"head", "script", "style", "nav", "footer", "template", "noscript"})
# What the generators of Debian's documents (DocBook, Publican, Sphinx) call menus and tables of contents (class or id).
_HIDDEN_NAMES: Final = frozenset(
    {
        "banner", "docnav", "footer", "headerlink", "navfooter", "navheader", "related", "sphinxsidebar", "toc",
        "toctree-wrapper",
    }
)  # fmt: skip


def html_text(source: str) -> str:
    """Return the text of an HTML page: one line a paragraph, an empty line between two; no menus, no scripts.

    Args:
        source: The page.
    """
    reader = _HtmlReader()
    reader.feed(source)
    reader.close()
    return reader.text()


class _HtmlReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._paragraphs: list[str] = [""]
        self._hidden_by = ""  # name of the element that hides what is being read
        self._depth = 0  # of elements of that name
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden_by:
            self._depth += tag == self._hidden_by
            return
        given = dict(attrs)
        called = {given.get("id") or "", *(given.get("class") or "").split()}
        if tag in _HIDDEN or called & _HIDDEN_NAMES:
            self._hidden_by, self._depth = tag, 1
        if tag in _BLOCKS:
            self._paragraphs.append("")
        self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._hidden_by:
            self._depth -= tag == self._hidden_by
            if self._depth == 0:
                self._hidden_by = ""
            return
        if tag in _BLOCKS:
            self._paragraphs.append("")
        self._verbatim = max(0, self._verbatim - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._hidden_by:
            self._paragraphs[-1] += data if self._verbatim else re.sub(r"\s+", " ", data)

    def text(self) -> str:
        paragraphs = (re.sub(r"(?m)[ \t]+$", "", paragraph).strip() for paragraph in self._paragraphs)
        return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


_NOTE: Final = re.compile(r"<note\b.*?</note>", re.DOTALL)
_CHAPTER: Final = re.compile(r'<chapter\b[^>]*\bsID="[^"]*"[^>]*/>')
_NEW_LINE: Final = re.compile(r'<(?:div|lg|l|p|lb)\b[^>]*\bsID="[^"]*"[^>]*/>|<title\b[^>]*>|</title>')
_ADDED: Final = re.compile(r"</?transChange[^>]*>")  # words without space to their neighbours
_TAG: Final = re.compile(r"<[^>]*>")
_ENTITIES: Final = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}


def sword_chapters(folder: Path) -> list[str]:
    """Return a Bible's chapters, oldest testament first, as plain text: one line a paragraph, no notes, no numbers.

    Args:
        folder: A SWORD module of type zText with OSIS markup, compressed book by book: `ot.bzs`, `ot.bzz`, `nt.bzs`,
            `nt.bzz`.

    Raises:
        InputError: If the module cannot be read.
    """
    chapters: list[str] = []
    try:
        for testament in ("ot", "nt"):
            data = (folder / f"{testament}.bzz").read_bytes()
            for start, packed, _ in struct.iter_unpack("<3I", (folder / f"{testament}.bzs").read_bytes()):
                book = zlib.decompress(data[start : start + packed]).decode("utf-8")
                # What precedes the first chapter is the book's title.
                chapters += [text for part in _CHAPTER.split(book)[1:] if (text := _osis_text(part))]
    except (OSError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"The Bible in {folder} cannot be read: {error}") from error
    return chapters


def _osis_text(markup: str) -> str:
    text = _NEW_LINE.sub("\n", _ADDED.sub(" ", _NOTE.sub(" ", markup)))
    text = _TAG.sub("", text)
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    lines = (" ".join(line.split()) for line in text.splitlines())
    joined = "\n".join(line for line in lines if line)
    return re.sub(r" ([,.;:!?])", r"\1", joined) + "\n" if joined else ""
