"""ZeTT: the network, surface forms, the sampler, running a model with other rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokenry.hosts.encoding import byte_alphabet
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett.network import (
    HypernetConfig,
    HypernetOutput,
    Hypernetwork,
    MeanOfPieces,
    source_rows,
)
from tokenry.text.zett.sampler import SamplerSettings, count_words, sample_tokenizer, substring_scores
from tokenry.text.zett.surface import PAD, Surfaces
from tokenry.text.zett.swap import run_with_rows
from tokenry.tokens.errors import InputError

WORDS = (b" low", b"low", b"er", b"est", b" the", b"lo")


def tokenizer(words: tuple[bytes, ...] = WORDS, alphabet: int = 256) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose tokens are bytes and some words, with an end-of-text token as id 0."""
    chars = byte_alphabet()
    vocabulary = {"<|endoftext|>": 0} | {chars[byte]: 1 + byte for byte in range(alphabet)}
    merges = []
    for word in words:
        surface = "".join(chars[byte] for byte in word)
        for end in range(2, len(surface) + 1):
            if surface[:end] not in vocabulary:
                vocabulary[surface[:end]] = len(vocabulary)
                merges.append((surface[: end - 1], surface[end - 1]))
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def llama(vocab_size: int, *, tied: bool, padding: int | None = None) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        pad_token_id=padding,
    )
    return LlamaForCausalLM(config).eval()


def hypernetwork(rows: int, width: int = 32, **options: object) -> Hypernetwork:
    torch.manual_seed(1)
    return Hypernetwork(HypernetConfig(rows, width, **({"layers": 2, "heads": 4} | options))).eval()


def rows(n: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 + torch.rand(width, generator=generator)
    return torch.randn(n, width, generator=generator) * scale + torch.randn(width, generator=generator)


SURFACE = torch.tensor([[3, PAD, PAD], [1, 2, PAD], [9, 9, 9], [4, PAD, PAD], [2, 1, PAD]])


# ------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("tied", [True, False])
def test_fitted_scalers_give_predictions_the_statistics_of_the_source(tied: bool) -> None:
    source = rows(700, 32 if tied else 64)
    network = hypernetwork(700, tied=tied)
    network.fit_scalers(source)
    scaled = network.in_scaler(source)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(source.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        scaled.std(0, correction=0), torch.full_like(scaled[0], 0.02), atol=1e-4, rtol=0
    )
    out = network.predict(torch.arange(700)[:, None], source)
    parts = [out.input_embeddings, out.output_embeddings][: 1 if tied else 2]
    predicted = torch.cat(parts, 1)
    torch.testing.assert_close(predicted.mean(0), source.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(predicted.std(0), source.std(0), atol=1e-4, rtol=0)


def test_scalers_are_not_trained_unless_asked() -> None:
    def trained(**options: object) -> set[str]:
        names = dict(hypernetwork(10, tied=False, **options).named_parameters())
        return {name.split(".")[0] for name in names if "scaler" in name}

    assert trained() == set()
    assert trained(train_output_scaler=True) == {"out_scaler"}


@pytest.mark.parametrize("languages", [0, 2])
def test_more_padding_changes_nothing(languages: int) -> None:
    network, source = hypernetwork(10, languages=languages), rows(10, 32)
    language = 1 if languages else None
    wide = torch.nn.functional.pad(SURFACE, (0, 12 - 3), value=PAD)
    with torch.no_grad():
        a, b = network(SURFACE, source, language), network(wide, source, language)
    torch.testing.assert_close(a.input_embeddings, b.input_embeddings, atol=1e-5, rtol=0)


def test_every_row_is_computed_for_itself() -> None:
    network, source = hypernetwork(10, tied=False, predict_bias=True), rows(10, 64)
    together = network.predict(SURFACE, source, block=2)
    for i in range(len(SURFACE)):
        alone = network.predict(SURFACE[i : i + 1], source)
        for a, b in zip(together.to_tuple(), alone.to_tuple(), strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-5, rtol=1e-5)


def test_the_order_of_pieces_and_the_language_matter() -> None:
    network, source = hypernetwork(10, languages=2), rows(10, 32)
    first = network.predict(SURFACE, source, 0).input_embeddings
    assert not torch.allclose(first[1], first[4], atol=1e-3)
    assert not torch.allclose(first, network.predict(SURFACE, source, 1).input_embeddings, atol=1e-3)


def test_bytes_without_a_source_token_have_rows_that_learn() -> None:
    network, source = hypernetwork(10), rows(10, 32)
    network(torch.tensor([[10 + 0x41, 3], [10 + 0x42, 3]]), source).input_embeddings.square().sum().backward()
    gradient = network.fallback_embedding.weight.grad
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [0x41, 0x42]


def test_saving_and_loading(tmp_path: Path) -> None:
    network, source = hypernetwork(10, tied=False, languages=2, predict_bias=True), rows(10, 64)
    network.fit_scalers(source)
    network.save_pretrained(tmp_path)
    loaded = Hypernetwork.from_pretrained(tmp_path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for a, b in zip(
        network.predict(SURFACE, source, 1).to_tuple(),
        loaded.predict(SURFACE, source, 1).to_tuple(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)  # memory alignment decides the last bit


def test_bfloat16_and_gradients() -> None:
    network, source = hypernetwork(10), rows(10, 32)
    exact = network.predict(SURFACE, source).input_embeddings
    with torch.autocast("cpu", torch.bfloat16):
        out = network(SURFACE, source).input_embeddings
    torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.1)
    out.float().sum().backward()
    unused = {"encoder.embeddings.word_embeddings.weight", "fallback_embedding.weight"}
    missing = {name for name, p in network.named_parameters() if p.grad is None} - unused
    assert missing == set()


@pytest.mark.parametrize(
    ("surface", "width", "language", "message"),
    [
        (SURFACE, 31, None, "belongs to a model"),
        (torch.tensor([[PAD, PAD]]), 32, None, "at least one piece"),
        (torch.zeros(0, 3, dtype=torch.long), 32, None, "at least one piece"),
        (torch.zeros(1, 8, dtype=torch.long), 32, None, "at most 7"),
        (torch.tensor([[1, PAD, 2]]), 32, None, "on the right only"),
        (SURFACE, 32, 0, "languages"),
    ],
)
def test_bad_calls_are_refused(surface: torch.Tensor, width: int, language: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hypernetwork(10)(surface, rows(10, width), language)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="multiple of heads"):
        HypernetConfig(10, 32, heads=5)


# ------------------------------------------------------------------------------------------- surface forms


def test_the_same_vocabulary_maps_to_itself() -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer())
    surfaces = Surfaces(vocabulary, vocabulary.size)
    ids = [i for i, token in enumerate(vocabulary.token_bytes) if token is not None]
    matrix = surfaces.matrix([vocabulary.token_bytes[i] for i in ids])
    assert matrix[:, 0].tolist() == ids
    assert matrix.shape[1] == 1


def test_other_tokens_are_one_pretoken_of_the_source() -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer())
    surfaces = Surfaces(vocabulary, vocabulary.size)
    ids = vocabulary.ids
    assert surfaces.of(b" lower") == (ids[b" low"], ids[b"er"])
    assert surfaces.of(b"low low") == (ids[b"low"], ids[b" low"])
    assert surfaces.of(b"\xff\xc3") == (ids[b"\xff"], ids[b"\xc3"])
    assert len(surfaces.of(b"zzzzzzzzzz")) == 7
    assert surfaces.matrix([b"est", b" lower"]).tolist() == [[ids[b"est"], PAD], [ids[b" low"], ids[b"er"]]]


def test_bytes_that_the_source_lacks_stand_for_themselves() -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer(alphabet=128))
    surfaces = Surfaces(vocabulary, vocabulary.size)
    assert surfaces.of("loé".encode()) == (
        vocabulary.ids[b"lo"],
        vocabulary.size + 0xC3,
        vocabulary.size + 0xA9,
    )


