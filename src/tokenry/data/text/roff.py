"""Manual pages' markup (roff with the macros of man(7)) as readable text.

This is a stripper for reading, not a formatter: fonts, indents and tables are dropped, one paragraph becomes one line.
Pages of the BSD macro set, mdoc(7), are not understood and give no text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

_CHARACTERS: Final = MappingProxyType(
    # Special characters of groff_char(7) that manual pages use: \(xx or \[xx].
    {
        "aq": "'", "cq": "’", "oq": "‘", "dq": '"', "lq": "“", "rq": "”", "Bq": "„", "bq": "‚", "Fo": "«", "Fc": "»",
        "fo": "‹", "fc": "›", "ga": "`", "aa": "´", "ha": "^", "ti": "~", "rs": "\\", "sl": "/", "ba": "|", "bb": "¦",
        "lA": "⇐", "rA": "⇒", "hA": "⇔", "<-": "←", "->": "→", "<>": "↔", "ua": "↑", "da": "↓", "em": "—", "en": "–",
        "hy": "-", "mi": "−", "pl": "+", "eq": "=", "mu": "×", "di": "÷", "+-": "±", "<=": "≤", ">=": "≥", "!=": "≠",
        "==": "≡", "~=": "≅", "~~": "≈", "ap": "∼", "if": "∞", "bu": "•", "ci": "○", "sq": "□", "dg": "†", "dd": "‡",
        "sc": "§", "ps": "¶", "de": "°", "co": "©", "rg": "®", "tm": "™", "lB": "[", "rB": "]", "lC": "{", "rC": "}",
        "la": "⟨", "ra": "⟩", "at": "@", "sh": "#", "Do": "$", "Eu": "€", "eu": "€", "Po": "£", "Ye": "¥", "ct": "¢",
        "12": "½", "14": "¼", "34": "¾", "S1": "¹", "S2": "²", "S3": "³", "ss": "ß", "AE": "Æ", "ae": "æ", "OE": "Œ",
        "oe": "œ", "/O": "Ø", "/o": "ø", "oA": "Å", "oa": "å", "-D": "Ð", "Sd": "ð", "TP": "Þ", "Tp": "þ", "r!": "¡",
        "r?": "¿", "Of": "ª", "Om": "º", "*a": "α", "*b": "β", "*g": "γ", "*d": "δ", "*e": "ε", "*l": "λ", "*m": "μ",
        "*p": "π", "*s": "σ", "*w": "ω", "*D": "Δ", "*W": "Ω", "OK": "✓", "ul": "_", "rn": "‾", "sp": " ", "no": "¬",
    }
)  # fmt: skip
_ACCENTS: Final = MappingProxyType(
    {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327", "v": "\u030c"}
)
_STRINGS: Final = MappingProxyType(
    # What man(7) predefines, and what pod2man means by its own in a terminal.
    {"R": "®", "Tm": "™", "lq": "“", "rq": "”", "Aq": "'", "--": "--", "PI": "π", 'L"': '"', 'R"': '"'}
)  # fmt: skip
_SIMPLE: Final = MappingProxyType(
    {" ": " ", "~": "\u00a0", "0": " ", "-": "-", "e": "\\", "\\": "\\", "t": "\t", "'": "´", "`": "`", ".": "."}
)  # fmt: skip
_ESCAPE: Final = re.compile(
    r"""\\(?:
      ["\#].*                                                       # a comment
    | [fFmMgk](?:\((?:..)|\[[^]]*\]|.)                              # font, colour, mark: nothing to read
    | s(?:[-+]?\d|[-+]?\(..|[-+]?\[[^]]*\]|'[^']*')                 # size
    | n[-+]?(?:\((?:..)|\[[^]]*\]|.)                                # a number register
    | [hvwlLDXbNSHRAZ]'[^']*'                                       # motions and drawings
    | o'(?P<over>[^']*)'
    | \((?P<two>..)
    | \[(?P<many>[^]]*)\]
    | C'(?P<named>[^']*)'
    | \*(?:\((?P<string2>..)|\[(?P<string>[^]]*)\]|(?P<string1>.))
    | (?P<one>.)
    | $
    )""",
    re.VERBOSE,
)
_ARGUMENT: Final = re.compile(r'"((?:[^"]|"")*)"?|((?:\\ |\S)+)')
_WIDE: Final = re.compile(
    r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]"
)  # scripts that put no space between words
_ONE_FONT: Final = frozenset({"B", "I", "SM", "SB", "R"})
_TWO_FONTS: Final = frozenset({"BI", "IB", "BR", "RB", "IR", "RI"})
_PARAGRAPH: Final = frozenset({"PP", "P", "LP", "HP", "sp", "bp"})
_LINE_BREAK: Final = frozenset({"br", "RS", "RE", "in", "ti", "ce"})
_NOTHING: Final = "."  # a control line without a macro: unlike an empty line, it does not end a paragraph
_MDOC: Final = frozenset({"Dd", "Dt", "Sh"})


@dataclass
class ManSection:
    """A part of a page.

    Attributes:
        title: Its heading; empty for what stands before the first.
        paragraphs: Its text; a line break inside a paragraph is one of the page's own.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)


