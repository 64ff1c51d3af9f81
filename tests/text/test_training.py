"""Training byte-level BPE, and what is left on disk when saving it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenry.text.training import END_OF_TEXT, PRE_TOKENIZERS, byte_level, save_tokenizer, train_bpe
from tokenry.tokens.errors import InputError, UnknownNameError


def test_the_first_merge_is_the_commonest_pair() -> None:
    tokenizer = train_bpe(["aaab aaab bc"], 259, special_tokens=("<s>",), pre_tokenizer="words")
    # "aa" occurs four times, all other pairs of characters at most twice.
    assert "aa" in tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens(0) == "<s>"
    assert len(tokenizer) == 259


def test_the_size_is_exact_and_every_byte_is_in_it(texts: tuple[str, ...]) -> None:
    tokenizer = train_bpe(texts, 700)
    assert len(tokenizer) == 700
    everything = "".join(map(chr, range(0x800)))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_the_corpus_is_read_once_as_a_stream(texts: tuple[str, ...]) -> None:
    assert train_bpe(iter(texts), 400).get_vocab() == train_bpe(texts, 400).get_vocab()


@pytest.mark.parametrize("longest", [1, 2, 5])
def test_tokens_are_no_longer_than_asked(texts: tuple[str, ...], longest: int) -> None:
    size = 257 if longest == 1 else 400
    tokenizer = train_bpe(texts, size, max_token_length=longest)
    assert max(len(t) for t in tokenizer.get_vocab() if t != END_OF_TEXT) == longest


def test_the_named_pre_tokenizers_cut_where_they_say() -> None:
    text = "it's 12345 o'clock:  done\n"
    cut = {name: [piece for piece, _ in byte_level(name).pre_tokenize_str(text)] for name in PRE_TOKENIZERS}
    assert cut["gpt2"] == ["it", "'s", "Ġ12345", "Ġo", "'", "clock", ":", "Ġ", "Ġdone", "Ċ"]
    assert cut["gpt4"] == ["it", "'s", "Ġ", "123", "45", "Ġo", "'clock", ":", "Ġ", "Ġdone", "Ċ"]
    assert cut["words"] == ["it's", "Ġ12345", "Ġo'clock:", "Ġ", "Ġdone", "Ċ"]


def test_the_built_in_gpt2_pre_tokenizer_is_its_regular_expression(texts: tuple[str, ...]) -> None:
    text = texts[0] + "  café's\t\n 12 naïve…"
    assert byte_level("gpt2").pre_tokenize_str(text) == byte_level(
        Regex(PRE_TOKENIZERS["gpt2"])
    ).pre_tokenize_str(text)


def test_no_token_goes_over_a_boundary_of_ones_own(texts: tuple[str, ...]) -> None:
    tokenizer = train_bpe(texts, 500, pre_tokenizer=Regex(r"[a-z]+|[^a-z]+"))
    letters = set("abcdefghijklmnopqrstuvwxyz")
    for token in tokenizer.get_vocab().keys() - {END_OF_TEXT}:
        assert set(token) <= letters or not set(token) & letters


def test_a_normaliser_is_kept(texts: tuple[str, ...]) -> None:
    tokenizer = train_bpe(texts, 300, normalizer=normalizers.Lowercase())
    assert tokenizer.decode(tokenizer.encode("ÀB")) == "àb"


def _broken() -> Iterator[str]:
    yield "text"
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train_bpe([], 300), "no text"),
        (lambda: train_bpe(["", ""], 300), "no text"),
        (lambda: train_bpe("one text", 300), "several texts"),
        (lambda: train_bpe(["a\ud800b"], 300), "surrogate.* character 1"),
        (lambda: train_bpe(["text"], 256), "256 bytes.*at least 257"),
        (lambda: train_bpe(["text"], 300), "pairs for 257 entries, not for 300"),
        (lambda: train_bpe(["text"], 300, special_tokens=("<s>", "<s>")), "must be different"),
        (lambda: train_bpe(["text"], 300, min_frequency=0), "min_frequency is 0"),
        (lambda: train_bpe(["text"], 300, max_token_length=0), "max_token_length is 0"),
    ],
)
def test_what_cannot_be_trained_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_an_unknown_pre_tokenizer_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="gpt2, gpt4, words"):
        train_bpe(["text"], 300, pre_tokenizer="gpt9")


def test_an_error_while_reading_the_corpus_is_the_callers() -> None:
    with pytest.raises(RuntimeError, match="disk is gone"):
        train_bpe(_broken(), 300)


def test_nuls_are_text_like_any_other() -> None:
    tokenizer = train_bpe(["a\0b " * 10], 258)
    assert tokenizer.decode(tokenizer.encode("\0a\0b")) == "\0a\0b"


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> PreTrainedTokenizerFast:
    return train_bpe(["to be or not to be " * 3], 262)


def test_a_saved_tokenizer_is_loaded_as_any_other(small: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = save_tokenizer(small, tmp_path / "new" / "folder")
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.backend_tokenizer.to_str() == small.backend_tokenizer.to_str()
    assert loaded.eos_token == loaded.bos_token == END_OF_TEXT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


def test_saving_into_a_models_folder_replaces_the_tokenizer_only(
    small: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("old")
    save_tokenizer(small, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 262


def test_a_full_disk_leaves_what_was_there(
    small: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tokenizer.json").write_text("old")
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    for name in ("there", "not there"):
        with pytest.raises(InputError, match="No space left on device"):
            save_tokenizer(small, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there" / "tokenizer.json").read_text() == "old"


def test_an_interruption_leaves_nothing_behind(
    small: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_tokenizer(small, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_told(small: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save_tokenizer(small, tmp_path / "file")
