"""Dynamic tokenization on decoders and encoders: identity, boundaries, embeddings, padding, generation, scoring."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tokenry.text.dynamic_tokenization.boundaries import Boundary, pair_rule, segments
from tokenry.text.dynamic_tokenization.merge_queue import MergeQueue, naive_merges
from tokenry.text.dynamic_tokenization.model import DynamicModel, dynamic
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett import HypernetConfig, Hypernetwork, source_rows
from tokenry.tokens.errors import InputError, UnsupportedError

TEXTS = [
    "The lowest lower price isn't the lowest, it's lower; 12345 tests.",
    "Low prices\n\n  are lower than the lowest\tprices – naïve café-owners know.",
    "a",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    corpus = ["the lowest lower low prices are tests of the tokens, know the price " * 20]
    return train_bpe(corpus, 280)


def llama(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def gpt2(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, eos_token_id=None
    )
    return GPT2LMHeadModel(config).eval()


def bert(tokenizer: PreTrainedTokenizerFast) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    return BertModel(config).eval()


def network(model: PreTrainedModel) -> Hypernetwork:
    torch.manual_seed(1)
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2)).eval()
    hypernet.fit_scalers(source_rows(model))
    return hypernet


def alone(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]))[0][0]


# ------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_no_merges_is_the_identity(make: type, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make(tokenizer)
    run = dynamic(model, tokenizer, merges=0)
    ids = run.encode(TEXTS)
    batch = run(TEXTS)
    assert batch.lengths == batch.original_lengths == [len(row) for row in ids]
    assert batch.saved == 0
    with torch.no_grad():
        out = run.forward(TEXTS)[0]
    for row, mask, own in zip(out, batch["attention_mask"].bool(), ids, strict=True):
        torch.testing.assert_close(row[mask], alone(model, own), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("merges", [1, 5, 50])
@pytest.mark.parametrize("boundary", ["pretokens", "word", "word_hyphen", "sentence"])
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_bytes_never_change(
    merges: int, boundary: Boundary, scope: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = dynamic(llama(tokenizer), tokenizer, merges=merges, boundary=boundary, scope=scope)
    batch = run(TEXTS)
    assert [b"".join(row).decode() for row in batch.tokens] == TEXTS
    assert batch["attention_mask"].sum(1).tolist() == batch.lengths
    assert all(a <= b for a, b in zip(batch.lengths, batch.original_lengths, strict=True))


def test_lengths_do_not_grow_with_merges(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    lengths = [dynamic(model, tokenizer, merges=m)(TEXTS).lengths for m in range(0, 40, 4)]
    for before, after in pairwise(lengths):
        assert all(a >= b for a, b in zip(before, after, strict=True))
    assert sum(lengths[-1]) < sum(lengths[0])


# ---------------------------------------------------------------------------------------------- boundaries


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("lowetsT 's12,-é\n\t–"), min_size=1, max_size=60))
@pytest.mark.parametrize("rule", ["gpt2", "gpt4"])
def test_merging_to_the_end_gives_the_pre_tokens(rule: str, text: str) -> None:
    vocabulary = VOCABULARIES[rule]
    ids = vocabulary.encode(text.encode())
    found = []
    for a, b in segments(vocabulary, ids, "pretokens"):
        queue = MergeQueue(
            [[vocabulary.token_bytes[i] for i in ids[a:b]]], pair_rule(vocabulary, "pretokens")
        )
        queue.run()
        found.extend(queue.sequences[0])
    data = text.encode()
    assert found == [data[a:b] for a, b in vocabulary.pretoken_spans(data)]


VOCABULARIES = {
    rule: ByteVocab.from_tokenizer(train_bpe(["lowest lower low " * 20], 263, pre_tokenizer=rule))
    for rule in ("gpt2", "gpt4")
}


def test_the_whole_saving_is_the_pre_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    run = dynamic(llama(tokenizer), tokenizer, reduction=1.0)
    batch = run(TEXTS)
    for row, text in zip(batch.tokens, TEXTS, strict=True):
        data = text.encode()
        assert row == [data[a:b] for a, b in run.vocabulary.pretoken_spans(data)]


def test_wordpiece_words_are_its_pre_tokens() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "low", "##er", "##est", "the", "##s", ","]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    run = dynamic(bert(own), own, reduction=1.0)
    batch = run(["The lowest, lowers", "the xyz"])
    assert batch.tokens == [[b"", b" the", b" lowest", b" ,", b" lowers", b""], [b"", b" the", b"", b""]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]  # encoders pad on the right
    assert "position_ids" not in batch


@pytest.mark.parametrize(
    ("boundary", "left", "right", "allowed"),
    [
        ("pretokens", b" low", b"er", True),
        ("word", b" low", b"er", True),
        ("word", b" low", b" er", False),
        ("word", b"low", b"\n", False),
        ("word", b"low", b",", True),
        ("word", b" ", b" ", False),
        ("word", b"caf", b"\xc3", True),
        ("word", b"\xc3", b" a", False),
        ("word_hyphen", b"low", b",", False),
        ("word_hyphen", b"(", b"low", False),
        ("word_hyphen", b"low", b"-", True),
        ("word_hyphen", b"low-", b"fat", True),
        ("word_hyphen", b"-", b"-", True),
        ("sentence", b"low", b" er", True),
        ("sentence", b"\n", b"\n", True),
    ],
)
def test_pair_rules(
    boundary: Boundary, left: bytes, right: bytes, allowed: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert pair_rule(ByteVocab.from_tokenizer(tokenizer), boundary)(left, right) is allowed


def test_sentencepiece_has_no_seams_but_white_space() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = {"<unk>": 0} | {f"<0x{i:02X}>": i + 1 for i in range(256)}
    pieces |= {c: 257 + i for i, c in enumerate("▁abl")}
    backend = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Metaspace()
    own = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    run = dynamic(llama(own), own, reduction=1.0)
    assert run(["ab la"]).tokens == [[b" ab", b" la"]]
    rule = pair_rule(run.vocabulary, "pretokens")
    assert rule(b" ", b" ")
    assert not rule(b"\n", b"\n")
    assert not rule(b"a", b" ")


def test_merges_are_those_of_the_naive_recount(tokenizer: PreTrainedTokenizerFast) -> None:
    run = dynamic(llama(tokenizer), tokenizer, merges=7)
    words = []
    for row in run.encode(TEXTS):
        for a, b in segments(run.vocabulary, row, "pretokens"):
            words.append([run.vocabulary.token_bytes[i] for i in row[a:b]])
    expected, _ = naive_merges(words, 7, lambda left, right: True)
    assert [token for row in run(TEXTS).tokens for token in row] == [
        token for word in expected for token in word
    ]


def test_scope_decides_what_is_counted_together(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["zq zq zq xy", "xy xy xy xy zq"]
    model = llama(tokenizer)
    together = dynamic(model, tokenizer, merges=1)(texts)
    single = dynamic(model, tokenizer, merges=1, scope="sample")(texts)
    alone = [dynamic(model, tokenizer, merges=1)(text).tokens[0] for text in texts]
    assert single.tokens == alone
    assert together.tokens != single.tokens


def test_reductions_are_shares_of_the_greatest_saving(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    full = dynamic(model, tokenizer, reduction=1.0)(TEXTS)
    before, after = sum(full.original_lengths), sum(full.lengths)
    for share in (0.0, 0.25, 0.5):
        batch = dynamic(model, tokenizer, reduction=share)(TEXTS)
        saved = before - sum(batch.lengths)
        assert saved >= share * (before - after) - 1e-9
        m = dynamic(model, tokenizer, merges=0).merges_for(TEXTS, share, batch_size=3)
        assert dynamic(model, tokenizer, merges=m)(TEXTS).tokens == batch.tokens
        assert m == 0 or dynamic(model, tokenizer, merges=m - 1)(TEXTS).saved < share * full.saved + 1e-9


# ---------------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("tied", [True, False])
def test_rows_come_from_the_hypernetwork_and_source_tokens_keep_theirs(
    tied: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = llama(tokenizer, tied=tied)
    hypernet = network(model)
    run = dynamic(model, tokenizer, hypernet, reduction=1.0)
    assert "hypernetwork" in run.predicts
    assert "mean" in dynamic(model, tokenizer, merges=1).predicts
    batch = run(TEXTS)
    rows = model.get_input_embeddings().weight
    for embeds, mask, tokens in zip(
        batch["inputs_embeds"], batch["attention_mask"].bool(), batch.tokens, strict=True
    ):
        for vector, token in zip(embeds[mask], tokens, strict=True):
            if token in run.vocabulary.ids:
                assert torch.equal(vector, rows[run.vocabulary.ids[token]])
            else:
                surface = run._surfaces.matrix([token])
                expected = hypernet.predict(surface, source_rows(model)).input_embeddings[0]
                torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)
        assert embeds[~mask].abs().sum() == 0
    predicted = dynamic(model, tokenizer, hypernet, merges=0, keep_source=False)(TEXTS)
    assert not torch.allclose(predicted["inputs_embeds"], run.model.get_input_embeddings().weight[0])


@pytest.mark.parametrize("cache", [0, 3, 5000])
def test_cached_and_uncached_embeddings_are_equal(cache: int, tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    hypernet = network(model)
    run = dynamic(model, tokenizer, hypernet, merges=10, cache=cache)
    first = run(TEXTS)["inputs_embeds"]
    run(["some other lowest words of prices know"])
    again = run(TEXTS)["inputs_embeds"]
    uncached = dynamic(model, tokenizer, hypernet, merges=10, cache=0)(TEXTS)["inputs_embeds"]
    torch.testing.assert_close(first, again, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(first, uncached, atol=1e-6, rtol=1e-6)
    assert len(run.cache) <= cache
    if cache == 5000:
        assert run.cache.hits > 0


def test_without_a_hypernetwork_rows_are_means_of_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    run = dynamic(model, tokenizer, reduction=1.0)
    batch = run("zqx")
    assert batch.tokens == [[b"zqx"]]
    rows = model.get_input_embeddings().weight
    ids = [run.vocabulary.ids[piece] for piece in (b"z", b"q", b"x")]
    torch.testing.assert_close(batch["inputs_embeds"][0, 0], rows[ids].mean(0))


def test_models_that_scale_their_embeddings_scale_these_too(tokenizer: PreTrainedTokenizerFast) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    model = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=8,
            pad_token_id=0,
        )
    ).eval()
    run = dynamic(model, tokenizer, merges=0)
    ids = torch.tensor(run.encode(TEXTS[0]))
    assert torch.equal(run(TEXTS[0])["inputs_embeds"], model.get_input_embeddings()(ids))


def test_bfloat16(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer).to(torch.bfloat16)
    batch = dynamic(model, tokenizer, network(model), merges=9)(TEXTS)
    assert batch["inputs_embeds"].dtype == torch.bfloat16
    assert torch.isfinite(model(**batch).logits).all()


# ------------------------------------------------------------------------------------------ running models


def test_padding_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    for make in (llama, gpt2, bert):
        model = make(tokenizer)
        run = dynamic(model, tokenizer, network(model), merges=6, scope="sample")
        with torch.no_grad():
            out, batch = run.forward(TEXTS)[0], run(TEXTS)
            for row, mask, text in zip(out, batch["attention_mask"].bool(), TEXTS, strict=True):
                torch.testing.assert_close(row[mask], run.forward(text)[0][0], atol=1e-4, rtol=1e-4)


def test_generation_is_the_models_own_and_the_same_in_a_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    plain = dynamic(model, tokenizer, merges=0)
    ids = torch.tensor(plain.encode(TEXTS[0]))
    own = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert torch.equal(plain.generate(TEXTS[0], max_new_tokens=8, do_sample=False)[0], own[0, ids.shape[1] :])
    run = dynamic(model, tokenizer, network(model), merges=8, scope="sample")
    together = run.generate(TEXTS, max_new_tokens=8, do_sample=False)
    for row, text in zip(together, TEXTS, strict=True):
        assert torch.equal(row, run.generate(text, max_new_tokens=8, do_sample=False)[0])


def test_scores_are_those_of_the_model(tokenizer: PreTrainedTokenizerFast) -> None:
    model = llama(tokenizer)
    answers = [" lower prices", " x", " the lowest of all"]
    scores = dynamic(model, tokenizer, merges=0).score(TEXTS, answers)
    for text, answer, score in zip(TEXTS, answers, scores, strict=True):
        prompt = tokenizer(text)["input_ids"]
        tail = tokenizer(answer, add_special_tokens=False)["input_ids"]
        logits = alone(model, prompt + tail).log_softmax(-1)
        expected = sum(logits[len(prompt) + i - 1, token] for i, token in enumerate(tail))
        torch.testing.assert_close(score, expected, atol=1e-3, rtol=1e-4)
    merged = dynamic(model, tokenizer, network(model), merges=8).score(TEXTS, answers)
    assert torch.isfinite(merged).all()
    assert not torch.allclose(merged, scores)


def test_labels_follow_the_first_part(tokenizer: PreTrainedTokenizerFast) -> None:
    run = dynamic(bert(tokenizer), tokenizer, reduction=1.0)
    ids = run.encode(["zqx low", "zq"])
    batch = run(["zqx low", "zq"])
    labels = batch.follow([list(range(len(row))) for row in ids])
    assert batch.tokens == [[b"zqx", b" low"], [b"zq"]]
    assert labels.tolist() == [[0, 3], [0, -100]]


def test_truncation_happens_before_merging(tokenizer: PreTrainedTokenizerFast) -> None:
    run = dynamic(llama(tokenizer), tokenizer, reduction=1.0)
    batch = run("zqx wvu", max_length=5)
    assert batch.original_lengths == [5]
    assert batch.tokens == [[b"zqx", b" w"]]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either merges"),
        ({"merges": 1, "reduction": 0.5}, "either merges"),
        ({"merges": -1}, "negative"),
        ({"reduction": 1.5}, "between 0 and 1"),
        ({"merges": 1, "boundary": "line"}, "Boundary"),
        ({"merges": 1, "scope": "corpus"}, "Scope"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, object], message: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(
        Exception, match=message
    ) as caught:  # jaxtyping's hook sees wrong literals first in tests
        dynamic.__wrapped__(llama(tokenizer), tokenizer, **arguments)
    assert isinstance(caught.value, InputError)


def test_bad_texts_and_models_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    run: DynamicModel = dynamic(llama(tokenizer), tokenizer, merges=1)
    with pytest.raises(InputError, match="No texts"):
        run([])
    with pytest.raises(InputError, match="no tokens"):
        run(["a", ""])
    with pytest.raises(InputError, match="2 prompts and 1"):
        run.score(["a", "b"], ["c"])
    with pytest.raises(InputError, match="at least one token"):
        run.score(["a"], [""])
    encoder = dynamic(bert(tokenizer), tokenizer, merges=1)
    with pytest.raises(UnsupportedError, match="does not predict"):
        encoder.score(["a"], ["b"])
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    with pytest.raises(UnsupportedError, match="encoder and a decoder"):
        dynamic(t5, tokenizer, merges=1)


def test_masked_language_models_run_too(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).eval()
    run = dynamic(model, tokenizer, network(model), reduction=0.5)
    assert run.forward(TEXTS).logits.shape[:2] == (3, max(run(TEXTS).lengths))


# ------------------------------------------------------------------------------------------- a model that changes


def same_inputs(subject: DynamicModel, other: DynamicModel, text: str = TEXTS[0]) -> None:
    found, expected = subject(text), other(text)
    assert found.tokens == expected.tokens
    assert torch.equal(found["inputs_embeds"], expected["inputs_embeds"])


@pytest.mark.parametrize("tied", [True, False])
def test_rows_follow_a_model_in_training(tokenizer: PreTrainedTokenizerFast, tied: bool) -> None:
    model = llama(tokenizer, tied=tied)
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2)).eval()
    subject = dynamic(model, tokenizer, hypernet, merges=6)
    before = subject(TEXTS[0])["inputs_embeds"]
    for module in (model, hypernet):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        same_inputs(subject, dynamic(model, tokenizer, hypernet, merges=6))
    assert not torch.equal(subject(TEXTS[0])["inputs_embeds"], before)
    hits = subject.cache.hits
    subject(TEXTS[0])
    assert subject.cache.hits > hits  # nothing has changed since
    model.double()
    assert subject(TEXTS[0])["inputs_embeds"].dtype == torch.float64


def test_tokens_that_were_added_since_are_merged_too() -> None:
    tokenizer = train_bpe(["the lowest lower low prices are tests of the tokens, know the price " * 20], 280)
    model = llama(tokenizer)
    subject = dynamic(model, tokenizer, merges=6)
    subject(TEXTS[0])
    tokenizer.add_tokens(["café-owners"])
    model.resize_token_embeddings(len(tokenizer) + 2, mean_resizing=False)
    same_inputs(subject, dynamic(model, tokenizer, merges=6), "lower prices – naïve café-owners know")
