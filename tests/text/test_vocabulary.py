"""Vocabularies as bytes: three surface conventions, encoding that loses nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokenry.hosts.encoding import byte_alphabet
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, UnsupportedError

ALPHABET = byte_alphabet()


def byte_level(missing: bytes = b"", **options: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges: " t", "th", "the", " the", "é"."""
    vocab = {char: i for i, char in enumerate(c for b, c in enumerate(ALPHABET) if b not in missing)}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.get("prefix", False))
    backend.decoder = decoders.ByteLevel()
    if options.get("nfc"):
        backend.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tokenizer.add_tokens([AddedToken("new token", normalized=False)])
    return tokenizer


def sentencepiece(fallback: bool = True) -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE as Llama-2's: "▁" in front of every text, byte pieces for the rest."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256) if fallback),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
    ]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def wordpiece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "un": 1, "##like": 2, "##ly": 3, "like": 4, ".": 5}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_the_alphabet_is_gpt2s() -> None:
    assert ALPHABET[ord(" ")] == "Ġ"
    assert ALPHABET[ord("\n")] == "Ċ"
    assert ALPHABET[ord("A")] == "A"
    assert len(set(ALPHABET)) == 256
    assert set(ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())


def test_byte_level_tokens_are_read_as_bytes() -> None:
    vocab = ByteVocab.from_tokenizer(byte_level())
    assert vocab.kind == "byte-level"
    assert [vocab.token_bytes[i] for i in range(256, 260)] == [b" t", b"he", b" the", "é".encode()]
    assert vocab.ids[b" the"] == 258
    assert vocab.ids[b"new token"] == vocab.tokenizer.convert_tokens_to_ids("new token")
    assert vocab.token_bytes[vocab.tokenizer.eos_token_id] is None
    assert vocab.special_ids == {vocab.tokenizer.eos_token_id}
    assert vocab.longest == len(b"new token")


@settings(max_examples=60)
@given(data=st.binary(max_size=40) | st.text(alphabet="the é<|n", max_size=30).map(str.encode))
def test_every_byte_string_comes_back(data: bytes) -> None:
    for vocab in VOCABS:
        assert vocab.decode(vocab.encode(data)) == data
        spans = vocab.pretoken_spans(data)
        assert b"".join(data[a:b] for a, b in spans) == data
        assert all(a < b for a, b in spans)


@settings(max_examples=60)
@given(text=st.text(alphabet="the é\n.日", max_size=30))
def test_encoding_is_the_tokenizers_own(text: str) -> None:
    tokenizer = VOCABS[0].tokenizer
    ids = VOCABS[0].encode(text.encode())
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [
        VOCABS[0].encode_pretoken(text.encode()[a:b]) for a, b in VOCABS[0].pretoken_spans(text.encode())
    ]
    assert [token for piece in pieces for token in piece] == ids


VOCABS = (
    ByteVocab.from_tokenizer(byte_level()),
    ByteVocab.from_tokenizer(byte_level(prefix=True, nfc=True)),
    ByteVocab.from_tokenizer(sentencepiece()),
)


def test_special_tokens_in_a_text_are_text() -> None:
    assert VOCABS[0].special_ids.isdisjoint(VOCABS[0].encode(b"<|end|> the"))
    assert VOCABS[0].tokenizer.eos_token_id in VOCABS[0].tokenizer("<|end|>")["input_ids"]


def test_what_is_left_off_is_told() -> None:
    plain, other, pieces = VOCABS
    assert (plain.front, plain.normalizer) == ("never", None)
    assert (other.front, other.normalizer) == ("missing", "NFC")
    assert (pieces.front, pieces.normalizer) == ("always", None)
    assert other.encode("e\u0301".encode()) != other.encode("é".encode())


def test_sentencepiece_spaces_and_byte_pieces() -> None:
    vocab = VOCABS[2]
    assert vocab.kind == "sentencepiece"
    assert vocab.encode(b" ab") == [vocab.tokenizer.convert_tokens_to_ids("▁ab")]
    assert vocab.encode(b"ab") == [vocab.tokenizer.convert_tokens_to_ids("ab")]
    assert vocab.ids[b"a"] == vocab.tokenizer.convert_tokens_to_ids("a")  # not <0x61>
    assert vocab.token_bytes[vocab.tokenizer.convert_tokens_to_ids("<0xC3>")] == b"\xc3"
    assert vocab.encode("é".encode()) == [
        vocab.tokenizer.convert_tokens_to_ids(p) for p in ("<0xC3>", "<0xA9>")
    ]


def test_wordpiece_starts_words_with_a_space() -> None:
    vocab = ByteVocab.from_tokenizer(wordpiece())
    assert vocab.kind == "wordpiece"
    assert vocab.token_bytes[1:4] == (b" un", b"like", b"ly")
    ids = vocab.encode(b"Unlikely.")
    assert ids == [1, 2, 3, 5]
    assert vocab.decode(ids) == b"unlikely ."


