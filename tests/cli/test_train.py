"""`tokenry train`: which training a recipe describes, and what is said when it is done, stopped, or wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.learn.test_pretrain import recipe
from tokenry.cli.main import app
from tokenry.cli.terminal import USER_ERROR
from tokenry.train.recipe import RECIPES, read_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
OURS = sorted(FOLDER.rglob("*.yaml"))


def train(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, words)])


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_recipes_of_the_repository_say_what_they_describe(path: Path) -> None:
    kind = yaml.safe_load(path.read_text())["kind"]
    assert type(read_recipe(path)) is RECIPES.get(kind)


def test_every_kind_has_a_recipe_in_the_repository() -> None:
    assert {yaml.safe_load(path.read_text())["kind"] for path in OURS} == set(RECIPES.names())


def test_it_stops_goes_on_and_says_where_the_model_is(tmp_path: Path) -> None:
    path = recipe(tmp_path, "causal")
    stopped = train(path, "--stop-after", "3")
    assert stopped.exit_code == 0, stopped.output
    assert "Stopped; the same command goes on." in stopped.stdout
    done = train(path)
    assert done.exit_code == 0, done.output
    assert f"The trained model is in {tmp_path / 'run' / 'model'}.\n" in done.stdout
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a recipe: No such file or directory."),
        ("{", "is not a recipe: "),
        ("- a", "is not a recipe: it holds no settings (NAME: VALUE)."),
        (
            "kind: langage",
            "says what there is not: There is no kind of recipe 'langage'. Did you mean 'language'?",
        ),
        ("kind: language\noutput: x\ntexts: [a]\nsize: 4\nloop: {steps: 3}\ncolour: red", "'colour'"),
        ("output: x", "is not a recipe for pre-training: it lacks 'corpus' and 'objective' and"),
    ],
)
def test_what_is_wrong_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    found = train(path)
    assert found.exit_code == USER_ERROR
    assert found.stderr.startswith(f"error: {path} ")
    assert message in found.stderr


def test_a_corpus_that_cannot_be_read_leaves_the_output_free(tmp_path: Path) -> None:
    path, output = tmp_path / "recipe.yaml", tmp_path / "run"
    settings = {"output": str(output), "corpus": {"path": "a.txt"}, "tokenizer": {"size": 300}}
    path.write_text(yaml.safe_dump(settings | {"objective": {"kind": "causal"}, "training": {"steps": 1}}))
    found = train(path)
    assert found.exit_code == USER_ERROR
    assert "`corpus` is" in found.stderr
    assert not output.exists()
