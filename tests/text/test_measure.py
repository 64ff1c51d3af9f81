"""Measuring per byte: against likelihoods that are known exactly."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.hosts.encoding import byte_alphabet, encode_plain, start_id
from tokenry.text.measure import (
    bits_per_byte,
    bytes_per_token,
    bytes_per_word,
    fertility,
    perplexity_ratio,
    score_texts,
    word_accuracy,
)
from tokenry.tokens.errors import InputError

ALPHABET = byte_alphabet()


def _tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Bytes and one merge ("ab"); ids 0-255 are the bytes, 256 is "ab", special tokens follow."""
    vocabulary = {char: byte for byte, char in enumerate(ALPHABET)} | {"ab": 256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class Bigrams(nn.Module):
    """A "language model" whose next token depends on the last one only, by a random table."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, rows)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(seed))
        self.config = LlamaConfig(max_position_embeddings=4096)
        self.device = torch.device("cpu")
        self.longest = 0

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool
    ) -> SimpleNamespace:
        self.longest = max(self.longest, input_ids.shape[1])
        return SimpleNamespace(logits=self.table(input_ids))

    def nats(self, ids: list[int], n_ids: int) -> float:
        logs = self.table.weight[:, :n_ids].double().log_softmax(-1)
        return -sum(logs[a, b].item() for a, b in itertools.pairwise(ids))


TEXTS = ["ab cabbage", "é", "", "x" * 300 + "ab" * 40]


@pytest.mark.parametrize(("window", "stride"), [(1024, None), (64, None), (64, 63), (10, 1), (2, 1)])
def test_every_token_is_scored_once(window: int, stride: int | None) -> None:
    tokenizer = _tokenizer(bos_token="<s>", eos_token="</s>")
    model = Bigrams(300)
    n_ids = 259  # rows above are padding
    expected = [model.nats([257, *tokenizer(text).input_ids], n_ids) for text in TEXTS if text]
    scores = score_texts(model, tokenizer, TEXTS, window=window, stride=stride)
    assert [score.nats for score in scores] == pytest.approx(expected, rel=1e-5)
    assert [score.n_bytes for score in scores] == [10, 2, 380]
    assert [score.n_tokens for score in scores] == [8, 2, 340]
    assert bits_per_byte(model, tokenizer, TEXTS, window=window, stride=stride) == pytest.approx(
        sum(expected) / math.log(2) / 392, rel=1e-5
    )
    assert model.longest <= window


def test_long_texts_keep_the_context_they_are_promised() -> None:
    """A real attention model: windowed scores are those of the windows, done by hand."""
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    tokenizer = _tokenizer(eos_token="</s>")
    text = "the quick brown fox jumps over the lazy dog"
    ids = [257, *tokenizer(text).input_ids]
    logs = lambda part: model(torch.tensor([part])).logits[0, :-1].log_softmax(-1)  # noqa: E731
    pick = lambda part: logs(part).gather(1, torch.tensor(part[1:])[:, None])[:, 0]  # noqa: E731
    # windows of 20 moved on by 12: 8 tokens of context
    expected = -(pick(ids[:20]).sum() + pick(ids[12:32])[7:].sum() + pick(ids[24:])[7:].sum())
    (score,) = score_texts(model, tokenizer, [text], window=20, stride=12)
    assert score.nats == pytest.approx(expected.item(), rel=1e-5)
    (whole,) = score_texts(model, tokenizer, [text])
    assert whole.nats == pytest.approx(-pick(ids).sum().item(), rel=1e-5)


def test_batches_change_nothing() -> None:
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    tokenizer = _tokenizer(eos_token="</s>")
    texts = ["a", "a much longer text than that", "short"]
    together = [score.nats for score in score_texts(model, tokenizer, texts)]
    alone = [score_texts(model, tokenizer, [text])[0].nats for text in texts]
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    model = Bigrams(512)
    nn.init.zeros_(model.table.weight)
    assert bits_per_byte(model, tokenizer, ["xyz"]) == pytest.approx(math.log2(258)), "filler rows share"


def test_the_first_token_comes_from_bos_or_eos_or_is_left_out() -> None:
    model = Bigrams(300)
    assert start_id(_tokenizer(bos_token="<s>", eos_token="</s>")) == 257
    assert start_id(_tokenizer(eos_token="</s>")) == 257
    neither = _tokenizer()
    assert start_id(neither) is None
    first, second = score_texts(model, neither, ["abc", "éab", "x"])
    assert (first.n_tokens, first.n_bytes) == (1, 1)
    assert first.nats == pytest.approx(model.nats([256, 99], 257), rel=1e-5)
    assert (second.n_tokens, second.n_bytes) == (
        2,
        2,
    )  # the first byte of é is not scored; offsets are characters


def test_special_tokens_in_a_text_are_text() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    assert encode_plain(tokenizer, ["a</s>"]) == [[97, *b"</s>"]]
    assert bytes_per_token(tokenizer, ["</s>"]) == 1.0


def test_compression_and_fertility() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    texts = ["ab ab", "", "cab\n"]
    assert bytes_per_token(tokenizer, texts) == pytest.approx(9 / 6)
    assert fertility(tokenizer, texts) == pytest.approx(6 / 3)
    assert bytes_per_word(texts) == pytest.approx(9 / 3)


def test_perplexity_ratios() -> None:
    assert perplexity_ratio(2.0, 1.0) == 2.0
    assert perplexity_ratio(1.5, 1.0, bytes_per_word=6) == 8.0
    assert perplexity_ratio(1.0, 1.0, bytes_per_word=6) == 1.0


def test_a_word_is_right_as_a_whole() -> None:
    assert word_accuracy(["cat", b"d\xc3\xa9g", "x"], ["cat", "dég", "y"]) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="got 1 for 2"):
        word_accuracy(["a"], ["a", "b"])
    with pytest.raises(InputError, match="got 0 for 0"):
        word_accuracy([], [])


def test_nothing_to_measure_is_said() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    with pytest.raises(InputError, match="no text to score"):
        bits_per_byte(Bigrams(300), tokenizer, ["", ""])
    with pytest.raises(InputError, match="all texts are empty"):
        bytes_per_token(tokenizer, [])
    with pytest.raises(InputError, match="no word"):
        fertility(tokenizer, ["  \n"])


def test_what_does_not_fit_is_said() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    with pytest.raises(InputError, match="id 257 and the model has 100 embeddings"):
        bits_per_byte(Bigrams(100), tokenizer, ["abc"])
    with pytest.raises(InputError, match="below the window of 8 tokens, got 8"):
        bits_per_byte(Bigrams(300), tokenizer, ["abc"], window=8, stride=8)


def test_unknown_characters_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="b")
    with pytest.raises(InputError, match=r"no token for something in 'a c'"):
        bits_per_byte(Bigrams(10), tokenizer, ["a b", "a c"])


def test_what_a_tokenizer_leaves_out_without_a_word_is_refused() -> None:
    lacking = _tokenizer(eos_token="</s>")
    core = json.loads(lacking.backend_tokenizer.to_str())
    del core["model"]["vocab"][ALPHABET[4]]
    lacking = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)), eos_token="</s>")
    few = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1}, merges=[]))
    few.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "각": 2, "##a": 3}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(strip_accents=True), normalizers.NFC()]
    )
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for tokenizer, text, code in (
        (lacking, "a\x04b", "0004"),
        (PreTrainedTokenizerFast(tokenizer_object=few), "aa é", "00E9"),
        (PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]"), "a\ufeffa", "FEFF"),
    ):
        for measured in (encode_plain, bytes_per_token, fertility):
            with pytest.raises(InputError, match=rf"U\+{code}.*without a word"):
                measured(tokenizer, ["a", text])
    # Knowingly: accents, white space, and what is composed with its neighbour.
    kept = "á \u3000\t\u1100\u1161\u11a8"
    assert (
        len(encode_plain(PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]"), [kept])[0]) == 2
    )