def test_a_byte_that_would_be_dropped_silently_is_refused() -> None:
    tokenizer = byte_level(missing=b"\x04")
    assert tokenizer("a\x04b")["input_ids"] == tokenizer("ab")["input_ids"]  # what `tokenizers` does
    with pytest.raises(InputError, match="0x04 at offset 1"):
        ByteVocab.from_tokenizer(tokenizer).encode(b"a\x04b")


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_white_space_that_an_added_token_swallows_is_refused(side: str) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("[stop]", normalized=False, **{side: True})])
    vocab = ByteVocab.from_tokenizer(tokenizer)
    assert vocab.decode(vocab.encode(b"the[stop]the")) == b"the[stop]the"
    assert tokenizer.decode(tokenizer("the [stop] the")["input_ids"]) != "the [stop] the"
    with pytest.raises(InputError, match=r"do not give the text near .*stop.* back"):
        vocab.encode(b"the [stop] the")


@pytest.mark.parametrize(
    "kind", [models.BPE({"▁": 0, "a": 1}, []), models.Unigram([("▁", -1.0), ("a", -1.0)])]
)
def test_a_character_that_would_be_dropped_silently_is_refused(kind: models.Model) -> None:
    backend = Tokenizer(kind)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace()
    vocab = ByteVocab.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert vocab.decode(vocab.encode(b"a aa")) == b"a aa"
    for read in (vocab.encode, vocab.encode_pretoken):
        with pytest.raises(InputError):
            read("a bé a".encode())


def test_the_sign_of_a_space_is_not_taken_for_one() -> None:
    """U+2581 is a character of texts (progress bars are drawn with it) and comes back as a space."""
    for read in (VOCABS[2].encode, VOCABS[2].encode_pretoken, VOCABS[2].as_seen):
        with pytest.raises(InputError, match=r"U\+2581.*offset 2"):
            read("ab▁a".encode())
    assert VOCABS[0].decode(VOCABS[0].encode("ab▁a".encode())) == "ab▁a".encode()


@pytest.mark.parametrize("char", ["\0", "\ufeff", "\ufffd", "\u200d", "\x7f"])
def test_wordpiece_refuses_what_its_normalisation_drops(char: str) -> None:
    vocab = ByteVocab.from_tokenizer(wordpiece())
    text = f"un{char}like.".encode()
    assert vocab.tokenizer(text.decode())["input_ids"] == vocab.tokenizer("unlike.")["input_ids"]
    with pytest.raises(InputError, match=f"U\\+{ord(char):04X}"):
        vocab.encode(text)
    assert vocab.encode(vocab.writable(text)) == vocab.encode(b"unlike.")


def test_a_space_is_put_in_front_as_the_tokenizer_does() -> None:
    for scheme in ("always", "first", "never"):
        metaspace = sentencepiece()
        metaspace.backend_tokenizer.normalizer = None
        metaspace.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        for tokenizer in (metaspace, sentencepiece(), byte_level(prefix=True), byte_level()):
            vocab = ByteVocab.from_tokenizer(tokenizer)
            for text in ("ab", " ab", "  ab a"):
                assert (
                    vocab.encode(vocab.as_seen(text.encode()))
                    == tokenizer(text, add_special_tokens=False)["input_ids"]
                )


def test_spaces_put_inside_a_text_are_refused() -> None:
    tokenizer = byte_level(prefix=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    assert tokenizer.decode(tokenizer("t1")["input_ids"]) == " t 1"
    vocab = ByteVocab.from_tokenizer(tokenizer)
    assert vocab.decode(vocab.encode(b"t1")) == b"t1"
    with pytest.raises(UnsupportedError, match="inside a text"):
        vocab.as_seen(b"t1")


def test_unknown_characters_and_bytes_without_fallback_are_refused() -> None:
    vocab = ByteVocab.from_tokenizer(sentencepiece(fallback=False))
    with pytest.raises(InputError, match="no tokens for something"):
        vocab.encode("aé".encode())
    with pytest.raises(InputError, match="0xFF at offset 1"):
        vocab.encode(b"a\xff")
    with pytest.raises(InputError, match="outside the vocabulary"):
        vocab.decode([10_000])
    with pytest.raises(InputError, match="not UTF-8"):
        vocab.encode_pretoken(b"\xff")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        ByteVocab.from_tokenizer(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UnsupportedError, match="none of the known conventions"):
        ByteVocab.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words))


def test_a_saved_tokenizer_reads_the_same(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save_pretrained(tmp_path)
    assert ByteVocab.from_tokenizer(tmp_path).token_bytes == ByteVocab.from_tokenizer(tokenizer).token_bytes
