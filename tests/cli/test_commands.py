"""The commands on a saved model: what they print, what they write, how they fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.bench.conftest import make_model
from tests.bench.reducers import synthetic
from tokenry.bench import read_results
from tokenry.bench.lines import ResultsWriter
from tokenry.bench.reducers import measure
from tokenry.cli.groups import Loading
from tokenry.cli.main import app
from tokenry.cli.options import split_budgets, split_methods
from tokenry.cli.terminal import FAILED, USER_ERROR
from tokenry.cli.tune import as_option
from tokenry.data.questions.examples import load_scenes
from tokenry.data.questions.metrics import METRICS
from tokenry.reduce import read_methods
from tokenry.tokens import UnsupportedError

FAST = ("--limit", "2", "--max-new-tokens", "2")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    load_scenes("test", 1)[0].image.save(path)
    return path


def tokenry(*words: str | Path) -> Result:
    group = () if words[0] == "demo" else ("reduce",)
    return CliRunner().invoke(app, [*group, *(str(w) for w in words)])


def test_compare_prints_writes_and_continues(model_folder: Path, tmp_path: Path) -> None:
    words = ("compare", model_folder, "-m", "divprune", "-b", "50%,25%", "-o", tmp_path, *FAST)
    first = tokenry(*words)
    assert first.exit_code == 0, first.output
    for text in ("none", "random", "pool", "divprune", "prefill", "sdpa attention", "report.html"):
        assert text in first.output
    size = (tmp_path / "results.jsonl").stat().st_size
    assert tokenry(*words).exit_code == 0
    added = (tmp_path / "results.jsonl").read_bytes()[size:]
    assert added.count(b'"kind":"result"') == 0
    report = tokenry("report", tmp_path / "results.jsonl", "-o", tmp_path / "again")
    assert report.exit_code == 0
    assert (tmp_path / "again" / "report.html").is_file()


def test_compare_on_a_folder_skips_what_cannot_be_used(
    model_folder: Path, picture: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "scene.png").write_bytes(picture.read_bytes())
    for number in range(5):
        (data / f"stray-{number}.png").touch()
    (data / "questions.jsonl").write_text(
        '{"image": "scene.png", "question": "what is at the top?", "answer": "a cat"}\n'
        '{"image": "missing.png", "question": "what is at the top?"}\nnot json\nnot json\n'
    )
    found = tokenry("compare", model_folder, "--data", data, "-b", "25%", "-o", tmp_path / "out", *FAST)
    assert found.exit_code == 0, found.output
    assert "Skipped 8 things that cannot be used:" in found.output
    for thing in (
        "questions.jsonl:2: picture 'missing.png' cannot be used: No such file",
        "questions.jsonl:3, questions.jsonl:4: no JSON",
        "stray-0.png, stray-1.png, stray-2.png and 2 more: no question",
    ):
        assert f"\n  {thing}" in found.output
    assert "1 questions (data)" in found.output


def test_compare_scores_and_asks_as_it_is_told(model_folder: Path, tmp_path: Path) -> None:
    how = ("--metric", "contains", "--prompt", "{question} Be brief.")
    found = tokenry("compare", model_folder, "-b", "25%", "-o", tmp_path, *how, *FAST)
    assert found.exit_code == 0, found.output
    facts = read_results(tmp_path / "results.jsonl").runs[0].facts
    assert (facts["metric"], facts["prompt"]) == ("contains", "{question} Be brief.")
    assert (
        "scored by contains; asked as <q>{question} Be brief.</q>" in (tmp_path / "report.html").read_text()
    )


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_the_help_tells_what_each_metric_counts(command: str) -> None:
    told = " ".join(re.sub("[│|]", " ", tokenry(command, "--help").output).split())
    for metric in METRICS.values():
        assert f"{metric.name} ({metric.help})" in told


def test_a_page_that_cannot_be_written_does_not_cost_the_table(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "results.jsonl", synthetic.lines())
    (tmp_path / "file").write_text("in the way")
    found = tokenry("report", tmp_path, "-o", tmp_path / "file")
    assert found.exit_code == USER_ERROR
    assert "On 40 questions no method and budget compared here keeps 80 %" in found.output
    assert "error: " in found.output
    assert "Report:" not in found.output


def test_ctrl_c_says_how_to_go_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "answer", interrupt)
    found = tokenry("compare", model_folder, "-b", "25%", "-o", tmp_path, *FAST)
    assert found.exit_code == 130
    assert "same command continues" in found.output


def test_run_answers_and_draws(model_folder: Path, picture: Path, tmp_path: Path) -> None:
    found = tokenry(
        "run", model_folder, picture, "what is at the top?", "-m", "fastervlm", "-b", "25%", "--compare-full",
        "--positions", "keep", "-o", tmp_path / "kept.png", "--max-new-tokens", "3",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "all tokens" in found.output
    assert "prefill FLOPs" in found.output
    assert (tmp_path / "kept.png").is_file()


def test_run_calls_a_configuration_by_its_method_and_budget(model_folder: Path, picture: Path) -> None:
    config = '{"method": "pool", "budget": 9}'
    found = tokenry("run", model_folder, picture, "what?", "-m", config, "--max-new-tokens", "2")
    assert found.exit_code == 0, found.output
    assert "pool 9 " in found.output
    (prefill,) = (line for line in found.output.splitlines() if line.startswith("prefill ms"))
    assert prefill.split()[2] == "–", "the full model was not asked"


def test_what_tune_chose_is_one_option_even_for_a_chain() -> None:
    for spec in ("divprune+fastv", "fastervlm"):
        chosen = read_methods(spec, budget="50%")
        (again,) = split_methods([as_option(chosen)])
        assert read_methods(again) == chosen


def test_tune_tells_when_nothing_qualifies(model_folder: Path, tmp_path: Path) -> None:
    found = tokenry("tune", model_folder, "-m", "divprune", "-b", "50%", "-o", tmp_path, *FAST)
    assert found.exit_code == 0, found.output
    assert "Nothing compared loses" in found.output


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "-m", "divprune", "-b", "50%,25%"),
        ("tune", "-m", "divprune,fastv", "-b", "50%"),
        ("demo",),
    ],
)
def test_when_every_method_is_refused_it_is_said_first_once_and_by_the_exit_code(
    words: tuple[str, ...], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, reason = measure.answer, "This call looks like none that is known."

    def refuse(model: Any, processor: Any, prompt: Any, encoded: Any, arm: Any, **options: Any) -> Any:
        if arm.methods:
            raise UnsupportedError(reason)
        return answer(model, processor, prompt, encoded, arm, **options)

    monkeypatch.setattr(measure, "answer", refuse)
    name, *options = words
    more = ("--questions", "1") if name == "demo" else (model_folder, *FAST)
    found = tokenry(name, *more, *options, "-o", tmp_path)
    assert found.exit_code == FAILED
    said = found.output[found.output.index("Nothing was compared: none of the ") :]
    assert found.output.index("Nothing was compared") < found.output.index("agreement")  # the table
    assert found.output.count(reason) == 1
    assert "random, " in said.splitlines()[1]
    assert "Nothing compared loses" not in found.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing was compared" in page
    assert page.count(reason) == 1


def test_check_holds(model_folder: Path) -> None:
    found = tokenry("check", model_folder)
    assert found.exit_code == 0, found.output
    assert "Supported stages: input, layer" in found.output


def test_an_adapter_and_a_device_map_are_handed_on(model_folder: Path, picture: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    wanted = peft.LoraConfig(target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    peft.get_peft_model(make_model()[0], wanted).save_pretrained(tmp_path / "lora")
    more = ("--adapter", tmp_path / "lora", "--device-map", '{"": "cpu"}', "--max-new-tokens", "2")
    found = tokenry("compare", model_folder, *more, "-b", "50%", "--limit", "1", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "small-vlm + lora" in (tmp_path / "out" / "results.jsonl").read_text()
    found = tokenry("run", model_folder, picture, "what?", *more, "--dtype", "bfloat16")
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "embedded", "-m", "divprun"), "divprune"),
        (("compare", "embedded", "-b", "150%"), "1.5"),
        (("compare", "embedded", "--data", "no-such-folder"), "no-such-folder"),
        (("compare", "no-such-model", "--limit", "1"), "no-such-model"),
        (("tune", "embedded", "--by", "speed"), "speed"),
        (("compare", "embedded", "--metric", "bleu"), "anls, multiple-choice"),
        (("tune", "embedded", "--prompt", "what is it?"), "{question} in it"),
        (("run", "embedded", "no-such.png", "what?"), "no-such.png"),
        (("run", "embedded", __file__, "what?"), "Cannot read the picture"),
        (("report", "no-such.jsonl"), "no-such.jsonl"),
        (("compare", "embeded"), "did you mean 'embedded'?"),
        (("tune", "embedded", "--adapter", "no-such-adapter"), "no-such-adapter"),
        (("demo", "smollm2"), "models whose scenes are known (dinov2-smollm2, embedded, "),
        (("check", "embedded", "--device-map", "{cpu}"), "--device-map {cpu} is no JSON"),
        (("check", "embedded", "--device-map", "auto", "--device", "cpu"), "give one of them"),
        (("check", "embedded", "--attn", "flash_attention_2"), "FlashAttention2"),
        (("check", "embedded", "--device", "no-such-device"), "'no-such-device' is no name of a device"),
    ],
)
def test_wrong_input_is_one_clear_line(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = tokenry(*words)
    assert found.exit_code == USER_ERROR
    assert found.output.startswith("error: ")
    assert message in found.output
    assert "Traceback" not in found.output


def test_an_output_folder_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = tokenry("compare", "embedded", "-o", tmp_path / "file")
    assert found.exit_code == USER_ERROR
    assert "Choose another folder" in found.output


def test_lists_keep_configurations_and_schedules_whole() -> None:
    one, chain = '{"method": "a", "x": 1}', '[{"method": "a", "x": 1}, "b"]'
    assert split_methods(["a, b", one, "c+d", chain]) == ["a", "b", one, "c+d", chain]
    assert split_methods(None) == []
    assert split_budgets(["50%,64", "0.25:50%,0.5:25%"]) == ["50%", "64", "0.25:50%,0.5:25%"]


def test_the_demo_compares_every_method_on_the_embedded_model(tmp_path: Path) -> None:
    found = tokenry("demo", "-o", tmp_path, "--questions", "1")
    assert found.exit_code == 0, found.output
    for method in ("none", "random", "pool", "fastv", "fastervlm", "divprune", "pyramiddrop", "aim"):
        assert method in found.output
    assert "position ids: keep" in found.output
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_questions_are_put_in_batches(command: str, model_folder: Path, tmp_path: Path) -> None:
    found = tokenry(
        command, model_folder, "-m", "pool", "-b", "50%", "-o", tmp_path, "--batch-size", "2", *FAST
    )
    assert found.exit_code == 0, found.output
    assert {r.rows for r in read_results(tmp_path / "results.jsonl").results} == {2}
    assert "2 questions at a time" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_when_every_question_fails_it_is_said_with_the_reason_and_by_the_exit_code(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **options: Any) -> Any:
        raise IndexError("The left ear is missing.")

    monkeypatch.setattr(measure, "answer", fail)
    found = tokenry("compare", model_folder, "-b", "50%", "-o", tmp_path, *FAST)
    assert found.exit_code == FAILED
    assert "none of the 2 questions" in found.output
    assert "IndexError: The left ear is missing." in found.output
    assert "IndexError: The left ear is missing." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_is_being_written_to_is_refused_before_a_model_is_loaded(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loading, "load", lambda *_: pytest.fail("loaded"))
    with ResultsWriter(tmp_path / "results.jsonl"):
        for command in ("compare", "tune"):
            found = tokenry(command, model_folder, "-b", "50%", "-o", tmp_path, *FAST)
            assert found.exit_code == USER_ERROR
            assert "Another run (process " in found.output