def test_a_wordpiece_source_matches_longest_pieces() -> None:
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "low": 1, "##er": 2, "##e": 3, "l": 4}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocabulary = ByteVocab.from_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    )
    surfaces = Surfaces(vocabulary, vocabulary.size)
    assert surfaces.of(b" lower") == (1, 2)
    assert surfaces.of(b"er") == (2,)
    assert surfaces.of(b"ez") == (3, vocabulary.size + ord("z"))


def test_bad_surfaces_are_refused() -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer())
    with pytest.raises(InputError, match="embedding rows"):
        Surfaces(vocabulary, vocabulary.size - 1)
    with pytest.raises(InputError, match="empty token"):
        Surfaces(vocabulary, vocabulary.size).matrix([b""])


# ------------------------------------------------------------------------------------------------- sampler


def test_scores_of_the_worked_example() -> None:
    words = count_words(["low low"])
    assert dict(words) == {" low": 2}
    scores = substring_scores(words, stride=1)
    assert sum(scores.values()) == 40
    assert scores[" low"] / 40 == 0.2
    assert scores["low"] / 40 == 0.15


def test_scores_count_bytes_starts_and_lengths() -> None:
    scores = substring_scores({"äbcdefg": 3}, stride=4, longest=2)
    assert scores == {"ä": 6, "äb": 9, "e": 3, "ef": 6}


def sampled(texts: list[str], size: int = 600, z: float | None = 0.0, seed: int = 0):
    scores = substring_scores(count_words(texts), stride=1)
    special = {"<|endoftext|>": 0, "<pad>": 10_000}
    return sample_tokenizer(scores, SamplerSettings(size=size), np.random.default_rng(seed), special, z=z)


