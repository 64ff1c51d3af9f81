"""CuBERT: pairs of blocks of lines, both pre-training tasks, pointers, and that they can be learned."""

import fnmatch
import glob
import inspect
import shlex
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, BertModel

from tokenry.data.text import code_tasks
from tokenry.data.text.code_tasks import Misuse, functions, variable_misuse
from tokenry.text.cubert.tokenizer import CodeTokenizer
from tokenry.text.cubert.training import (
    LineMasking,
    LinePretraining,
    MisusePointer,
    ShuffledBatches,
    code_lines,
    code_rows,
    labelled,
    misuse_rows,
    pack_lines,
    pointer_probabilities,
)
from tokenry.tokens.errors import InputError
from tokenry.train.classification import TextClassification
from tokenry.train.loop import LoopSettings, train
from tokenry.train.masked_lm import BertMasking
from tokenry.train.rows import EncodedRows, RowBatches, SpecialIds, save_folder

SOURCES = tuple(inspect.getsource(module) for module in (code_tasks, textwrap, shlex, glob, fnmatch))
QUIET = Console(quiet=True)


@cache
def tokenizer() -> CodeTokenizer:
    return CodeTokenizer.train(SOURCES, 1500)


@cache
def special() -> SpecialIds:
    return SpecialIds.of(tokenizer().subwords)


