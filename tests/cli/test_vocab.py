"""`tokenry vocab`: what is trained and saved, what is compared, how it fails."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

import pytest
import typer
from PIL import Image
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from tokenry.bench.vocabularies.compare import Count, compare_vocabularies, count_tokens, read_vocabulary
from tokenry.cli import vocab
from tokenry.data.text.corpora import Corpus
from tokenry.tokens.errors import InputError, UnknownNameError

SOURCES = [module.__file__ for module in (argparse, textwrap)]


def tokenry(*words: str | Path) -> Result:
    app = typer.Typer()
    vocab.register(app)
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A BPE and a LiB vocabulary, saved."""
    at = tmp_path_factory.mktemp("vocabularies")
    for kind in ("bpe", "lib"):
        done = tokenry("train", *SOURCES, "--kind", kind, "--size", "400", "-o", at / kind)
        assert done.exit_code == 0, done.output
        assert "400 entries" in done.output
        assert str(at / kind) in done.output
    return at / "bpe", at / "lib"


def test_a_trained_vocabulary_is_a_tokenizers_folder(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer) == 400
        assert tokenizer.decode(tokenizer.encode("naïve\0 text")) == "naïve\0 text"
    assert {path.name for path in folders[0].parent.iterdir()} == {"bpe", "lib"}


def test_options_of_a_kind_are_set_by_name(tmp_path: Path) -> None:
    done = tokenry("train", *SOURCES, "--size", "300", "-o", tmp_path / "a", "--set", "pre-tokenizer=words",
                   "--set", 'special_tokens=["<s>", "</s>"]')  # fmt: skip
    assert done.exit_code == 0, done.output
    assert AutoTokenizer.from_pretrained(tmp_path / "a").convert_ids_to_tokens([0, 1]) == ["<s>", "</s>"]


def test_a_comparison_as_tables(folders: tuple[Path, Path]) -> None:
    done = tokenry("compare", *folders, "--text", SOURCES[1])
    assert done.exit_code == 0, done.output
    header, *rows = done.output.splitlines()
    for word in ("vocabulary", "entries", "bytes per token", "tokens per word", "tokens/s"):
        assert word in header
    assert [row.split()[:2] for row in rows] == [["bpe", "400"], ["lib", "400"]]


def test_a_comparison_as_json_and_plots(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    words = (folders[0], folders[1] / "tokenizer.json", "-t", SOURCES[1])
    done = tokenry("compare", *words, "--json", "--plot", plot)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    size = len(Path(SOURCES[1]).read_bytes())
    for row, folder in zip(found["vocabularies"], folders, strict=True):
        tokens = len(AutoTokenizer.from_pretrained(folder).encode(Path(SOURCES[1]).read_text()))
        assert row["name"] == folder.name
        assert row["counts"]["bytes"] == size
        assert row["counts"]["tokens"] == tokens
        assert row["bytes_per_token"] == pytest.approx(size / tokens)
    assert plot.read_text().startswith("<svg xmlns=")
    assert "lib (400 entries)" in plot.read_text()
    assert tokenry("compare", *words, "--plot", tmp_path / "plot.png").exit_code == 0
    assert Image.open(tmp_path / "plot.png").width > 800
    assert {path.name for path in tmp_path.iterdir()} == {"plot.svg", "plot.png"}


def test_models_are_named_as_in_other_commands(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"smollm2": lambda: folders[0], "minilm": lambda: folders[1]}
    monkeypatch.setattr("tokenry.models.pretrained.PACKAGED", named)
    done = tokenry("compare", "smollm2", "minilm", "--text", SOURCES[1])
    assert done.exit_code == 0, done.output
    assert [row.split()[0] for row in done.output.splitlines()[1:]] == ["smollm2", "minilm"]


def test_languages_have_a_table_of_their_own(folders: tuple[Path, Path]) -> None:
    tokenizer = read_vocabulary(folders[0])
    corpora = [
        Corpus("a", "en", ("some words", "more")),
        Corpus("b", "ja", ("日本語",)),
        Corpus("c", "en", ("x",)),
    ]
    found = compare_vocabularies({"bpe": tokenizer}, corpora)
    assert found.languages == ("en", "ja")
    row = found.rows[0]
    assert row.by_language["ja"] == Count(bytes=9, words=1, tokens=9)
    assert row.by_language["en"].bytes == 15
    assert row.total.tokens == row.by_language["en"].tokens + 9
    assert row.tokens_per_second > 0


def test_what_a_vocabulary_has_no_token_for_is_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##c": 2}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    found = count_tokens(tokenizer, ["abc ab 日本"])
    assert found == Count(bytes=13, words=3, tokens=4, unknown=1, lost=6)
    assert found.bytes_per_token == pytest.approx(7 / 3)
    assert found.fertility == pytest.approx(4 / 3)
    assert found.lost_share == pytest.approx(6 / 13)


def test_a_tokenizer_that_cuts_off_is_measured_whole(folders: tuple[Path, Path]) -> None:
    tokenizer = read_vocabulary(folders[0])
    whole = count_tokens(tokenizer, ["some words " * 50])
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=5000)
    assert count_tokens(tokenizer, ["some words " * 50]) == whole


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("train", "no-such-corpus", "--size", "400", "-o", "OUT"), UnknownNameError, "no-such-corpus"),
        (
            ("train", "debian-doc", "--size", "400", "-o", "OUT"),
            UnknownNameError,
            "Did you mean 'debian-docs'",
        ),
        (("train", "TEXT", "--size", "100", "-o", "OUT"), InputError, "256 bytes"),
        (("train", "TEXT", "--size", "400", "--kind", "bpf", "-o", "OUT"), UnknownNameError, "'bpe'"),
        (("train", "TEXT", "--size", "400", "--set", "x", "-o", "OUT"), InputError, "NAME=VALUE"),
        (
            ("train", "TEXT", "--size", "400", "--set", "sugar=1", "-o", "OUT"),
            InputError,
            "bpe has no setting sugar",
        ),
        (("train", "EMPTY", "--size", "400", "-o", "OUT"), InputError, "empty"),
        (("train", "NUL", "--size", "400", "-o", "OUT"), InputError, "NUL"),
        (("train", "LATIN", "--size", "400", "-o", "OUT"), InputError, "UTF-8"),
        (("compare", "EMPTY", "-t", "TEXT"), InputError, "no tokenizer.json"),
        (("compare", "FOLDER", "-t", "TEXT"), InputError, "no tokenizer"),
        (
            ("compare", "no/such/folder", "-t", "TEXT"),
            InputError,
            "There is no folder 'no/such/folder'",
        ),
        (("compare", "BPE"), InputError, "No text is named"),
        # the text that is missing would be said later: the plot's name is looked at first
        (("compare", "BPE", "-t", "nowhere", "--plot", "OUT.pdf"), InputError, ".svg or .png"),
        (("compare", "BPE", "-t", "nowhere", "--plot", "nowhere/p.svg"), InputError, "no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_told(
    folders: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], error: type[Exception], message: str
) -> None:
    contents = {"EMPTY": b"", "NUL": b"a\0b", "LATIN": "é".encode("latin-1"), "TEXT": b"to be or not to be"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "FOLDER").mkdir()
    places = {name: str(tmp_path / name) for name in (*contents, "OUT", "OUT.pdf", "FOLDER")}
    named = {"BPE": str(folders[0])} | places
    done = tokenry(*(named.get(word, word) for word in words))
    assert isinstance(done.exception, error)
    assert message in str(done.exception)
    assert not (tmp_path / "OUT").exists()
