"""Manual pages' markup as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.data.text.roff import read_sections, unescape


def _text(source: str) -> list[str]:
    return [paragraph for section in read_sections(".SH X\n" + source) for paragraph in section.paragraphs]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\fBls\fP \fI\,FILE\/\fP", "ls FILE"),
        (r"\f(CWcode\fR \f[CB]bold\f[]", "code bold"),
        (r"a\-b \(em c\(aqs \[u00E9]t\('e", "a-b — c's été"),
        (r"\(lqquoted\(rq \*(lqso\*(rq \*[R]", "“quoted” “so” ®"),
        (r"back\eslash and \\n", r"back\slash and \n"),
        (r"\s-1SMALL\s0 \s+2big\s'0' 5\ %", "SMALL big 5 %"),
        (r"x\h'1'y\v'-.4m'z \w'ab'u", "xyz u"),
        (r"at the end \" a comment", "at the end "),
        (r"n\[char46]m \[unknown] \n(.g \n[xy]", "nm   "),
        (r"\&.dot\| \%word\:s\c", ".dot words"),
    ],
)
def test_escapes(source: str, text: str) -> None:
    assert unescape(source) == text


@given(st.text())
def test_no_line_breaks_the_stripper(line: str) -> None:
    unescape(line)
    read_sections(f".SH X\n{line}\n.PP\n.{line}\n")


def test_lines_are_filled_into_paragraphs() -> None:
    assert _text("one\ntwo\n.PP\nthree\n.br\nfour\n\nfive\n") == ["one two", "three\nfour", "five"]


def test_scripts_without_spaces_are_joined_without_one() -> None:
    assert _text("の間に\nある\nfile の\n") == ["の間にある file の"]


def test_alternating_fonts_join_and_plain_ones_do_not() -> None:
    assert _text('.BR ls (1),\n.B one two\n.IR "a b" c\n.BI \\-x " file"\n') == [
        "ls(1), one two a bc -x file"
    ]


def test_tags_stand_above_their_text_and_bullets_beside() -> None:
    assert _text(".TP\n.B \\-a\nall of it\n.TP\n\\-b\nall\nof b\n") == ["-a\nall of it", "-b\nall of b"]
    assert _text(".IP \\(bu 2\nfirst\n.IP name\nsecond\n") == ["• first", "name\nsecond"]


def test_examples_keep_their_lines() -> None:
    assert _text("see\n.EX\nfor (;;)\n    a();\n\n.BR x y\n.EE\nend of\nit\n") == [
        "see",
        "for (;;)\n    a();\n\nxy",
        "end of it",
    ]


def test_conditions_are_those_of_a_terminal_with_gnu_roff() -> None:
    source = (
        ".ie n yes\n.el no\n.if t no\n.if n \\{\\\nalso\n.\\}\n.if t \\{\\\nno\n.if n \\{ no\n.\\}\n.\\}\n"
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\nit\\*(Aqs\n"
    )
    assert _text(source) == ["yes also it's"]


def test_tables_and_definitions_are_dropped() -> None:
    assert _text("a\n.TS\nl l.\nx\ty\n.TE\nb\n.de XX\n.B no\n..\nc\n") == ["a", "b c"]


def test_headings_make_sections() -> None:
    page = '.TH LS 1\n.SH "SEE ALSO"\n.BR cat (1)\n.SH\nBUGS\nnone\n.SS "More of them"\nsome\n'
    assert [(part.title, part.paragraphs) for part in read_sections(page)] == [
        ("SEE ALSO", ["cat(1)"]),
        ("BUGS", ["none", "More of them", "some"]),
    ]


def test_links_show_where_they_lead() -> None:
    assert _text("the\n.UR https://example.org\nhome page\n.UE .\n") == [
        "the <https://example.org> home page."
    ]


def test_other_macros_give_no_text() -> None:
    assert read_sections(".Dd May 1\n.Dt LS 1\n.Sh NAME\n.Nm ls\n") == []