def read_sections(source: str) -> list[ManSection]:
    """Return the sections of a manual page; none if it is written with other macros than man(7)'s.

    Args:
        source: The page as its file holds it, decompressed and decoded.
    """
    reader = _Reader()
    reader.read(source)
    return reader.sections


def unescape(text: str, strings: dict[str, str] | None = None) -> str:
    """Replace roff's escapes by what they print; what prints nothing vanishes.

    Args:
        text: One line, without its end.
        strings: Strings that the page has defined, beside those that every page has.
    """
    if "\\" not in text:
        return text
    known = _STRINGS if strings is None else {**_STRINGS, **strings}
    return _ESCAPE.sub(partial(_printed, known), text)


def _printed(known: Mapping[str, str], match: re.Match[str]) -> str:
    groups = match.groupdict()
    if (name := groups["two"] or groups["many"] or groups["named"]) is not None:
        return _character(name)
    if (name := groups["string2"] or groups["string"] or groups["string1"]) is not None:
        return known.get(name, "")
    if groups["over"] is not None:
        return str(groups["over"])
    return _SIMPLE.get(groups["one"] or "", "")


def _character(name: str) -> str:
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if re.fullmatch(r"u[0-9A-F]{4,6}(_[0-9A-F]{4,6})*", name):
        return "".join(chr(int(code, 16)) for code in name[1:].split("_") if int(code, 16) < 0x110000)
    if len(name) == 2 and name[0] in _ACCENTS:  # \('e is é
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    return ""