def config(**changes: int) -> BertConfig:
    torch.manual_seed(0)
    return BertConfig(
        **{
            "vocab_size": len(tokenizer()),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 200,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        | changes
    )


@cache
def misuses() -> tuple[Misuse, ...]:
    found = [f for source in SOURCES for f in functions(source, lines=(3, 14))]
    made = [variable_misuse(f, seed, bug=bool(seed % 2)) for seed, f in enumerate(found)]
    return tuple(example for example in made if example is not None)


def test_lines_together_are_the_file() -> None:
    lines = code_lines(tokenizer(), SOURCES[1])
    whole = [i for line in lines for i in line.tolist()]
    assert tuple(whole) == tokenizer().encode(SOURCES[1]).ids
    assert len(lines) > 50
    text = tokenizer().subwords.decode(lines[10].tolist())
    assert text.count("___NEWLINE___") == 1
    assert text.endswith("___NEWLINE___\n")
    assert code_lines(tokenizer(), "def f(:\n 'open") == []


def test_pairs_follow_each_other_or_are_from_another_file() -> None:
    rows = pack_lines(tokenizer(), SOURCES, 60, special())
    assert rows.labels is not None
    assert 0.3 < rows.labels.float().mean() < 0.75
    whole = [f"{tokenizer().encode(source).ids}"[1:-1] for source in SOURCES]
    for row in range(0, len(rows), 7):
        ids, types = rows.ids[row], rows.types[row]
        first = ids[(types == 0) & (rows.mask[row] == 1)].tolist()[1:-1]
        second = ids[types == 1].tolist()[:-1]
        assert ids[0] == special().cls
        joined = f"{[*first, *second]}"[1:-1]
        if rows.labels[row] == 0 and len(first) + len(second) < 57:  # nothing was cut away
            assert any(joined in text for text in whole)
        owner = [n for n, text in enumerate(whole) if f"{first}"[1:-1] in text]
        other = [n for n, text in enumerate(whole) if f"{second}"[1:-1] in text]
        assert owner
        assert other
        if rows.labels[row]:
            assert len(owner) > 1 or len(other) > 1 or owner != other
    again = pack_lines(tokenizer(), SOURCES, 60, special())
    assert torch.equal(rows.ids, again.ids)


def test_pre_training_learns_and_leaves_an_ordinary_model(tmp_path: Path) -> None:
    rows = pack_lines(tokenizer(), SOURCES, 48, special())
    batches = RowBatches(rows, 16, LineMasking(BertMasking(special())))
    objective = LinePretraining(BertForPreTraining(config()))
    before = objective.eval()(batches(0))[1]["masked"].item()
    loop = LoopSettings(steps=60, lr=3e-3, warmup=5, precision="no", checkpoint_every=1000)
    train(objective, batches, loop, tmp_path / "run", workers=0, console=QUIET)
    loss, figures = objective.eval()(batches(0))
    assert figures["masked"].item() < 0.8 * before
    torch.testing.assert_close(loss, figures["masked"] + figures["pairs"])
    folder = save_folder(objective.model, tokenizer().subwords, tmp_path / "model")
    again = BertForPreTraining.from_pretrained(folder).eval()
    made = {"input_ids": rows.ids[:2], "attention_mask": rows.mask[:2], "token_type_ids": rows.types[:2]}
    torch.testing.assert_close(
        again(**made).seq_relationship_logits, objective.model(**made).seq_relationship_logits
    )
    loaded = CodeTokenizer.load(folder)
    assert loaded.encode("x = 1").ids == tokenizer().encode("x = 1").ids


# ----------------------------------------------------------------------------------------------------- pointers


def test_pointers_sum_to_one_over_candidates_and_are_zero_elsewhere() -> None:
    logits = torch.tensor([[2.0, 1.0, 3.0, -1.0]])
    candidates = torch.tensor([[True, False, False, True]])
    ours = pointer_probabilities(logits, candidates)
    assert ours[0].tolist() == pytest.approx([0.953, 0, 0, 0.047], abs=1e-3)
    coded = pointer_probabilities(logits, candidates, as_coded=True)
    assert coded[0].tolist() == pytest.approx([0.757, 0.103, 0.103, 0.038], abs=1e-3)
    batch, _ = misuse_rows(tokenizer(), misuses()[:20], 128, special())
    for found in MisusePointer(BertModel(config())).eval().probabilities(batch):
        torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
        assert not found[~batch["candidates"]].any()
        assert (found[batch["candidates"]] > 0).all()


def test_positions_are_the_first_sub_words_of_the_variables() -> None:
    examples = [e for e in misuses() if e.place is not None][:10]
    batch, left_out = misuse_rows(tokenizer(), examples, 200, special())
    assert left_out == 0
    for row, example in enumerate(examples):
        encoded = tokenizer().encode(example.code)
        bounds = [*encoded.starts, len(encoded.ids)]
        text = {1 + start: tokenizer().decode(encoded.ids[start:end]) for start, end in pairwise(bounds)}
        lines = example.code.split("\n")
        names = {lines[line - 1][column:].split("(")[0] for line, column in example.repairs}
        marked = batch["candidates"][row].nonzero()[:, 0].tolist()
        assert marked[0] == 0
        assert len(marked) == 1 + len(example.variables)
        assert batch["error"][row].item() in marked
        mending = {text[int(p)] for p in batch["repairs"][row].nonzero()[:, 0]}
        assert len(mending) == 1
        assert all(name.startswith(next(iter(mending))) for name in names)
        assert text[int(batch["error"][row])] not in mending


def test_a_variable_in_an_f_string_cannot_be_pointed_at() -> None:
    function = functions("def f(one, two):\n    print(one, two)\n    return f'{one} {two}'\n")[0]
    made = [variable_misuse(function, seed) for seed in range(20)]
    inside = [e for e in made if e is not None and e.place is not None and e.place[0] == 3]
    outside = [e for e in made if e is not None and e.place is not None and e.place[0] == 2]
    batch, left_out = misuse_rows(tokenizer(), [*inside, *outside], 60, special())
    assert left_out == len(inside)
    assert (batch["candidates"].sum(1) == 5).all()  # [CLS], two arguments, two uses


def test_losses_of_several_repairs() -> None:
    """Minus the log of the sum by default, minus the sum of the logs as coded; nothing for a function without a bug."""
    batch, _ = misuse_rows(tokenizer(), misuses(), 128, special())
    several = (batch["repairs"].sum(1) > 1).nonzero()[:4, 0]
    clean = (batch["error"] == 0).nonzero()[:2, 0]
    some = {name: tensor[torch.cat([several, clean])] for name, tensor in batch.items()}
    encoder = BertModel(config())
    torch.manual_seed(1)
    joint = MisusePointer(encoder).eval()
    torch.manual_seed(1)
    coded = MisusePointer(encoder, sum_of_logs=True).eval()
    place, repair = joint.probabilities(some)
    located = -place[torch.arange(6), some["error"]].log().mean()
    masses = [repair[row][some["repairs"][row]].tolist() for row in range(4)]
    any_of = -sum(torch.tensor(sum(row)).log() for row in masses) / 6
    all_of = -sum(torch.tensor(row).log().sum() for row in masses) / 6
    torch.testing.assert_close(joint(some)[0], located + any_of)
    torch.testing.assert_close(coded(some)[0], located + all_of)


def test_the_metrics_are_those_of_the_paper() -> None:
    class Says(MisusePointer):
        def probabilities(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return tuple(torch.nn.functional.one_hot(batch[name], 6).float() for name in ("place", "repair"))

    def mark(*places: int) -> list[bool]:
        return [p in places for p in range(6)]

    batch = {
        "error": torch.tensor([0, 0, 2, 2, 3, 4]),
        "place": torch.tensor([0, 1, 2, 2, 5, 0]),
        "repair": torch.tensor([0, 0, 4, 1, 1, 1]),
        "repairs": torch.tensor([mark(), mark(), mark(4, 5), mark(5), mark(1), mark(2)]),
    }
    assert Says(BertModel(config())).metrics(batch, size=4) == {
        "true positives": 50.0,
        "classification": 75.0,
        "localisation": 50.0,
        "repair": 50.0,
        "joint": 25.0,
    }


@pytest.mark.slow
def test_a_pointer_can_be_learned(tmp_path: Path) -> None:
    batch, _ = misuse_rows(tokenizer(), misuses()[:40], 128, special())
    objective = MisusePointer(BertModel(config(), add_pooling_layer=False))
    loop = LoopSettings(steps=150, lr=3e-3, warmup=10, precision="no", checkpoint_every=1000)
    train(objective, ShuffledBatches(batch, 16), loop, tmp_path, workers=0, console=QUIET)
    found = objective.metrics(batch)
    assert found["joint"] > 50
    assert found["true positives"] > 50


def test_functions_are_classified(tmp_path: Path) -> None:
    examples = list(misuses()[:24])
    rows = code_rows(tokenizer(), examples, 64, special())
    assert rows.labels is not None
    assert rows.labels.tolist() == [example.label for example in examples]
    objective = TextClassification(BertModel(config(), add_pooling_layer=False), 2, dropout=0.0)
    batches = ShuffledBatches(labelled(rows), 24)
    before = objective(batches(0))[0].item()
    loop = LoopSettings(steps=60, lr=3e-3, warmup=5, precision="no", checkpoint_every=1000)
    train(objective, batches, loop, tmp_path, workers=0, console=QUIET)
    loss, figures = objective.eval()(batches(0))
    assert loss.item() < 0.7 * before
    assert figures["right"].item() > 0.7


def test_a_docstring_is_the_second_segment_quoted_again() -> None:
    function = functions("def f(a):\n    '''Adds \"one\".'''\n    b = a\n    return b + 1\n")[0]
    example = code_tasks.docstring_mismatch(function, (), 0, bug=False)
    assert example is not None
    rows = code_rows(tokenizer(), [example], 64, special())
    second = rows.ids[0][rows.types[0] == 1].tolist()[:-1]
    assert eval(tokenizer().decode(second)) == 'Adds "one".'


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="two files"):
        pack_lines(tokenizer(), ["def f(:", SOURCES[0]], 32, special())
    with pytest.raises(InputError, match="longer rows"):
        misuse_rows(tokenizer(), [e for e in misuses() if e.place is not None][:3], 4, special())
    with pytest.raises(InputError, match="no examples"):
        code_rows(tokenizer(), [], 32, special())
    rows = pack_lines(tokenizer(), SOURCES, 32, special())
    bare = EncodedRows(rows.ids, rows.mask, rows.types)
    with pytest.raises(InputError, match="pack_lines"):
        LineMasking(BertMasking(special()))(bare, torch.Generator())
    with pytest.raises(InputError, match="labels"):
        labelled(bare)
