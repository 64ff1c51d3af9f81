"""Generating from an extended vocabulary: against the full softmax, and what decoding options do."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.predict.toys import sentencepiece
from tokenry.text.dynamic_tokenization.large_vocabulary import Decoding, LargeVocabulary
from tokenry.text.training import train_bpe
from tokenry.text.zett import HypernetConfig, Hypernetwork, source_rows
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.language import small_llama

TEXT = "the lowest lower price is lower than the prices of the tests "
ADDED = [b" lowest lower", b"zqx", b" prices of", b" than the", b"ests ", b" the", b"\xc3\xa9t"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_bpe([TEXT * 9], 280)


def llama(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True):
    model = small_llama(
        len(tokenizer) + 3, layers=2, width=32, heads=2, context=128, tied=tied, eos_token_id=0
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def network(model) -> Hypernetwork:
    torch.manual_seed(0)
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2)).eval()
    hypernet.fit_scalers(source_rows(model))
    return hypernet


def by_the_definition(large: LargeVocabulary, prompt: str, steps: int) -> list[int]:
    """Greedy decoding with the whole matrix and without a cache."""
    ids, out = large.encode(prompt), []
    for _ in range(steps):
        with torch.no_grad():
            hidden = large.model.base_model(inputs_embeds=large.input_rows[ids][None]).last_hidden_state[
                0, -1
            ]
        logits = large.output_rows @ hidden + large.bias
        blocked = [i for i, data in enumerate(large.token_bytes) if data is None and i != large.eos]
        logits[blocked] = -torch.inf
        token = int(logits.argmax())
        if token == large.eos:
            break
        ids.append(token)
        out.append(token)
    return out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cells", [0, 12])
def test_all_candidates_give_the_whole_softmax(
    tied: bool, cells: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = llama(tokenizer, tied=tied)
    large = LargeVocabulary(model, tokenizer, ADDED, network(model), cells=cells)
    everything = Decoding(candidates=10_000, ban_ngram=0)
    found = large.generate(TEXT, 12, everything)
    assert found == by_the_definition(large, TEXT, 12)


def test_a_prompt_gets_the_space_that_its_tokenizer_puts_in_front() -> None:
    spaced = sentencepiece(["▁", "a", "b"], [("▁", "a")])
    model = llama(spaced)
    large = LargeVocabulary(model, spaced, [b"ab"])
    everything = Decoding(candidates=10_000, ban_ngram=0)
    found = large.generate("ab", 6, everything)
    assert found == by_the_definition(large, " ab", 6)
    assert found != by_the_definition(large, "ab", 6)


def test_reading_takes_the_longest_prefix_and_loses_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    large = LargeVocabulary(llama(tokenizer), tokenizer, ADDED)
    text = "the lowest lower prices of été \x00"
    ids = large.encode(text)
    assert large.decode(ids).decode() == text
    pieces = [large.token_bytes[i] for i in ids]
    assert b" lowest lower" in pieces
    assert b" prices of" in pieces
    assert b"\xc3\xa9t" in pieces


def test_rows_of_own_tokens_are_the_models(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer, tied=False)
    large = LargeVocabulary(model, tokenizer, ADDED, network(model))
    own = len(tokenizer)
    assert len(large.token_bytes) == own + len(ADDED) - 1  # " the" is the model's already
    assert torch.equal(large.input_rows[:own], model.get_input_embeddings().weight[:own])
    assert torch.equal(large.output_rows[:own], model.get_output_embeddings().weight[:own])


def test_special_tokens_without_a_row_move_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    model, more = llama(tokenizer, tied=False), deepcopy(tokenizer)
    names = [f"<picture {i}>" for i in range(5)]  # the model has room for 3
    more.add_special_tokens({"extra_special_tokens": names})
    plain, large = (LargeVocabulary(model, t, ADDED) for t in (tokenizer, more))
    text = " prices of zqx"
    assert [large.token_bytes[i] for i in large.encode(text)] == [
        plain.token_bytes[i] for i in plain.encode(text)
    ]
    for ours, theirs in ((large.input_rows, plain.input_rows), (large.output_rows, plain.output_rows)):
        assert ours[large.encode(text)].equal(theirs[plain.encode(text)])


def test_repeated_ngrams_are_banned(tokenizer: PreTrainedTokenizerFast) -> None:
    large = LargeVocabulary(llama(tokenizer), tokenizer, ADDED)
    free = large.generate(TEXT, 60, Decoding(ban_ngram=0, eos_bias=-1e9))
    banned = large.generate(TEXT, 60, Decoding(ban_ngram=2, eos_bias=-1e9))
    everything = large.encode(TEXT) + banned
    pairs = list(pairwise(everything))[len(large.encode(TEXT)) - 1 :]
    assert len(set(pairs)) == len(pairs)
    assert free != banned


def test_the_end_of_text_can_be_made_likely(tokenizer: PreTrainedTokenizerFast) -> None:
    large = LargeVocabulary(llama(tokenizer), tokenizer, ADDED)
    assert large.generate(TEXT, 9, Decoding(eos_bias=1e9)) == []
    assert len(large.generate(TEXT, 9, Decoding(eos_bias=-1e9, ban_ngram=0))) == 9


def test_sampling_is_reproducible_and_min_p_narrows_it(tokenizer: PreTrainedTokenizerFast) -> None:
    large = LargeVocabulary(llama(tokenizer), tokenizer, ADDED)

    def draw(seed: int, **options: float) -> list[int]:
        decoding = Decoding(temperature=5.0, eos_bias=-1e9, **options)
        return large.generate(TEXT, 20, decoding, torch.Generator().manual_seed(seed))

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(0, min_p=1.0) == large.generate(TEXT, 20, Decoding(eos_bias=-1e9))


def test_a_head_with_a_bias(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).eval()
    model.lm_head = torch.nn.Linear(32, len(tokenizer))
    model.config.tie_word_embeddings = False
    large = LargeVocabulary(model, tokenizer, ADDED)
    assert torch.equal(large.bias[: len(tokenizer)], model.lm_head.bias.detach())


def test_bad_input(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no token that"):
        LargeVocabulary(llama(tokenizer), tokenizer, [b" the", b""])
    large = LargeVocabulary(llama(tokenizer), tokenizer, ADDED)
    with pytest.raises(InputError, match="prompt is empty"):
        large.generate("")
    with pytest.raises(InputError, match="at least 1"):
        Decoding(candidates=0)
    with pytest.raises(InputError, match="min_p"):
        Decoding(min_p=2.0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    with pytest.raises(UnsupportedError, match="no head"):
        LargeVocabulary(bert, tokenizer, ADDED)
