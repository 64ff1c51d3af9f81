"""CuBERT's tokenizer: the published splits, and programs that come back as the same programs."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.text.cubert import tokenizer as cubert
from tokenry.text.cubert.tokenizer import (
    CodeToken,
    CodeTokenizer,
    Kind,
    join,
    lex,
    parts,
    sentences,
    split,
    untokenize,
)
from tokenry.tokens.errors import InputError

LIBRARY = sorted(p for p in Path(os.__file__).parent.rglob("*.py") if "site-packages" not in p.parts)
SOME = LIBRARY[
    ::13
]  # of all 1,783 files one does not come back: it has identifiers that tokenize refuses (U+2118)

CODE = '''\
def area(width, height=2):
    """Width times\theight."""  # not a comment of ours
    if width < 0:
        raise ValueError(f"no {width!r:>{height}} ^ here")

    return [width *
            height, 'a' "b"]
'''


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fooBar_baz", ["foo", "Bar_", "baz"]),
        ("HTTPServer", ["HTTP", "Server"]),
        ("__init__", ["__", "init__"]),
        ("camelCASEName", ["camel", "CASE", "Name"]),
        ("_private", ["_", "private"]),
        ("averylongidentifierindeed", ["averylongidenti", "fierindeed"]),
    ],
)
def test_identifiers_are_cut_as_published(name: str, expected: list[str]) -> None:
    assert split(CodeToken(name, Kind.IDENTIFIER)) == expected


def test_strings_are_cut_where_the_kind_of_character_changes() -> None:
    assert split(CodeToken("'aB  12,é'", Kind.STRING)) == ["'", "a", "B", "  ", "12", ",", "é", "'"]
    assert split(CodeToken("1234567890123456", Kind.NUMBER)) == ["123456789012345", "6"]
    assert split(CodeToken("return", Kind.KEYWORD)) == ["return"]


@given(name=st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_é]{0,40}\Z"))
def test_nothing_is_lost_and_no_part_is_long(name: str) -> None:
    for kind in (Kind.IDENTIFIER, Kind.STRING):
        pieces = split(CodeToken(name, kind))
        assert "".join(pieces) == name
        assert all(0 < len(piece) <= 15 for piece in pieces)


def test_lexing() -> None:
    texts = [token.text for token in lex("if a:\n    b^2 # c\n\nelse:\n\td\n")]
    assert texts == ["if", "a", ":", "___NEWLINE___", "___INDENT___    ", "b", "^", "2", "___NEWLINE___", "___NL___",
                     "___DEDENT___", "else", ":", "___NEWLINE___", "___INDENT___\t", "d", "___DEDENT___",
                     "___EOS___"]  # fmt: skip
    assert parts("b^2") == ["b", "___CARET___", "2", "___EOS___"]
    assert parts("'a\\\n'")[:4] == ["'^", "a^", "\\^", "___NLCHAR___^"]
    assert [t.text for t in lex("a # b", comments=True)][:2] == ["a", "# b"]


def test_an_f_string_is_one_token() -> None:
    (string,) = [token for token in lex(CODE) if token.text.startswith("f")]
    assert string.text == 'f"no {width!r:>{height}} ^ here"'
    assert string.kind is Kind.STRING


@pytest.mark.parametrize("broken", ["a = (", "'''", "a\n  b\n c", "what? no"])
def test_what_the_lexer_refuses_is_an_error_token(broken: str) -> None:
    assert [token.text for token in lex(broken)] == ["___ERROR___", "___EOS___"]
    with pytest.raises(InputError, match="refused"):
        untokenize(parts(broken))


@pytest.mark.parametrize("path", [pytest.param(p, id=f"{p.parent.name}/{p.name}") for p in SOME])
def test_a_program_comes_back(path: Path) -> None:
    check_program(path)


def check_program(path: Path) -> None:
    code = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.dump(ast.parse(code))
    except (SyntaxError, ValueError):
        assert lex(code)[-1].text == "___EOS___"  # test data of Python's own that is no Python
        return
    tokens = lex(code)
    texts = join(parts(tokens))
    assert texts == [token.text for token in tokens]
    assert ast.dump(ast.parse(untokenize(texts))) == tree
    lines = sentences(tokens)
    assert [token for line in lines for token in line] == tokens
    assert all(line[-1].text == "___NEWLINE___" for line in lines[:-1])


def test_parts_that_end_in_the_middle_are_refused() -> None:
    with pytest.raises(InputError, match="middle of a token"):
        join(["a^"])


@pytest.fixture(scope="module")
def tokenizer() -> CodeTokenizer:
    return CodeTokenizer.train([p.read_text(encoding="utf-8", errors="replace") for p in SOME[:12]], 600)


def test_sub_words_are_learned_and_lose_nothing(tokenizer: CodeTokenizer, tmp_path: Path) -> None:
    assert len(tokenizer) == 600
    encoded = tokenizer.encode(CODE)
    assert len(encoded.starts) == len(encoded.tokens)
    assert list(encoded.starts) == sorted(set(encoded.starts))
    assert ast.dump(ast.parse(tokenizer.decode(encoded.ids))) == ast.dump(ast.parse(CODE))
    tokenizer.save(tmp_path / "code")
    assert CodeTokenizer.load(tmp_path / "code").encode(CODE) == encoded


def test_every_token_begins_where_it_says(tokenizer: CodeTokenizer) -> None:
    encoded = tokenizer.encode(CODE)
    ends = [*encoded.starts[1:], len(encoded.ids)]
    for token, a, b in zip(encoded.tokens, encoded.starts, ends, strict=True):
        text = tokenizer.subwords.decode(encoded.ids[a:b])
        assert join(text.removesuffix("\n").split("\n")) == [token.text]


def test_what_cannot_be_trained_or_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="256 bytes"):
        CodeTokenizer.train(["a = 1"], 100)
    with pytest.raises(InputError, match="None of the sources"):
        CodeTokenizer.train(["a = ("], 600)
    with pytest.raises(InputError, match="holds no tokenizer"):
        CodeTokenizer.load(tmp_path)


def test_marks_are_the_published_ones() -> None:
    assert (cubert.NEWLINE, cubert.EOS) == ("___NEWLINE___", "___EOS___")