class _Reader:
    """State while a page is read line by line."""

    def __init__(self) -> None:
        self.sections = [ManSection("")]
        self._strings: dict[str, str] = {}
        self._lines: list[str] = []  # of the paragraph that is being read
        self._joined = False  # the next text goes on without a space
        self._filled = True
        self._tag = 0  # text lines until a .TP's tag is complete
        self._heading: str | None = None  # a .SH or .SS that waits for its text
        self._else = False  # what the next .el does

    def read(self, source: str) -> None:
        lines = iter(source.splitlines())
        for raw in lines:
            line = self._open_conditions(raw)
            if line is None:
                self._skip_block(lines)
                continue
            if line[:1] in (".", "'"):
                name, _, rest = line[1:].lstrip().partition(" ")
                name, rest = name.split("\t")[0].split("\\")[0], rest.strip()
                if name in _MDOC:
                    self.sections.clear()
                    return
                if name in ("TS", "EQ", "de", "de1", "am", "ig"):
                    end = {"TS": ".TE", "EQ": ".EN"}.get(name, "..")
                    for skipped in lines:
                        if skipped.startswith(end):
                            break
                    if name in ("TS", "EQ"):
                        self._paragraph()
                else:
                    self._macro(name, rest)
            else:
                self._text(line)
        self._paragraph()
        self.sections = [section for section in self.sections if section.title or section.paragraphs]

    def _open_conditions(self, line: str) -> str | None:
        """Take `.if`, `.ie` and `.el` off a line; None if it opens a block that is not for a terminal."""
        while match := re.match(r"[.']\s*(if|ie|el)\s*(.*)", line):
            kind, rest = match.groups()
            if kind == "el":
                true = self._else
            else:
                # A terminal (n, not t), and GNU's roff, whose register .g is 1. Other conditions count as false.
                true = re.match(r"n\b|!\s*t\b|\\n\(?\[?\.g|\(\\n\(\.g", rest) is not None
                rest = re.sub(r"^(!?\s*[a-z]\b|\([^ ]*\)|\S+)\s*", "", rest)
                self._else = not true
            if rest.startswith("\\{"):
                if not true:
                    return None if "\\}" not in rest else _NOTHING
                line = rest[2:].lstrip("\\").strip() or _NOTHING
                continue
            if not true:
                return _NOTHING
            line = rest
        return _NOTHING if re.fullmatch(r"[.']?\s*\\}\s*", line) else line

    @staticmethod
    def _skip_block(lines: Iterator[str]) -> None:
        depth = 1
        for line in lines:
            depth += line.count("\\{") - line.count("\\}")
            if depth <= 0:
                return

    def _macro(self, name: str, rest: str) -> None:
        if name in ("SH", "SS"):
            self._paragraph()
            self._filled, self._tag = True, 0
            self._heading = name
            if rest:
                self._text(" ".join(self._arguments(rest)))
        elif name in _ONE_FONT and rest:
            self._words(" ".join(self._arguments(rest)))
        elif name in _TWO_FONTS and rest:
            self._words("".join(self._arguments(rest)))
        elif name in _PARAGRAPH:
            self._paragraph()
        elif name in _LINE_BREAK:
            self._break()
        elif name in ("TP", "TQ"):
            self._paragraph() if name == "TP" else self._break()
            self._tag = 1
        elif name == "IP":
            self._paragraph()
            if rest and (tag := self._arguments(rest)[0]):
                self._words(tag)
                if len(tag) > 3:  # otherwise a bullet or a number: the text goes on beside it
                    self._break()
        elif name in ("nf", "EX"):
            self._paragraph()
            self._filled = False
        elif name in ("fi", "EE"):
            self._paragraph()
            self._filled = True
        elif name in ("UR", "MT"):
            self._words(f"<{unescape(rest, self._strings)}>" if rest else "")
        elif name in ("UE", "ME") and rest:
            self._joined = True
            self._words(unescape(rest, self._strings))
        elif name == "SY":
            self._break()
            self._words(" ".join(self._arguments(rest)))
        elif name == "OP":
            self._words(f"[{' '.join(self._arguments(rest))}]")
        elif name in ("ds", "ds1"):
            key, _, value = rest.partition(" ")
            self._strings[key] = unescape(value.strip().removeprefix('"'), self._strings)

    def _arguments(self, text: str) -> list[str]:
        """Split a macro's arguments; the end of the line may be a comment."""
        text = re.sub(r'\\".*', "", text)
        found = [bare or quoted.replace('""', '"') for quoted, bare in _ARGUMENT.findall(text)]
        return [unescape(argument, self._strings) for argument in found] or [""]

    def _text(self, line: str) -> None:
        if not line.strip():
            if self._filled:
                self._paragraph()
            else:
                self._lines.append("")
            return
        joined = line.rstrip().endswith("\\c")
        self._words(unescape(line, self._strings))
        self._joined = joined

    def _words(self, text: str) -> None:
        if self._heading is not None:
            title = " ".join(text.split())
            if self._heading == "SH":
                self.sections.append(ManSection(title))
            elif title:
                self.sections[-1].paragraphs.append(title)
            self._heading = None
            return
        if self._filled:
            text = " ".join(text.split())
        if not text:
            return
        if not self._lines or not (self._filled or self._joined):
            self._lines.append(text)
        else:
            last = self._lines[-1]
            tight = self._joined or not last or (_WIDE.match(last[-1]) and _WIDE.match(text[0]))
            self._lines[-1] = last + text if tight else f"{last} {text}"
        self._joined = False
        if self._tag:
            self._tag -= 1
            self._break()

    def _break(self) -> None:
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def _paragraph(self) -> None:
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        if self._lines:
            self.sections[-1].paragraphs.append("\n".join(line.rstrip() for line in self._lines))
        self._lines, self._joined, self._tag = [], False, 0
