"""Byte probabilities against brute force, texts whose probabilities are known, and token likelihoods."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.predict.toys import GPT2, TableModel, bpe, random_merges, sentencepiece, table_of_texts
from tokenry.predict.lm.byte_probabilities.byte_level import ByteLevelValidity
from tokenry.predict.lm.byte_probabilities.byte_model import ByteModel, byte_model
from tokenry.predict.lm.byte_probabilities.ensemble import ensemble
from tokenry.predict.lm.byte_probabilities.fim import MiddleTokens
from tokenry.predict.lm.byte_probabilities.healing import TokenContinuation
from tokenry.predict.lm.byte_probabilities.state import ByteState
from tokenry.predict.lm.byte_probabilities.validity import ValidityContext
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, UnsupportedError

TEXTS = {
    "Hi\n\nYou": 0.1,
    "Hi\n\n\nYou  5": 0.05,
    "a  5 b": 0.1,
    "a   b": 0.05,
    "a  b c": 0.05,
    "it's you're 'tis we've '' 's": 0.1,
    "'re 'r 'rx 'l 'll": 0.05,
    "def f(x):\n    return x\n\n\n\n": 0.1,
    "żółć 中文字 🙂🙃 é à — x": 0.1,
    "\u00a0a \u00a0b\u3000\u3000c  ż": 0.05,
    "12345 1234567 1 2": 0.05,
    " \n \n\t\tx \r\n": 0.05,
    "word wordy words": 0.1,
    "": 0.05,
}
CORPUS = [
    *TEXTS,
    "the year 2024 isn't over\n\nThe end",
    "  return x\n\n  return y",
    "żółć żółw 中文 中国 é è",
]


def letters() -> list[PreTrainedTokenizerFast]:
    """Tokenizers over a, b, c with random merges in the order of their making, and out of it."""
    found = []
    for seed in range(6):
        rng = random.Random(seed)
        merges = random_merges(b"abc", 7, rng)
        if seed >= 3:
            rng.shuffle(merges)
        found.append(bpe(merges, b"abc"))
    return found


def random_table(tokenizer: PreTrainedTokenizerFast, seed: int) -> TableModel:
    """A language model of random probabilities on what the tokenizer could give, nothing elsewhere."""
    vocab = ByteVocab.from_tokenizer(tokenizer)

    def table(sequence: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([seed, *sequence])
        probs = rng.dirichlet(np.full(vocab.size, 0.5))
        for token, data in enumerate(vocab.token_bytes):
            if data is not None and not valid(vocab, (*sequence[1:], token)):
                probs[token] = 0
        return probs / probs.sum()

    return TableModel(table, vocab.size, 0)


def valid(vocab: ByteVocab, tokens: tuple[int, ...]) -> bool:
    return vocab.encode(vocab.decode(tokens)) == list(tokens)


def all_covers(vocab: ByteVocab, text: bytes) -> Iterator[tuple[int, ...]]:
    """Covers by their definition: valid, all but the last inside the text, together reaching its end or beyond."""
    regular = [token for token, data in enumerate(vocab.token_bytes) if data]

    def grow(tokens: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
        for token in regular:
            data = vocab.token_bytes[token] or b""
            rest = text[length:]
            if not (rest.startswith(data) or data.startswith(rest)) or not valid(vocab, (*tokens, token)):
                continue
            if length + len(data) >= len(text):
                yield (*tokens, token)
            else:
                yield from grow((*tokens, token), length + len(data))

    return grow((), 0)


def mass(model: TableModel, tokens: tuple[int, ...]) -> float:
    return math.prod(model.table((0, *tokens[:i]))[tokens[i]] for i in range(len(tokens)))


def following(model: ByteModel, text: bytes) -> ByteState:
    state = model.begin([[]])[0]
    for byte in text:
        state = state.step(byte)
    return state


def test_markov_example() -> None:
    tokenizer = bpe([(b"A", b"A")], b"AB")
    vocab = ByteVocab.from_tokenizer(tokenizer)
    a, b, aa = (vocab.ids[t] for t in (b"A", b"B", b"AA"))
    rows = {
        aa: {aa: 0.16, a: 0.24, b: 0.6},
        a: {b: 1.0},
        b: {aa: 0.28, a: 0.42, b: 0.3},
        0: {aa: 0.28, a: 0.42, b: 0.3},
    }

    def table(sequence: tuple[int, ...]) -> np.ndarray:
        probs = np.zeros(vocab.size)
        for token, p in rows[sequence[-1]].items():
            probs[token] = p
        return probs

    lm = TableModel(table, vocab.size, 0)
    model = byte_model(lm, tokenizer, stops=[])
    naive = TokenContinuation(model).states(["BA"])[0]
    assert np.exp(naive.log_probs[ord("A")]) == 0
    state = model.state("BA")
    assert state.encodings() == {(b, a), (b, aa)}
    assert np.exp(state.log_probs[ord("A")]) == pytest.approx(0.4, abs=1e-12)
    assert np.exp(model.state("BAA").log_probs[ord("A")]) == pytest.approx(0.4, abs=1e-12)
    assert np.exp(model.state("BAB").log_probs[ord("A")]) == pytest.approx(0.7, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force_and_sums_to_one(seed: int) -> None:
    tokenizer = letters()[seed]
    lm = random_table(tokenizer, seed)
    vocab = ByteVocab.from_tokenizer(tokenizer)
    model = byte_model(lm, tokenizer)
    for n in range(4):
        for text in map(bytes, itertools.product(b"abc", repeat=n)):
            state = following(model, text)
            covers = set(all_covers(vocab, text)) if text else {()}
            if text:
                assert state.encodings() == covers
            brute = sum(mass(lm, c) for c in covers)
            assert math.exp(state.log_mass) == pytest.approx(brute, rel=1e-12)
            own = vocab.encode(text)
            end = mass(lm, tuple(own)) * lm.table((0, *own))[0]
            after = [math.exp(following(model, text + bytes([b])).log_mass) for b in b"abc"]
            assert sum(after) + end == pytest.approx(brute, rel=1e-12)
            np.testing.assert_allclose(np.exp(state.log_probs[list(b"abc")]) * brute, after, rtol=1e-11)
            assert np.exp(state.log_probs[256]) * brute == pytest.approx(end, rel=1e-11)
            # As a prompt, all at once, it is the same; and so with its masses from the beginning.
            np.testing.assert_allclose(model.state(text).log_probs, state.log_probs, atol=1e-11)
            assert math.exp(model.log_mass(text)) == pytest.approx(brute, rel=1e-12)
            assert state.exact


@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_on_longer_texts(seed: int) -> None:
    tokenizer = letters()[seed]
    lm, vocab = random_table(tokenizer, seed), ByteVocab.from_tokenizer(tokenizer)
    model = byte_model(lm, tokenizer)
    rng = random.Random(seed)
    for _ in range(3):
        text = bytes(rng.choices(b"abc", k=9))
        state = following(model, text)
        assert state.encodings() == set(all_covers(vocab, text))
        brute = sum(mass(lm, c) for c in all_covers(vocab, text))
        assert math.exp(state.log_mass) == pytest.approx(brute, rel=1e-12)


def text_models() -> list[tuple[str, PreTrainedTokenizerFast]]:
    found = [
        (f"{name} {size}", train_bpe(CORPUS, size, pre_tokenizer=name, min_frequency=1))
        for name, size in (("gpt2", 300), ("gpt2", 360), ("gpt4", 330), ("words", 300))
    ]
    found.append(("bytes", train_bpe(CORPUS, 257)))
    splits = bpe([(b"1", b"2"), (b" ", b" "), (b"\n", b"\n"), (b" ", b"x")])
    splits.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    found.append(("digits", splits))
    pieces = sorted({c.replace(" ", "▁") for t in TEXTS for c in t} - set("🙂🙃żć\n字"))
    merges = [
        ("▁", "▁"),
        ("w", "o"),
        ("r", "d"),
        ("wo", "rd"),
        ("▁", "word"),
        ("▁", "b"),
        ("▁▁", "▁▁"),
        ("中", "文"),
    ]
    found.append(("sentencepiece", sentencepiece(pieces, merges)))
    found.append(("sentencepiece without space", sentencepiece(pieces, merges, prefix=False)))
    return found


@pytest.mark.parametrize(("name", "tokenizer"), text_models(), ids=lambda x: x if isinstance(x, str) else "")
def test_probabilities_of_known_texts(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """For the ideal model of a few texts, a prefix has the share of the texts that begin with it."""
    vocab = ByteVocab.from_tokenizer(tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encode = lambda text: vocab.encode(vocab.as_seen(text.encode()))  # noqa: E731
    lm = TableModel(table_of_texts(TEXTS, encode, vocab.size, bos, eos), vocab.size, eos)
    model = byte_model(lm, tokenizer)
    whole = {text.encode(): p for text, p in TEXTS.items()}
    for text in whole:
        state = model.begin([[]], [b""])[0]
        for byte in model.stream(b""):
            state = state.step(byte)
        for i in range(len(text) + 1):
            share = {t: p for t, p in whole.items() if t.startswith(text[:i])}
            total = sum(share.values())
            expected = np.zeros(257)
            for t, p in share.items():
                expected[256 if len(t) == i else t[i]] += p / total
            np.testing.assert_allclose(np.exp(state.log_probs), expected, atol=1e-12, err_msg=repr(text[:i]))
            assert math.exp(state.log_mass) == pytest.approx(total, rel=1e-12)
            np.testing.assert_allclose(
                np.exp(model.state(text[:i]).log_probs), expected, atol=1e-12, err_msg=repr(text[:i])
            )
            assert state.exact
            if i < len(text):
                state = state.step(text[i])
        assert model.log_mass(text.decode(), end=True) == pytest.approx(math.log(whole[text]), abs=1e-10)
        np.testing.assert_allclose(model.log_prob(text), math.log(total / 1.0), atol=1e-10)


def test_single_bytes_give_ordinary_probabilities() -> None:
    tokenizer = bpe([])
    table = lambda s: np.random.default_rng(list(s)).dirichlet(np.ones(257))  # noqa: E731
    model = byte_model(TableModel(table, 257, 0), tokenizer)
    text = "aż\n\n 中".encode() + b"\xff\x80x\xe4"
    ids = [0]
    state = model.state(b"")
    for byte in text:
        probs = table(tuple(ids))
        expected = np.append(probs[1:], probs[0])
        np.testing.assert_allclose(np.exp(state.log_probs), expected, atol=1e-12)
        state, ids = state.step(byte), [*ids, byte + 1]


def llama(vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).double().eval()


def gpt2(vocab_size: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).double().eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_bpe(CORPUS * 2, 340, min_frequency=1)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> ByteModel:
    """A byte model whose rules, which are worked out as they are needed, the tests share."""
    return byte_model(llama(len(tokenizer)), tokenizer)


def like(model: ByteModel, lm: PreTrainedModel | None = None, **options: Any) -> ByteModel:
    return ByteModel(lm or model.lm, model.vocab, model.validity, **options)


@pytest.mark.parametrize("family", [llama, gpt2])
def test_cache_gives_what_whole_sequences_give(
    family: Callable[[int], PreTrainedModel], tokenizer: PreTrainedTokenizerFast, model: ByteModel
) -> None:
    lm = family(len(tokenizer))
    model = like(model, lm)
    text = "The words  are\n\nwordy, isn't it? żółć 5  6"
    ids = [0, *tokenizer.encode(text), 0]
    with torch.no_grad():
        logs = lm(torch.tensor([ids])).logits[0].log_softmax(-1)
    likelihood = float(logs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert model.log_mass(text, end=True) == pytest.approx(likelihood, abs=1e-9)
    stepped = following(model, text.encode())
    assert stepped.log_mass + stepped.log_end == pytest.approx(likelihood, abs=1e-9)
    # From a prompt, from the beginning, and with what is known ahead: the same distribution, and the same sum.
    np.testing.assert_allclose(model.state(text).log_probs, stepped.log_probs, atol=1e-9)
    half = len(text) // 2
    parts = model.log_prob(text[:half]) + model.log_prob(text[half:], prompt=text[:half])
    assert parts == pytest.approx(model.log_prob(text), abs=1e-9)


def test_rows_and_branches_are_independent(model: ByteModel) -> None:
    prompts = ["", "The wor", "a  5", "żó".encode()[:3], "it's a much longer prompt than the others, isn'"]
    together = model.states(prompts)
    for prompt, state in zip(prompts, together, strict=True):
        np.testing.assert_allclose(state.log_probs, model.state(prompt).log_probs, atol=1e-9)
    one = together[1].step(ord("d"))
    other = together[1].step(ord("k"))
    model.evaluate([one, other])
    for state, text in ((one, "The word"), (other, "The work"), (together[1], "The wor")):
        np.testing.assert_allclose(state.log_probs, model.state(text).log_probs, atol=1e-9)
    drawn = model.sample_batch(prompts, 12, seed=3)
    assert drawn == [model.sample(prompt, 12, seed=3) for prompt in prompts]


def test_dropping_what_is_not_needed_changes_nothing(model: ByteModel) -> None:
    text = ("The words are wordy. " * 7).encode()
    states = model.states(["", "ab"])
    early, forests = states[0], {id(states[0].forest)}
    for byte in text:
        model.evaluate(states)
        states = [state.step(byte) for state in states]
        forests.add(id(states[0].forest))
    assert len(forests) > 1
    assert states[0].forest.length < len(text)
    np.testing.assert_allclose(states[0].log_probs, model.state(text).log_probs, atol=1e-8)
    np.testing.assert_allclose(states[1].log_probs, model.state(b"ab" + text).log_probs, atol=1e-8)
    np.testing.assert_allclose(early.log_probs, model.state("").log_probs, atol=1e-9)


def test_one_token_is_evaluated_a_byte() -> None:
    tokenizer = letters()[0]
    lm = random_table(tokenizer, 0)
    byte_model(lm, tokenizer).sample("ab", 20, seed=0)
    assert set(lm.calls[2:]) == {1}
    assert len(lm.calls) <= 22


def test_ensemble_is_the_mean_and_no_worse_than_the_mean_of_losses(model: ByteModel) -> None:
    other = train_bpe(CORPUS, 262, pre_tokenizer="gpt4", min_frequency=1)
    members = [model, byte_model(llama(262, 2), other)]
    both = ensemble(members)
    text = "The words  are\n\nwordy"
    each = np.stack([m.log_probs(text) for m in members])
    mixed = both.log_probs(text)
    np.testing.assert_allclose(mixed, np.log(np.exp(each).mean(0)), atol=1e-9)
    assert (-mixed <= (-each).mean(0) + 1e-12).all()
    assert ensemble(members, [0, 2]).log_prob(text) == pytest.approx(members[1].log_prob(text), abs=1e-9)
    assert both.sample("The", 10, seed=0) == both.sample("The", 10, seed=0)
    assert len(both.sample_batch(["The", "a"], 5, temperature=0)) == 2
    with pytest.raises(InputError, match="at least one"):
        ensemble([])
    with pytest.raises(InputError, match="2 numbers"):
        ensemble(members, [1.0])


def test_healing_constrains_the_next_token(model: ByteModel) -> None:
    lm, vocab = model.lm, model.vocab
    prompt = "The wor"
    *kept, last = vocab.encode(prompt.encode())
    with torch.no_grad():
        probs = lm(torch.tensor([[0, *kept]])).logits[0, -1].softmax(-1).numpy()
    start = vocab.decode([last])
    allowed = {t: d for t, d in enumerate(vocab.token_bytes) if d and d.startswith(start)}
    total = sum(probs[t] for t in allowed)
    state = TokenContinuation(model, "healed").states([prompt])[0]
    longer = [t for t, d in allowed.items() if d[len(start) : len(start) + 1] == b"d"]
    with torch.no_grad():
        after = lm(torch.tensor([[0, *kept, last]])).logits[0, -1].softmax(-1).numpy()
    regular = sum(p for t, p in enumerate(after) if vocab.token_bytes[t])
    d = sum(after[t] for t, data in enumerate(vocab.token_bytes) if data and data[:1] == b"d")
    expected = (sum(probs[t] for t in longer) + probs[last] * d) / (
        total - probs[last] + probs[last] * (regular + after[0])
    )
    assert np.exp(state.log_probs[ord("d")]) == pytest.approx(expected, rel=1e-9)
    naive = TokenContinuation(model)
    assert naive.log_prob("d", prompt) == pytest.approx(math.log(d / (regular + after[0])), rel=1e-9)


def test_pruning_and_fast_are_near_and_say_so(tokenizer: PreTrainedTokenizerFast, model: ByteModel) -> None:
    exact = model.state("The wor").log_probs
    same = like(model, min_log_mass=-200.0, max_groups=50).state("The wor")
    np.testing.assert_allclose(same.log_probs, exact, atol=1e-9)
    assert not same.exact
    pruned = like(model, max_groups=1).state("The wor")
    assert len(pruned.groups) + len(pruned.fresh) == 1
    few = like(model, min_log_mass=-1e-9).state("The wor")
    assert len(few.groups) + len(few.fresh) == 1
    fast = like(model, fast=True).state("The wor")
    assert not fast.exact
    assert np.exp(fast.log_probs).sum() == pytest.approx(1)
    for bad in ({"min_log_mass": 1.0}, {"max_groups": 0}):
        with pytest.raises(InputError):
            byte_model(model.lm, tokenizer, **bad)


def test_fast_is_exact_where_the_model_is_ideal() -> None:
    tokenizer = letters()[1]
    lm = random_table(tokenizer, 1)
    for text in ("abca", "cab", "bb"):
        np.testing.assert_allclose(
            byte_model(lm, tokenizer, fast=True).state(text).log_probs,
            byte_model(lm, tokenizer).state(text).log_probs,
            atol=1e-11,
        )


def test_texts_without_covers_fall_back_to_their_own_encoding() -> None:
    tokenizer = bpe([(b"a", b"b")], b"abc")
    vocab = ByteVocab.from_tokenizer(tokenizer)

    def table(sequence: tuple[int, ...]) -> np.ndarray:
        probs = np.zeros(vocab.size)
        probs[vocab.ids[b"c" if sequence == (0,) else b"a"]] = 1
        return probs

    model = byte_model(TableModel(table, vocab.size, 0), tokenizer)
    with pytest.warns(UserWarning, match="its own encoding is taken"):
        state = model.state("ab")
    assert not state.exact
    assert np.exp(state.log_probs[ord("a")]) == 1
    with pytest.warns(UserWarning, match="not exact"):
        assert following(model, b"ab").log_mass == -math.inf
    with pytest.warns(UserWarning, match="not exact"):
        assert model.log_prob("ab") == -math.inf  # the model's own word
    assert np.exp(state.step(ord("a")).log_probs[ord("a")]) == 1


def uniform(vocab: ByteVocab) -> TableModel:
    return TableModel(lambda _: np.full(vocab.size, 1 / vocab.size), vocab.size, 0)


def test_a_fast_model_masks_the_covers_of_its_prompt() -> None:
    """After "a" the token "a" was never followed by "b" if "ab" is one; what is drawn next is not looked at."""
    tokenizer = bpe([(b"a", b"b"), (b"b", b"c")], b"abc")
    vocab = ByteVocab.from_tokenizer(tokenizer)
    exact, fast = (byte_model(uniform(vocab), tokenizer, fast=f, context=[0]) for f in (False, True))
    prompt = b"cab"
    assert (
        fast.state(prompt).encodings()
        == exact.state(prompt).encodings()
        == {tuple(vocab.ids[t] for t in (b"c", b"ab"))}
    )
    unmasked = following(fast, prompt)
    assert tuple(vocab.ids[t] for t in (b"c", b"a", b"bc")) in unmasked.encodings()
    assert not np.allclose(unmasked.log_probs, fast.state(prompt).log_probs)
    assert not fast.state(prompt).exact


def test_a_text_that_the_tokenizer_encodes_is_never_called_impossible() -> None:
    tokenizer = bpe([(b"a", b"b"), (b" ", b"\xc3")], b" abc\xc3\xa9", GPT2)
    vocab = ByteVocab.from_tokenizer(tokenizer)
    lm = uniform(vocab)
    model = byte_model(lm, tokenizer)
    assert np.isfinite(model.log_prob("ab é c"))

    class Blind(ByteLevelValidity):
        """Rules with a gap."""

        def mask(self, context: ValidityContext) -> np.ndarray:
            mask = super().mask(context).copy()
            mask[vocab.ids[b"c"]] = False
            return mask

    blind = ByteModel(lm, vocab, Blind(vocab, model.validity.pairs))
    for probability in (blind.log_prob, blind.log_probs, blind.log_mass):
        with pytest.raises(UnsupportedError, match="gives b'c' after b'ab'"):
            probability("abc")
    with pytest.raises(InputError, match="is not UTF-8"):
        model.log_prob(b"a \xc3a")
    with pytest.raises(InputError, match="Byte 0x78"):
        model.log_prob("axb")  # a byte that the vocabulary does not have


def test_pruning_away_every_cover_is_told() -> None:
    tokenizer = bpe([(b"a", b"b")], b"abc")
    vocab = ByteVocab.from_tokenizer(tokenizer)
    probs = np.full(vocab.size, 1e-6)
    probs[vocab.ids[b"ab"]] = 1

    model = byte_model(TableModel(lambda _: probs / probs.sum(), vocab.size, 0), tokenizer, max_groups=1)
    with pytest.raises(UnsupportedError, match="max_groups=1"):
        model.log_prob("ac")


def test_a_space_in_front_where_there_is_none_has_no_probability_of_its_own() -> None:
    tokenizer = bpe([(b" ", b"a")], b" ab")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    vocab = ByteVocab.from_tokenizer(tokenizer)
    model = byte_model(uniform(vocab), tokenizer)
    assert model.log_mass("ab") == model.log_mass(" ab") == 2 * math.log(1 / vocab.size)
    np.testing.assert_array_equal(model.state("a").log_probs, model.state(" a").log_probs)
    assert np.isfinite(model.log_prob("a b"))
    with pytest.raises(InputError, match="with and without its first space"):
        model.log_prob(" ab")


def test_filling_in_the_middle(model: ByteModel) -> None:
    with pytest.raises(UnsupportedError, match="filling in the middle"):
        model.fill("The wor", " wordy")
    tokenizer = train_bpe(CORPUS * 2, 340, min_frequency=1)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]}
    )
    vocab = ByteVocab.from_tokenizer(tokenizer)
    named = ByteModel(
        llama(len(tokenizer)), vocab, model.validity
    )  # longer masks are not needed: all new are special
    p, s, m = (tokenizer.convert_tokens_to_ids(f"<fim_{x}>") for x in ("prefix", "suffix", "middle"))
    assert MiddleTokens.of(named.vocab) == MiddleTokens(p, s, m, (0,))
    prefix, suffix = "The words are wor", " words"
    got = named.fill(prefix, suffix, 20, seed=1, order="spm")
    context = [p, s, *named.vocab.encode(suffix.encode()), m]
    assert got == named.with_context(context).sample(prefix, 20, seed=1)
    head = named.validity.boundary(prefix.encode())
    assert 0 < head < len(prefix)
    context = [p, *named.vocab.encode(prefix[:head].encode()), s, *named.vocab.encode(suffix.encode()), m]
    assert named.fill(prefix, suffix, 20, seed=1) == named.with_context(context).sample(
        prefix[head:], 20, seed=1
    )


def test_drawing(model: ByteModel) -> None:
    assert model.sample("The", 12, seed=1) == model.sample("The", 12, seed=1)
    generator = torch.Generator().manual_seed(1)
    assert model.sample("The", 12, generator=generator) == model.sample("The", 12, seed=1)
    state, text = model.state("The"), b""
    while len(text) < 8 and (best := int(state.log_probs.argmax())) < 256:
        state, text = state.step(best), text + bytes([best])
    assert model.sample("The", 8, temperature=0) == text
    assert model.sample("The", 8, top_p=1e-9, seed=5) == text
    assert model.sample("The", 0) == b""
    draws = model.sample_batch(["The"] * 1, 1, seed=2)
    assert len(draws[0]) <= 1
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_bytes": -1}, {"temperature": math.nan}):
        with pytest.raises(InputError):
            model.sample("The", **bad)
    with pytest.raises(InputError, match="not both"):
        model.sample("The", seed=1, generator=generator)


def test_draws_follow_the_distribution() -> None:
    tokenizer = letters()[0]
    model = byte_model(random_table(tokenizer, 0), tokenizer)
    generator = torch.Generator().manual_seed(0)
    expected = np.exp(model.state("a").log_probs)
    drawn = [model.sample("a", 1, generator=generator) for _ in range(200)]
    for byte in b"abc":
        share = sum(d == bytes([byte]) for d in drawn) / len(drawn)
        assert abs(share - expected[byte]) < 4 * math.sqrt(expected[byte] / len(drawn)) + 1e-3


def test_bad_input_is_refused_by_name(tokenizer: PreTrainedTokenizerFast, model: ByteModel) -> None:
    lm = model.lm
    with pytest.raises(InputError, match="no prompt"):
        model.states([])
    with pytest.raises(InputError, match="surrogate"):
        model.state("a\ud800")
    with pytest.raises(InputError, match="is no byte"):
        model.state("a").step(256)
    with pytest.raises(InputError, match="context"):
        model.state("a", context=[])
    with pytest.raises(InputError, match="outside the model's vocabulary"):
        byte_model(lm, tokenizer, stops=[10_000])
    with pytest.raises(InputError, match="512"):
        model.state("a " * 600)
    with pytest.raises(InputError, match="pass its tokenizer"):
        byte_model(lm)


def test_tokens_that_were_added_since_are_not_passed_over() -> None:
    tokenizer = train_bpe(CORPUS, 300, min_frequency=1)
    lm = llama(len(tokenizer))
    made = byte_model(lm, tokenizer)
    assert np.isfinite(made.log_prob("wordy"))
    tokenizer.add_tokens(["<new>"], special_tokens=True)
    for use in (
        lambda: made.log_prob("wordy"),
        lambda: made.with_context([0]),
        lambda: TokenContinuation(made),
    ):
        with pytest.raises(InputError, match="Make another: byte_model"):
            use()
    lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with pytest.raises(InputError, match=f"the model {len(tokenizer)}; when this byte model was made"):
        made.log_prob("wordy")
    assert np.isfinite(byte_model(lm, tokenizer).log_prob("wordy"))


@pytest.mark.parametrize("form", [list, torch.tensor, lambda ids: torch.tensor([ids]), lambda ids: [ids]])
def test_a_context_may_have_a_batch_axis(model: ByteModel, form: Callable[[list[int]], Any]) -> None:
    expected = model.state("wo", context=[0, 7]).log_probs
    np.testing.assert_array_equal(model.state("wo", context=form([0, 7])).log_probs, expected)
    np.testing.assert_array_equal(model.with_context(form([0, 7])).state("wo").log_probs, expected)
    with pytest.raises(InputError, match="got 2 texts"):
        model.state("wo", context=[[0, 7], [0, 8]])


def _untold(size: int) -> Any:
    return BartForCausalLM(
        BartConfig(
            vocab_size=size, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32
        )
    )


def _local(size: int) -> Any:
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=size, hidden_size=32, num_layers=2, num_heads=2, window_size=12, bos_token_id=0, eos_token_id=0,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
        )
    )  # fmt: skip


def test_models_that_cannot_read_side_by_side_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    with pytest.raises(UnsupportedError, match="BartForCausalLM takes no `position_ids`"):
        byte_model(_untold(size), tokenizer)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(UnsupportedError, match="MambaForCausalLM keeps no cache of keys and values"):
        byte_model(mamba, tokenizer)
    with pytest.raises(UnsupportedError, match=r"window of 12 tokens, .* may grow to"):
        byte_model(_local(size), tokenizer).log_prob("the words are wordy, are they not?", prompt="")
    with pytest.raises(InputError, match="LlamaModel gives no logits"):
        byte_model(llama(size).model, tokenizer, stops=[], context=[0]).log_prob("a")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=True), "Unigram"),
        (models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"), "WordPiece"),
    ],
)
def test_other_kinds_of_tokenizers_are_refused(model: models.Model, says: str) -> None:
    core = Tokenizer(model)
    core.pre_tokenizer = (
        pre_tokenizers.Metaspace() if says == "Unigram" else pre_tokenizers.BertPreTokenizer()
    )
    with pytest.raises(UnsupportedError, match=says):
        byte_model(llama(8), PreTrainedTokenizerFast(tokenizer_object=core))


def test_tokenizers_that_exactness_does_not_cover_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="dropout"):
        byte_model(llama(300), bpe([], dropout=0.1))
    with pytest.raises(UnsupportedError, match="may look at something else"):
        byte_model(llama(300), bpe([], pattern=r"(?<=a)b|."))
    skips = bpe([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")], ignore_merges=True)
    assert byte_model(llama(300), skips).exact
    # "abc" has a token, but its merges give a+bc first: only looking words up finds it.
    odd = bpe([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")], ignore_merges=True)
    with pytest.raises(UnsupportedError, match="ignore_merges"):
        byte_model(llama(300), odd)


@pytest.mark.packages
@pytest.mark.slow
def test_agrees_with_the_token_likelihood_of_smollm2() -> None:
    from tokenry.models.load import load

    lm, tokenizer = load("smollm2")
    model = byte_model(lm, tokenizer)
    for text in (
        "It is 2024.\n\nThe quick  brown fox — isn't it?\n    return x+1\n",
        "Paris is the capital.",
    ):
        ids = [*model.context, *tokenizer.encode(text), model.stops[0]]
        with torch.no_grad():
            logs = lm(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        likelihood = float(logs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())
        assert model.log_mass(text, end=True) == pytest.approx(likelihood, abs=1e-3)
        # The distribution over bytes gives what the model wastes on impossible tokens to the possible ones.
        assert model.log_prob(text) >= model.log_mass(text) - 1e-3
    for space in "\u2003\u2028\u202f\u2009\u200a":
        assert np.isfinite(model.log_prob(f"a {space}b"))
    state = model.state("The capital of France is Par")
    assert np.exp(state.log_probs[ord("i")]) > 0.9
