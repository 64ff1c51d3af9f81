"""Cabrita as one recipe: vocabulary, resizing, training, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenry.text.cabrita.training import CabritaRecipe, run
from tokenry.text.training import save_tokenizer, train_bpe
from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.train.language import small_llama
from tokenry.train.loop import LoopSettings

ENGLISH = "The information about the system is in the documentation of the program, and so is the number. "
PORTUGUESE = (
    "A informação sobre as funções do sistema está na documentação e não há solução para a situação. "
)


@pytest.fixture
def recipe(tmp_path: Path) -> CabritaRecipe:
    """A tiny English model, and eight Portuguese documents."""
    tokenizer = train_bpe([ENGLISH * 3], 300)
    save_tokenizer(tokenizer, tmp_path / "base")
    small_llama(300, layers=1, width=16, heads=2, context=64, eos_token_id=0).save_pretrained(
        tmp_path / "base"
    )
    for index in range(8):
        folder = tmp_path / "pt"
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.txt").write_text(f"Documento {index}. " + PORTUGUESE * 4, encoding="utf-8")
    (tmp_path / "en.txt").write_text(ENGLISH * 4, encoding="utf-8")
    return CabritaRecipe(
        output=tmp_path / "out",
        texts=(str(tmp_path / "pt"),),
        old_texts=(str(tmp_path / "en.txt"),),
        size=330,
        model=str(tmp_path / "base"),
        length=16,
        batch=4,
        loop=LoopSettings(steps=12, lr=1e-2, warmup=2, precision="no", checkpoint_every=4),
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_it_extends_resizes_trains_and_measures(recipe: CabritaRecipe) -> None:
    report = run(recipe)
    tokenizer = AutoTokenizer.from_pretrained(report.folder)
    model = AutoModelForCausalLM.from_pretrained(report.folder)
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == 330
    assert report.tokens["new language, new vocabulary"] > 1.2 * report.tokens["new language, old vocabulary"]
    assert report.bits["new language, trained"] < 0.85 * report.bits["new language, resized"]
    assert set(report.bits) == {
        f"{who} language, {when}" for who in ("new", "old") for when in ("before", "resized", "trained")
    }
    assert report.details["vocabulary"] == {"old": 300, "new": 330}
    again = run(recipe)
    assert again == report, "what is done is not done again"
    assert json.loads((recipe.output / "cabrita.json").read_text())["bits"] == report.bits


def test_an_interrupted_run_ends_in_the_same_weights(recipe: CabritaRecipe, tmp_path: Path) -> None:
    whole = run(recipe)
    parts = replace(recipe, output=tmp_path / "parts")
    stopped = run(parts, stop_after=6)
    assert stopped.folder is None
    assert not (parts.output / "model").exists()
    finished = run(parts)
    assert finished.bits == whole.bits
    one, two = _weights(whole.folder), _weights(finished.folder)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_recipes_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("output: x\ntexts: [a]\nsize: 400\nloop: {steps: 3, betas: [0.9, 0.95]}\n")
    found = CabritaRecipe.load(file)
    assert (found.texts, found.size, found.loop.betas, found.init) == (("a",), 400, (0.9, 0.95), "mean")
    for content in (
        "output: x\n",
        "- a\n",
        "output: x\ntexts: [a]\nsize: 4\nloop: {steps: 3}\ncolour: red\n",
        "{",
    ):
        file.write_text(content)
        with pytest.raises(InputError, match="not a recipe for Cabrita"):
            CabritaRecipe.load(file)
    with pytest.raises(InputError, match="not a recipe for Cabrita"):
        CabritaRecipe.load(tmp_path / "nowhere.yaml")


def test_the_recipe_in_the_repository_is_one() -> None:
    recipe = CabritaRecipe.load(Path(__file__).parents[2] / "recipes/cabrita.yaml")
    assert recipe.model == "smollm2"
    assert not recipe.append_after


def test_what_cannot_be_run_is_said(recipe: CabritaRecipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        run(replace(recipe, model=str(tmp_path / "pt")))
    with pytest.raises(UnknownNameError, match=r"no stop words of 'tlh'.*en, es, pt"):
        replace(recipe, language="tlh")
    with pytest.raises(InputError, match="Texts names no corpus"):
        replace(recipe, texts=())
    with pytest.raises(UnknownNameError, match="no file, folder or corpus"):
        run(replace(recipe, texts=(str(tmp_path / "missing"),)))
    with pytest.raises(InputError, match=r"No document is left after cleaning.*stop_words"):
        run(replace(recipe, texts=(str(tmp_path / "en.txt"), str(tmp_path / "en.txt"))))


def test_another_recipe_does_not_go_on_in_the_same_output(recipe: CabritaRecipe) -> None:
    run(recipe, stop_after=4)
    with pytest.raises(InputError, match=r"started with another size, seed: choose another output"):
        run(replace(recipe, size=340, seed=1))
    run(replace(recipe, loop=replace(recipe.loop, checkpoint_every=2)))
    with pytest.raises(InputError, match="started with another size"):
        run(replace(recipe, size=340))


@pytest.mark.parametrize("append_after", [False, True])
def test_both_orders_train(recipe: CabritaRecipe, append_after: bool) -> None:
    report = run(replace(recipe, append_after=append_after, language=None, init="random"))
    assert report.bits["new language, trained"] < report.bits["new language, resized"]
