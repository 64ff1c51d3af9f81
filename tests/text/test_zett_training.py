"""Training a hypernetwork: losses, batches as functions of the step, resuming, and that it learns."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett import (
    HypernetConfig,
    HypernetOutput,
    Hypernetwork,
    SamplerSettings,
    Surfaces,
    source_rows,
)
from tokenry.text.zett.batches import Frame, IdentityBatches, SampledBatches, ZettTraining
from tokenry.text.zett.surface import PAD
from tokenry.text.zett.training import (
    IdentityObjective,
    NShotObjective,
    TransferObjective,
    lexical_loss,
    train_hypernetwork,
)
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.language import small_llama
from tokenry.train.loop import LoopSettings, share, train

QUIET = Console(quiet=True)
TEXTS = [
    "The lowest price is lower than the lower prices of the tests. " * 4,
    "Tokens are what a model reads; tokenizers decide what a token is. " * 4,
    "",
]
SETTINGS = ZettTraining(
    layers=1,
    heads=2,
    identity_steps=4,
    identity_rows=64,
    steps=4,
    warmup=2,
    batch=4,
    length=16,
    queue=2,
    sampler=SamplerSettings(size=520),
    precision="no",
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_bpe(TEXTS, 290)


def llama(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True) -> LlamaForCausalLM:
    return small_llama(len(tokenizer), layers=1, width=32, heads=2, context=64, tied=tied).eval()


def batches(tokenizer: PreTrainedTokenizerFast, **texts: list[str]) -> SampledBatches:
    vocabulary = ByteVocab.from_tokenizer(tokenizer)
    surfaces = Surfaces(vocabulary, len(tokenizer))
    return SampledBatches(texts or {"": TEXTS}, surfaces, {"<|endoftext|>": 0}, SETTINGS)


# ------------------------------------------------------------------------------------------------ the losses


def test_the_lexical_loss_of_source_rows_is_zero() -> None:
    source = torch.randn(10, 16)
    surface = torch.tensor([[3, PAD], [1, 2], [9, PAD]])
    exact = HypernetOutput(source[[3, 1, 9], :8], source[[3, 1, 9], 8:])
    assert lexical_loss(exact, surface, source) == 0
    other = HypernetOutput(
        source[[3, 5, 9], :8], source[[3, 5, 9], 8:]
    )  # row 1 is not a source token: any will do
    assert lexical_loss(other, surface, source) == 0


def test_the_lexical_loss_by_hand() -> None:
    source = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    surface = torch.tensor([[0, PAD], [2, 1], [1, PAD]])
    rows = torch.tensor([[3.0, 5.0], [7.0, 7.0], [2.0, 1.0]], requires_grad=True)
    # squared distances 1 and 4 over the two single tokens; lengths 5, 10 and 1 of all first pieces
    expected = ((1 + 4) / 2) / ((5 + 10 + 1) / 3)
    loss = lexical_loss(HypernetOutput(rows), surface, source)
    torch.testing.assert_close(loss, torch.tensor(expected))
    loss.backward()
    assert rows.grad is not None
    assert rows.grad[1].abs().sum() == 0


def test_the_lexical_loss_without_single_tokens_is_zero_and_not_nan() -> None:
    source, rows = torch.randn(10, 4), torch.randn(2, 4, requires_grad=True)
    loss = lexical_loss(HypernetOutput(rows), torch.tensor([[1, 2], [3, 4]]), source)
    assert loss == 0
    loss.backward()
    assert torch.isfinite(rows.grad).all()
    # all of them bytes that the vocabulary lacks
    assert lexical_loss(HypernetOutput(rows), torch.tensor([[11], [12]]), source) == 0


# ------------------------------------------------------------------------------------------------- batches


def test_identity_batches_are_distinct_tokens() -> None:
    ids = IdentityBatches(100, 64, 0)(3)["ids"]
    assert len(set(ids.tolist())) == 64
    assert torch.equal(ids, IdentityBatches(100, 64, 0)(3)["ids"])
    assert sorted(IdentityBatches(10, 64, 0)(0)["ids"].tolist()) == list(range(10))


def test_a_batch_is_a_function_of_its_step(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again = batches(tokenizer), pickle.loads(pickle.dumps(batches(tokenizer)))
    expected = [first(step) for step in range(4)]
    for step in (3, 0, 2):
        found = again(step)
        assert all(torch.equal(found[name], expected[step][name]) for name in found)
    assert not torch.equal(expected[0]["input_ids"], expected[1]["input_ids"])


def test_batches_spell_their_texts_and_name_their_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    make = batches(tokenizer)
    batch = make(2)
    surface, copied = batch["surface"][0], batch["copied"][0]
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (4, 16)
    assert (copied >= 0).nonzero().flatten().tolist() == [0]
    assert surface[0].tolist()[:2] == [0, PAD]
    assert int(batch["input_ids"].max()) < len(surface) == len(copied)
    vocabulary = ByteVocab.from_tokenizer(tokenizer)
    for ids, mask, labels, text in zip(
        batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], make.windows(2), strict=True
    ):
        pieces = [surface[token][surface[token] != PAD].tolist() for token in ids[mask]]
        if max(map(len, pieces)) < 7:  # longer tokens are cut
            spelled = b"".join(vocabulary.token_bytes[piece] for row in pieces for piece in row)
            assert f" {text}".encode().startswith(spelled)
        assert torch.equal(labels[:-1][mask[1:]], ids[1:][mask[1:]])


def test_processes_can_share_the_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = batches(tokenizer)(0)
    part = share(batch, 1, 2)
    assert torch.equal(part["input_ids"], batch["input_ids"][2:])
    assert torch.equal(part["surface"][0], batch["surface"][0])
    assert batch["surface"].stride(0) == 0  # a view: the vocabulary is stored once


def test_languages_take_turns_and_keep_their_own_queues(tokenizer: PreTrainedTokenizerFast) -> None:
    make = batches(tokenizer, a=["aaa bbb " * 30], z=["zzz yyy " * 30])
    drawn = [make.language(step) for step in range(12)]
    assert set(drawn) == {0, 1}
    step = max(i for i, language in enumerate(drawn) if language == 1)
    assert int(make(step)["language"]) == 1
    words = set().union(*(make._counts(earlier) for earlier in make._queue(step)))
    assert not {" aaa", " bbb"} & words


# ---------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("tied", [True, False])
def test_the_identity_stage_learns(tied: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = llama(tokenizer, tied=tied)
    source = source_rows(model)
    torch.manual_seed(0)
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2))
    hypernet.fit_scalers(source)
    objective = IdentityObjective(hypernet, source)
    everything = {"ids": torch.arange(len(source))}
    before = float(objective(everything)[0].detach())
    settings = LoopSettings(steps=60, lr=3e-3, warmup=5, precision="no")
    train(objective, IdentityBatches(len(source), 128, 0), settings, tmp_path, workers=0, console=QUIET)
    assert float(objective(everything)[0].detach()) < 0.5 * before


@pytest.mark.parametrize("tied", [True, False])
def test_the_transfer_stage_moves_the_hypernetwork_alone(
    tied: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = llama(tokenizer, tied=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2))
    hypernet.fit_scalers(source_rows(model))
    objective = TransferObjective(hypernet, model)
    assert not any("model" in name.split(".") for name in objective.state_dict())
    loss, figures = objective(batches(tokenizer)(1))
    loss.backward()
    assert set(figures) == {"nats", "lexical"}
    assert hypernet.in_head[1].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_special_tokens_keep_the_models_rows(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenry.text.zett import training as zett

    seen = []
    original = zett.run_with_rows
    monkeypatch.setattr(
        zett, "run_with_rows", lambda m, rows, **k: (seen.append(rows), original(m, rows, **k))[1]
    )
    model = llama(tokenizer)
    TransferObjective(Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2)), model)(
        batches(tokenizer)(0)
    )
    assert torch.equal(seen[0].input_embeddings[0], model.get_input_embeddings().weight[0])
    assert not torch.equal(seen[0].input_embeddings[1], model.get_input_embeddings().weight[1])


def test_n_shot_training_moves_both_and_resumes(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    other = ByteVocab.from_tokenizer(train_bpe([TEXTS[0]], 285))
    vocabulary = ByteVocab.from_tokenizer(tokenizer)

    def objective() -> NShotObjective:
        model = llama(tokenizer)
        surfaces = Surfaces(vocabulary, len(tokenizer))
        surface = surfaces.matrix([token or b" " for token in other.token_bytes])
        copied = torch.full((other.size,), -1)
        copied[0] = 0
        torch.manual_seed(0)
        hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2))
        hypernet.fit_scalers(source_rows(model))
        return NShotObjective(hypernet, model, surface, copied)

    ids = torch.tensor([other.encode(TEXTS[0].encode())[:32]])
    settings = LoopSettings(steps=12, lr=1e-3, warmup=1, precision="no", checkpoint_every=4)

    def run(name: str, stop_after: int | None = None) -> NShotObjective:
        done = train(
            objective(),
            lambda step: {"input_ids": ids},
            settings,
            tmp_path / name,
            workers=0,
            stop_after=stop_after,
            console=QUIET,
        )
        assert isinstance(done, NShotObjective)
        return done

    before, after = objective(), run("whole")
    assert float(after({"input_ids": ids})[1]["nats"]) < float(before({"input_ids": ids})[1]["nats"])
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(after.model.state_dict()[layer], before.model.state_dict()[layer])
    assert torch.equal(after.source, before.source)
    run("parts", stop_after=7)
    parts = run("parts").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in after.state_dict().items())


# ----------------------------------------------------------------------------------------------------- runs


def test_an_interrupted_training_continues_bit_for_bit(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_hypernetwork(llama(tokenizer), tokenizer, TEXTS, tmp_path / "a", SETTINGS, console=QUIET)
    call = SampledBatches.__call__

    def dies(self: SampledBatches, step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return call(self, step)

    monkeypatch.setattr(SampledBatches, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        train_hypernetwork(llama(tokenizer), tokenizer, TEXTS, tmp_path / "b", SETTINGS, console=QUIET)
    monkeypatch.setattr(SampledBatches, "__call__", call)
    resumed = train_hypernetwork(llama(tokenizer), tokenizer, TEXTS, tmp_path / "b", SETTINGS, console=QUIET)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_training_is_not_taken_up_with_something_else(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    train_hypernetwork(llama(tokenizer), tokenizer, TEXTS, tmp_path, SETTINGS, console=QUIET)
    with pytest.raises(InputError, match="started with another settings, text: choose another output"):
        train_hypernetwork(
            llama(tokenizer), tokenizer, TEXTS[:1], tmp_path, replace(SETTINGS, steps=6), console=QUIET
        )


def test_several_languages_get_vectors_of_their_own(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = {"en": TEXTS, "xx": ["zq zq wv " * 30]}
    hypernet = train_hypernetwork(llama(tokenizer), tokenizer, texts, tmp_path, SETTINGS, console=QUIET)
    assert hypernet.config.languages == 2


def wordpiece() -> PreTrainedTokenizerFast:
    """A BERT tokenizer, uncased."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "low", "##er", "##est", "price"]
    words += [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz.;," for mark in ("", "##")]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )


def bert(size: int) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertForMaskedLM(config).eval()


def test_masked_language_models_train_too(tmp_path: Path) -> None:
    own = wordpiece()
    hypernet = train_hypernetwork(bert(len(own)), own, TEXTS, tmp_path, SETTINGS, console=QUIET)
    assert hypernet.config.predict_bias
    log = [json.loads(line) for line in (tmp_path / "transfer" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(entry["nats"]) for entry in log)


def test_masked_batches_have_frames_and_hide_a_share() -> None:
    own = wordpiece()
    vocabulary = ByteVocab.from_tokenizer(own)
    special = {name: own.convert_tokens_to_ids(name) for name in own.all_special_tokens}
    frame = Frame.of(own, masked=True)
    assert frame == Frame((2,), (3,), 4)
    make = SampledBatches({"": TEXTS}, Surfaces(vocabulary, len(own)), special, SETTINGS, frame)
    batch = make(1)
    places = {int(source): i for i, source in enumerate(batch["copied"][0]) if source >= 0}
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"].bool()
    assert (ids[:, 0] == places[2]).all()
    for row, real in zip(ids, mask, strict=True):
        assert int(row[real][-1]) == places[3]
    hidden = labels >= 0
    assert 0.05 < float(hidden.sum() / mask.sum()) < 0.25
    assert not (hidden & ~mask).any()
    assert (ids[hidden] == places[4]).any()
    assert torch.equal(make(1)["input_ids"], ids)


def test_causal_frames_are_the_tokenizers(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Frame.of(tokenizer, masked=False) == Frame()


def test_bad_input_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        train_hypernetwork(llama(tokenizer), tokenizer, ["  ", ""], tmp_path, SETTINGS)
    small = small_llama(280, layers=1, width=32, heads=2)
    with pytest.raises(InputError, match="embedding rows"):
        train_hypernetwork(small, tokenizer, TEXTS, tmp_path, SETTINGS)
    encoder = BertModel(
        BertConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    )
    with pytest.raises(UnsupportedError, match="predicts no tokens"):
        train_hypernetwork(encoder, tokenizer, TEXTS, tmp_path, SETTINGS)
    with pytest.raises(InputError, match="at least"):
        ZettTraining(batch=0)