def test_a_sampled_tokenizer_is_lossless_and_prefers_what_is_frequent() -> None:
    drawn = sampled(["low low lower the lowest"] * 3 + ["the   tab\t\tend"])
    text = "the lowest – \x00 naïve\n\n\n  end"
    ids = drawn.encode([text])[0]
    assert b"".join(drawn.token_bytes[i] for i in ids).decode() == f" {text}"
    assert drawn.backend.decode(ids) == f" {text}"
    assert b" low" in [drawn.token_bytes[i] for i in drawn.encode(["low low"])[0]]
    assert len(drawn.token_bytes) == drawn.backend.get_vocab_size()
    inside = [token for token in drawn.token_bytes if token and token.strip()]
    assert max(sum(map(token.count, (b" ", b"\t", b"\n"))) for token in inside) == 1


def test_special_tokens_stand_at_their_own_ids_or_at_the_end() -> None:
    drawn = sampled(["some words of text"])
    last = len(drawn.token_bytes) - 1
    assert drawn.special == {0: 0, last: 10_000}
    assert drawn.token_bytes[0] is None
    assert drawn.backend.id_to_token(0) == "<|endoftext|>"
    assert drawn.backend.id_to_token(last) == "<pad>"


def test_the_draw_depends_on_the_generator_alone() -> None:
    texts = ["many different words appear in this short text, some of them twice, in this text"]
    assert sampled(texts, 560, None).token_bytes == sampled(texts, 560, None).token_bytes
    noisy = {sampled(texts, 560, 0.01, seed).token_bytes for seed in range(3)}
    assert len(noisy) == 3


def test_bad_sampling_is_refused() -> None:
    with pytest.raises(InputError, match="empty text"):
        sampled([])
    with pytest.raises(InputError, match="at least 512"):
        SamplerSettings(size=256)
    with pytest.raises(InputError, match="at least 1"):
        SamplerSettings(stride=0)


# ------------------------------------------------------------------------------------ models with other rows


def check_passthrough(model: PreTrainedModel, source: ByteVocab, ids: torch.Tensor) -> None:
    """Rows that the parameter-free hypernetwork makes of a model's own vocabulary reproduce its logits exactly."""
    own = source_rows(model)
    surfaces = Surfaces(source, len(own))
    surface = torch.full((len(own), 1), PAD)
    surface[:, 0] = torch.arange(len(own))  # special tokens, and rows beyond the tokenizer's, are themselves
    text = [i for i, token in enumerate(source.token_bytes) if token is not None and source.ids[token] == i]
    surface[text] = surfaces.matrix([source.token_bytes[i] for i in text])
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    made = MeanOfPieces(tied).predict(surface, own)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        made = HypernetOutput(made.input_embeddings, made.output_embeddings, bias)
        assert torch.equal(run_with_rows(model, made, input_ids=ids).logits, expected)
        assert torch.equal(model(input_ids=ids).logits, expected)  # the model is as it was


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passthrough_reproduces_the_model_bit_for_bit(tied: bool, dtype: torch.dtype) -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer())
    model = llama(vocabulary.size + 3, tied=tied, padding=0).to(dtype)
    check_passthrough(model, vocabulary, torch.tensor([vocabulary.encode(b"the lowest of the lower tests")]))


def test_passthrough_of_a_masked_language_model() -> None:
    vocabulary = ByteVocab.from_tokenizer(tokenizer())
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary.size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
    ).eval()
    torch.nn.init.normal_(model.get_output_embeddings().bias)
    check_passthrough(model, vocabulary, torch.tensor([vocabulary.encode(b"the lowest of the lower tests")]))


@pytest.mark.packages
def test_passthrough_reproduces_smollm2_bit_for_bit() -> None:
    from tokenry.models.load import load

    model, own = load("smollm2")
    ids = own("Tokenizers can be swapped; naïve café – 12345.", return_tensors="pt")["input_ids"]
    check_passthrough(model, ByteVocab.from_tokenizer(own), ids)


def test_gradients_flow_into_other_rows_and_vocabularies_may_be_smaller() -> None:
    model = llama(300, tied=False, padding=299).requires_grad_(False)
    made = HypernetOutput(torch.randn(40, 32, requires_grad=True), torch.randn(40, 32, requires_grad=True))
    logits = run_with_rows(model, made, input_ids=torch.tensor([[1, 39, 5]])).logits
    assert logits.shape == (1, 3, 40)
    logits.sum().backward()
    assert made.input_embeddings.grad[[1, 39, 5]].abs().sum(1).gt(0).all()
    assert made.output_embeddings.grad.abs().sum() > 0
    with pytest.raises(InputError, match="head of its own"):
        run_with_rows(model, HypernetOutput(made.input_embeddings), input_ids=torch.tensor([[1]]))


def test_mean_of_pieces() -> None:
    source = rows(10, 8)
    made = MeanOfPieces(tied=True).predict(
        torch.tensor([[1, 2, PAD], [4, 10 + 7, PAD], [5, PAD, PAD]]), source
    )
    torch.testing.assert_close(
        made.input_embeddings, torch.stack([(source[1] + source[2]) / 2, source[4], source[5]])
    )
