"""Pre-training from a recipe: every kind, continuing, two processes, and what a user can get wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForPreTraining,
    ElectraForPreTraining,
    LlamaForCausalLM,
)

from tests.train.encoders import TEXTS
from tests.train.regression import QUIET
from tokenry.learn.pretrain import PretrainRecipe, kinds, run
from tokenry.tokens.errors import InputError, TokenryError

ROOT = Path(__file__).parents[2]
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, tuple[dict[str, Any], int, type]] = {
    "mlm": (BERT, 90, BertForMaskedLM),
    "electra": (
        {"width": 16, "layers": 1, "heads": 2, "embedding": 8},
        90,
        ElectraForPreTraining,
    ),
    "dupmae": (BERT, 90, BertForMaskedLM),
    "cubert": (BERT, 300, BertForPreTraining),
    "causal": ({"layers": 1, "width": 16, "heads": 2}, 270, LlamaForCausalLM),
}


def recipe(folder: Path, kind: str, **changes: Any) -> Path:
    """A recipe of a few steps on a few files, and where it is."""
    model, size, _ = MODELS[kind]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(TEXTS):
        code = (
            f"def f{number}(a, b):\n    c = a + b * {number}\n    return c\n\n\nvalue = f{number}(1, 2)\n" * 3
        )
        (corpus / f"{number:02}.txt").write_text(code if kind == "cubert" else text)
    content = {
        "output": str(folder / "run"),
        "corpus": {"paths": [str(corpus)]},
        "tokenizer": {"size": size},
        "objective": {"kind": kind},
        "model": model,
        "length": 24,
        "batch": 8,
        "training": {"steps": 6, "lr": 0.001, "warmup": 2, "checkpoint_every": 3, "precision": "no"},
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_ends_in_an_ordinary_folder(kind: str, tmp_path: Path) -> None:
    folder = run(PretrainRecipe.load(recipe(tmp_path, kind)), QUIET)
    model = MODELS[kind][2].from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    made = tokenizer(["value"], return_tensors="pt", return_token_type_ids=False)
    assert all(
        tensor.isfinite().all() for tensor in model(**made).values() if isinstance(tensor, torch.Tensor)
    )
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "checkpoints", "model", "recipe.json", "tokenizer",
    ]  # fmt: skip


def test_kinds_are_those_tested() -> None:
    assert set(kinds()) == set(MODELS)


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = run(PretrainRecipe.load(recipe(tmp_path / "a", "electra")), QUIET)
    path = recipe(tmp_path / "b", "electra")
    assert run(PretrainRecipe.load(path), QUIET, stop_after=4) is None
    assert not (tmp_path / "b" / "run" / "model").exists()
    parts = run(PretrainRecipe.load(path), QUIET)
    assert whole is not None
    assert parts is not None
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", sorted((ROOT / "recipes/pretrain").glob("*.yaml")))
def test_the_recipes_of_the_repository_can_be_read(kind: Path) -> None:
    assert PretrainRecipe.load(kind).kind()


@pytest.mark.slow
def test_accelerate_launch_trains_the_same_recipe(tmp_path: Path) -> None:
    """Dropout and samples differ between one and two processes; what is learned from, and its order, do not."""
    model = BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    changes = {"model": model, "objective": {"kind": "mlm", "rate": 0.5}}
    one = run(PretrainRecipe.load(recipe(tmp_path / "one", "mlm", **changes)), QUIET)
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0"]
    two = recipe(tmp_path / "two", "mlm", **changes)
    done = subprocess.run(
        [sys.executable, *launcher, *options, "-m", "tokenry", "train", str(two)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The trained model is in") == 1
    logs = [
        (tmp_path / run_ / "run/checkpoints/log.jsonl").read_text().splitlines() for run_ in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) == 2
    for a, b in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)  # means of each process's own masked tokens
    first, second = (load_file(folder / "model.safetensors") for folder in (one, tmp_path / "two/run/model"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "bart"}}, "There is no objective 'bart'"),
        ({"objective": {"kind": "electra", "shar": 1}}, "setting that does not exist"),
        ({"corpus": {"path": "x"}}, "`corpus` is"),
        ({"corpus": {"paths": ["/nowhere"]}}, "nowhere"),
        ({"tokenizer": {}}, "`tokenizer` is"),
        ({"tokenizer": {"size": 90, "colour": 1}}, "option that does not exist"),
        ({"tokenizer": {"size": 4}}, "does not hold"),
        ({"tokenizer": {"folder": "/nowhere"}}, "There is no folder '/nowhere'"),
        ({"batch": 5000}, "cannot be drawn"),
        ({"colour": 1}, "not a recipe for pre-training: there is no setting 'colour'"),
        ({"objective": {"kind": "mlm"}, "model": {"num_heads": 1}}, "`model` has no setting num_heads"),
        ({"training": {"steps": 0}}, "Steps"),
        ({"training": {"steps": 6, "lr": "1e-3"}}, "training.lr: '1e-3' is a text in YAML, not a number"),
        ({"length": "long"}, "length: a text ('long') where a whole number belongs"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match=re.escape(message)):
        run(PretrainRecipe.load(recipe(tmp_path, "electra", **changes)), QUIET)


def test_another_recipe_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    run(PretrainRecipe.load(recipe(tmp_path, "mlm")), QUIET)
    with pytest.raises(InputError, match=r"started with another .*seed"):
        run(PretrainRecipe.load(recipe(tmp_path, "mlm", seed=3)), QUIET)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a recipe"):
        PretrainRecipe.load(tmp_path / "no.yaml")
