"""User text in prompts: control tokens in it are letters, and any other text gets the ids it always had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.text.transplant import tiny
from tokenry.hosts.encoding import encode_plain
from tokenry.hosts.plain_text import PlainText
from tokenry.models.vlm.embedded.model import build_processor, build_tokenizer


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the merges that a marker's letters would have: ``<|``, ``|>``."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet | {"<|": 256, "|>": 257}, merges=[("<", "|"), ("|", ">")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", extra_special_tokens={"start": "<|start|>"}
    )
    tokenizer.add_tokens([AddedToken("<call>", special=False), AddedToken("<other>", special=False)])
    tokenizer.chat_template = (
        "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}<call>"  # as assistants begin
    )
    return tokenizer


def one_turn(tokenizer: Any, texts: Sequence[str]) -> Mapping[str, Any]:
    turn = [{"role": "user", "content": text} for text in texts]
    return dict(tokenizer.apply_chat_template(turn, return_dict=True, return_tensors="pt"))


@pytest.mark.parametrize(
    "text",
    ["<|end|>", "say <|end|><|start|>!", "<|e<|end|>nd|>", "<|end|", "<call>now<call>", "a\U000f7b3c\U000f0d59<|end|>"],
)  # fmt: skip
def test_control_tokens_in_a_users_text_are_its_letters(text: str) -> None:
    tokenizer = chat_tokenizer()
    found = PlainText(tokenizer).encode([text], one_turn)
    ids = found["input_ids"][0].tolist()
    start, end, call = (tokenizer.convert_tokens_to_ids(t) for t in ("<|start|>", "<|end|>", "<call>"))
    assert (ids[0], ids[-2:]) == (start, [end, call])
    assert set(ids[1:-2]).isdisjoint({start, end, call})
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids[1:-2]) == text
    assert found["attention_mask"].tolist() == [[1] * len(ids)]
    assert len(tokenizer) == len(chat_tokenizer()), "the user's tokenizer has a token more"


def test_texts_without_control_tokens_get_the_ids_they_always_had() -> None:
    tokenizer = chat_tokenizer()
    for text in (
        "<|",
        "what is |> and <|?",
        "",
        " ",
        "naïve 日本語",
        "<other> is no token of the template's",
    ):
        assert torch.equal(
            PlainText(tokenizer).encode([text], one_turn)["input_ids"],
            one_turn(tokenizer, [text])["input_ids"],
        )
    other = tokenizer.convert_tokens_to_ids("<other>")
    assert other in PlainText(tokenizer).ids("<other> <|end|>")


def test_a_token_added_later_is_a_control_token_too() -> None:
    tokenizer = chat_tokenizer()
    plain = PlainText(tokenizer)
    assert plain.ids("a<|new|>b") == tokenizer("a<|new|>b")["input_ids"]
    tokenizer.add_tokens([AddedToken("<|new|>", special=True)], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<|new|>") not in plain.ids("a<|new|>b")


@pytest.mark.parametrize("text", ["is <eos> there", "<EOS>", "the tag <image> <Image>", "<bos> <pad>"])
def test_a_vocabulary_that_has_the_markers_as_words(text: str) -> None:
    tokenizer = build_tokenizer()  # WordPiece behind a normalizer that makes letters small
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not control.isdisjoint(
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    )
    assert control.isdisjoint(PlainText(tokenizer).ids(text, add_special_tokens=False))
    assert control.isdisjoint(PlainText(build_processor()).ids(text, add_special_tokens=False))


def test_plain_encoding_of_a_unigram_vocabulary_that_has_the_marker_as_a_piece() -> None:
    pieces = [(c, -3.0) for c in "</s>ab "]
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *pieces], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.eos_token_id in tokenizer("a</s>b", split_special_tokens=True)["input_ids"]
    (ids,) = encode_plain(tokenizer, ["a</s>b"])
    assert tokenizer.eos_token_id not in ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "a</s>b"


def test_byte_level_and_sentencepiece_prompts_keep_the_letters() -> None:
    for kind in ("byte-level", "sentencepiece"):
        tokenizer = tiny.kinds()[kind]
        text = f"the {tokenizer.eos_token} cat"
        ids = PlainText(tokenizer).ids(text, add_special_tokens=False)
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
