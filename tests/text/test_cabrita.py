"""Cabrita: extending a vocabulary without disturbing what was there."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokenry.hosts.encoding import byte_alphabet
from tokenry.text.cabrita.vocabulary import extend_tokenizer, train_pieces
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, transplant
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.language import small_llama

ENGLISH = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind the fox at all.",
    "This information is shown in the documentation of the system, where the files are described.",
    "A program reads the file, writes the result to the output and returns the number of the error.",
    "It was the best of times, it was the worst of times, it was the age of wisdom and of the other thing.",
] * 5
PORTUGUESE = [
    "A informação sobre as funções está na documentação do sistema, onde os arquivos são descritos.",
    "Um programa lê o arquivo, escreve o resultado na saída e retorna o número do erro à aplicação.",
    "Não há solução para a configuração; as opções são definidas em outra seção da descrição.",
    "O coração tem razões que a própria razão não conhece, e a situação então não é fácil.",
] * 5


def _sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama's form: the normaliser writes "▁", nothing cuts, unknown characters become bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(
        ENGLISH, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    )
    spec = json.loads(core.to_str())
    spec["pre_tokenizer"] = None
    spec["added_tokens"] = spec["added_tokens"][:3]
    core = Tokenizer.from_str(json.dumps(spec))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def base(request: pytest.FixtureRequest) -> Any:
    return train_bpe(ENGLISH, 380) if request.param == "byte-level" else _sentencepiece()


@pytest.fixture(scope="module", params=[False, True], ids=["own scores", "append_after"])
def append_after(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_old_ids_keep_their_pieces(base: Any, append_after: bool) -> None:
    """Must hold (1)."""
    extension = extend_tokenizer(base, PORTUGUESE, len(base) + 60, append_after=append_after)
    new = extension.tokenizer
    old = base.get_vocab()
    assert {piece: new.get_vocab()[piece] for piece in old} == old
    assert extension.first_id == len(base)
    assert len(extension.pieces) == 60
    assert new.convert_ids_to_tokens(range(len(base), len(base) + 60)) == list(extension.pieces)
    assert len(new) == len(base) + 60
    assert (new.bos_token, new.eos_token, new.all_special_ids) == (
        base.bos_token,
        base.eos_token,
        base.all_special_ids,
    )


def test_the_new_language_takes_fewer_tokens(base: Any, append_after: bool) -> None:
    new = extend_tokenizer(base, PORTUGUESE, len(base) + 60, append_after=append_after).tokenizer
    before, after = (sum(len(_ids(one, text)) for text in PORTUGUESE[:4]) for one in (base, new))
    assert after < 0.8 * before
    for text in (*ENGLISH[:4], *PORTUGUESE[:4], "naïve 漢字 \n\t x"):
        assert new.decode(_ids(new, text), skip_special_tokens=True) == text


def test_appended_pieces_leave_other_texts_alone(base: Any) -> None:
    """Must hold (2), and more: what the base makes of a text is only ever joined."""
    extension = extend_tokenizer(base, PORTUGUESE, len(base) + 60, append_after=True)
    vocab = ByteVocab.from_tokenizer(extension.tokenizer)
    untouched = 0
    for text in (*ENGLISH, *PORTUGUESE, "the dog of the system", "Q&A 123 !?"):
        old, new = _ids(base, text), _ids(extension.tokenizer, text)
        if max(new) < extension.first_id:
            untouched += 1
            assert new == old
        at = 0
        for token in new:
            start, at = at, at + 1
            while vocab.decode(old[start:at]) != vocab.decode([token]):
                at += 1
                assert at <= len(old)
        assert at == len(old)
    assert untouched > 0


@cache
def _base_and_appended() -> tuple[Any, Any]:
    base = train_bpe(ENGLISH, 380)
    return base, extend_tokenizer(base, PORTUGUESE, 440, append_after=True).tokenizer


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("aeioudsnçã therfm."), max_size=40))
def test_appended_pieces_never_lengthen(text: str) -> None:
    base, new = _base_and_appended()
    assert len(_ids(new, text)) <= len(_ids(base, text))
    assert new.decode(_ids(new, text)) == text


def test_own_scores_interleave() -> None:
    """As published: rank 0 of the new language goes before rank 1 of the old, whose texts may then be cut otherwise."""
    vocabulary = {char: index for index, char in enumerate(byte_alphabet())} | {"ab": 256, "cd": 257}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("c", "d")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    base = PreTrainedTokenizerFast(tokenizer_object=core)
    own, appended = (
        extend_tokenizer(base, ["bc bc bc"], 259, append_after=after).tokenizer for after in (False, True)
    )

    def pieces(tokenizer: Any, text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(_ids(tokenizer, text))

    assert pieces(own, "xbc") == pieces(appended, "xbc") == ["x", "bc"]
    assert pieces(base, "bcd") == pieces(appended, "bcd") == ["b", "cd"]
    assert pieces(own, "bcd") == ["bc", "d"]
    assert pieces(own, "abc") == pieces(base, "abc") == ["ab", "c"], "of equal ranks the old one goes first"


def test_old_pieces_can_be_made_of_new_ones() -> None:
    """A new piece that gets hold of letters first does not make an old piece unreachable."""
    vocabulary = {char: index for index, char in enumerate(byte_alphabet())} | {
        "xy": 256,
        "bc": 257,
        "abc": 258,
    }
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("x", "y"), ("b", "c"), ("a", "bc")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    base = PreTrainedTokenizerFast(tokenizer_object=core)
    own = extend_tokenizer(base, ["ab ab ab"], 260).tokenizer  # "ab" has rank 0
    assert own.convert_ids_to_tokens(_ids(own, "abc")) == ["abc"]


def test_logits_over_old_ids_stay(base: Any, append_after: bool) -> None:
    """Must hold (3)."""
    new = extend_tokenizer(base, PORTUGUESE, len(base) + 60, append_after=append_after).tokenizer
    for tied in (True, False):
        model = small_llama(len(base), layers=2, width=32, heads=2, tied=tied, eos_token_id=0).eval()
        for init in ("mean", "random"):
            resized = transplant(model, base, new, init, context=Context(seed=1)).model
            ids = torch.tensor([_ids(base, ENGLISH[0] + PORTUGUESE[0])])
            torch.testing.assert_close(
                resized(ids).logits[..., : len(base)], model(ids).logits, rtol=0, atol=1e-6
            )
            assert resized.get_input_embeddings().num_embeddings == len(new)


def test_new_rows_are_the_mean_of_their_pieces() -> None:
    base = train_bpe(ENGLISH, 380)
    extension = extend_tokenizer(base, PORTUGUESE, 400, append_after=True)
    model = small_llama(380, layers=1, width=32, heads=2)
    rows = transplant(model, base, extension.tokenizer, "mean").model.get_input_embeddings().weight
    vocab, old = ByteVocab.from_tokenizer(extension.tokenizer), model.get_input_embeddings().weight
    for token in range(380, 400):
        pieces = ByteVocab.from_tokenizer(base).encode(vocab.token_bytes[token])
        torch.testing.assert_close(rows[token], old[pieces].mean(0))


def test_every_new_piece_was_several(base: Any, append_after: bool) -> None:
    """Must hold (4); appended pieces are also all of use."""
    extension = extend_tokenizer(base, PORTUGUESE, len(base) + 60, append_after=append_after)
    old, new = ByteVocab.from_tokenizer(base), ByteVocab.from_tokenizer(extension.tokenizer)
    for token, piece in enumerate(extension.pieces, start=extension.first_id):
        data = new.token_bytes[token]
        assert len(old.encode_pretoken(data)) >= 2, piece
        if append_after:
            assert new.encode_pretoken(data) == [token], f"{piece!r} is never used"


def test_tokens_added_behind_the_vocabulary_keep_their_ids() -> None:
    base = train_bpe(ENGLISH, 380)
    base.add_tokens([AddedToken("<|tool|>", special=True)], special_tokens=True)
    base.chat_template = "{{ messages[0]['content'] }}<|tool|>"
    assert base.convert_tokens_to_ids("<|tool|>") == 380
    extension = extend_tokenizer(base, PORTUGUESE, 410)
    assert extension.first_id == 381
    assert extension.tokenizer.convert_tokens_to_ids("<|tool|>") == 380
    assert _ids(extension.tokenizer, "a<|tool|>")[-1] == 380
    assert extension.tokenizer.chat_template == base.chat_template


def test_pieces_are_in_the_order_of_training(base: Any) -> None:
    found = train_pieces(base, ["aaab aaab aaab"] * 3, 300)
    assert "b" in found.characters
    assert all(len(char) == 1 for char in found.characters)
    assert any((left + right).endswith("aaab") for left, right in found.merges)
    parts = set(found.characters)
    for left, right in found.merges:
        assert {left, right} <= parts, "a merge uses what is there already"
        parts.add(left + right)


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (PORTUGUESE, 380, "has 380 ids already; the size must be larger, got 380"),
        ([], 500, "no text"),
        (["", ""], 500, "no text"),
        (["z"], 500, "no piece that the tokenizer lacks"),
    ],
)
def test_what_cannot_be_extended(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extend_tokenizer(train_bpe(ENGLISH, 380), texts, size)


def test_only_bpe_can_be_extended() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(
        UnsupportedError, match=r"The tokenizer is WordLevel; only a BPE.*tokenry vocab transplant"
    ):
        extend_tokenizer(words, PORTUGUESE, 10)
