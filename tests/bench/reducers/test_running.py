"""A comparison that goes on: what fails is one question's, what is put together is what each would be alone."""

from __future__ import annotations

import copy
import gc
import importlib
import json
import linecache
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tokenry.bench import compare, environment, write_report
from tokenry.bench.lines import ResultsWriter
from tokenry.bench.reducers import measure, running
from tokenry.bench.reducers.measure import Batch, VisualPrompt
from tokenry.bench.reducers.results import EVERY_ARM, ArmResult, Failure, read_results
from tokenry.bench.reducers.summary import failed
from tokenry.data.images.pictures import Picture
from tokenry.data.questions.examples import Example, load_scenes
from tokenry.hosts import vision
from tokenry.tokens import InputError, ReductionError, TokenryError, UnsupportedError

EXAMPLES = load_scenes("test", 4, per_scene=2)
SHORT: dict[str, Any] = {"seeds": 1, "max_new_tokens": 3}
BANNER = Picture("wide", Image.new("RGB", (2000, 4)))
ARMS = 4  # none, random, pool and one more


@pytest.fixture
def model(untrained: tuple[Any, Any]) -> Any:
    return untrained[0]


@pytest.fixture
def processor(untrained: tuple[Any, Any]) -> Any:
    return untrained[1]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Batch, Any], None]], None]:
    """Lets a test do something before the model is asked: (batch, arm) -> nothing, or an error."""
    answer = measure.answer

    def install(before: Callable[[Batch, Any], None]) -> None:
        def asked(model: Any, processor: Any, batch: Batch, encoded: Any, arm: Any, **options: Any) -> Any:
            before(batch, arm)
            return answer(model, processor, batch, encoded, arm, **options)

        monkeypatch.setattr(measure, "answer", asked)

    return install


def _picky(processor: Any, error: Exception) -> Any:
    """A processor that fails in its own way on pictures of an odd shape, as some do."""

    class Picky(type(processor)):  # type: ignore[misc]
        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            if any(max(image.size) > 20 * min(image.size) for image in images):
                raise error
            return super().__call__(images=images, text=text, **options)

    found = copy.copy(processor)
    found.__class__ = Picky
    return found


@pytest.mark.parametrize(
    ("picture", "error", "said", "place", "batch_size"),
    [
        (Picture("gone", Path("gone.png")), ValueError(), "No such file", 0, 1),
        (Picture("text", Path(__file__)), ValueError(), "no format that Pillow knows", 2, 3),
        (BANNER, ValueError("ratio\n500"), "ValueError: ratio 500", 0, 1),
        (BANNER, torch.OutOfMemoryError("3 MiB of 12 GiB"), "Out of memory: ", 2, 3),
        (BANNER, KeyError(), "KeyError", 0, 1),
    ],
    ids=["no file", "no picture", "banner", "memory", "odd"],
)
def test_what_a_question_fails_on_is_its_own(
    model: Any,
    processor: Any,
    tmp_path: Path,
    picture: Picture,
    error: Exception,
    said: str,
    place: int,
    batch_size: int,
) -> None:
    """Be it the first question, on which all arms would have warmed up."""
    examples = [
        *EXAMPLES[:place],
        Example("odd", pictures=(picture,), question="what is it?", answer="a cat"),
        *EXAMPLES[place:],
    ]
    options: dict[str, Any] = {"out": tmp_path, "batch_size": batch_size, **SHORT}
    found = compare(model, _picky(processor, error), examples, ["fastv"], ["25%"], **options)
    assert [(r.examples, r.failed, r.refusal) for r in found.rows] == [(4, 1, None)] * ARMS
    (one,) = found.results.failures
    assert (one.arm, one.example, one.picture) == (EVERY_ARM, "odd", picture.name)
    assert said in one.reason
    assert [str(f) for f in failed(found.results)] == [f"odd (all arms): {one.reason}"]
    assert found.failure is None


def test_a_failed_question_is_tried_again_and_its_failure_forgotten(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    examples = [*EXAMPLES[:1], Example("odd", pictures=(BANNER,), question="what is it?", answer="a cat")]
    options: dict[str, Any] = {"out": tmp_path, **SHORT}
    picky = _picky(processor, ValueError("no"))
    for _ in range(2):  # once more does not count twice
        found = compare(model, picky, examples, [], ["25%"], **options)
        assert len(found.results.failures) == 1
    mended = compare(model, processor, examples, [], ["25%"], **options)
    assert not mended.results.failures
    assert [(r.examples, r.failed) for r in mended.rows] == [(2, 0)] * 3


@pytest.mark.parametrize("question", [0, 1])
@pytest.mark.parametrize("error", [ReductionError("Not this one."), RuntimeError("Not this one.")])
def test_an_arm_that_fails_on_a_question_is_measured_on_the_others(
    model: Any, processor: Any, tmp_path: Path, answering: Any, error: Exception, question: int
) -> None:
    def fail(batch: Batch, arm: Any) -> None:
        if arm.method == "fastv" and batch.prompts[0].example.id == EXAMPLES[question].id:
            raise error

    answering(fail)
    found = compare(model, processor, EXAMPLES[:2], ["fastv"], ["25%"], out=tmp_path, **SHORT)
    assert (found.row("fastv", "25%").examples, found.row("fastv", "25%").failed) == (1, 1)
    assert all((r.examples, r.failed) == (2, 0) for r in found.rows if r.method != "fastv")
    (one,) = found.results.failures
    assert (one.arm, one.example, one.error) == (
        ("fastv", "25%", 0),
        EXAMPLES[question].id,
        type(error).__name__,
    )
    assert one.reason.endswith("Not this one.")


def test_what_one_arm_needs_of_the_encoder_is_no_other_arms_failure(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention to [CLS] of a large picture, say, which only some methods read."""
    encode = measure.encode

    def fail(model: Any, batch: Batch, methods: Any) -> Any:
        if batch.prompts[0].example.id == EXAMPLES[2].id and any(m.slug == "fastervlm" for m in methods):
            raise torch.OutOfMemoryError("so large")
        return encode(model, batch, methods)

    monkeypatch.setattr(measure, "encode", fail)
    found = compare(model, processor, EXAMPLES, ["fastervlm"], ["25%"], out=tmp_path, **SHORT)
    assert [(r.method, r.examples, r.failed) for r in found.rows] == [
        ("none", 4, 0),
        ("random", 4, 0),
        ("pool", 4, 0),
        ("fastervlm", 3, 1),
    ]


def test_what_the_model_cannot_do_for_one_question_refuses_no_arm_that_has_run(
    model: Any, processor: Any, tmp_path: Path, answering: Any
) -> None:
    def fail(batch: Batch, arm: Any) -> None:
        if arm.method in ("fastv", "none") and batch.prompts[0].example.id == EXAMPLES[2].id:
            raise UnsupportedError("Its tokens are spread.")

    answering(fail)
    found = compare(model, processor, EXAMPLES, ["fastv"], ["25%"], out=tmp_path, **SHORT)
    assert not found.results.refusals
    assert [(r.method, r.examples, r.failed) for r in found.rows] == [
        ("none", 3, 1),
        ("random", 3, 1),
        ("pool", 3, 1),
        ("fastv", 3, 1),
    ]
    assert str(failed(found.results)[0]) == f"{EXAMPLES[2].id} (none; fastv at 25%): Its tokens are spread."


def test_a_metric_that_fails_on_an_answer(model: Any, processor: Any, tmp_path: Path) -> None:
    def mine(prediction: str, example: Example) -> float:
        return {EXAMPLES[0].id: 1.0, EXAMPLES[1].id: float("nan")}[example.id]

    found = compare(model, processor, EXAMPLES[:3], [], ["25%"], out=tmp_path, metric=mine, **SHORT)
    assert [(r.examples, r.failed) for r in found.rows] == [(1, 2)] * 3
    assert {f.example for f in found.results.failures} == {EXAMPLES[1].id, EXAMPLES[2].id}


def test_when_every_question_fails_it_is_said(model: Any, processor: Any, tmp_path: Path) -> None:
    examples = [replace(e, pictures=(Picture("gone", Path("gone.png")),)) for e in EXAMPLES]
    found = compare(model, processor, examples, ["fastv"], ["25%"], out=tmp_path, **SHORT)
    assert found.failure is not None
    assert "none of the 4 questions" in found.failure
    assert all("No such file" in (row.refusal or "") for row in found.rows)
    assert len(found.rows) == ARMS
    page = write_report(found.path).page.read_text(encoding="utf-8")
    assert "No such file" in page


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_who_ends_the_run_ends_it(
    model: Any, processor: Any, tmp_path: Path, answering: Any, error: BaseException
) -> None:
    def end(batch: Batch, arm: Any) -> None:
        if batch.prompts[0].example.id == EXAMPLES[1].id:
            raise error

    answering(end)
    with pytest.raises(type(error)):
        compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    found = read_results(tmp_path / "results.jsonl")
    assert {r.example for r in found.results} == {EXAMPLES[0].id}
    assert not found.failures


def test_a_disk_that_fills_up_ends_the_run(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is nobody's question's fault."""
    append = ResultsWriter.append

    def full(self: ResultsWriter, line: Any) -> None:
        if isinstance(line, (ArmResult, Failure)):
            raise InputError("No space left on device.")
        append(self, line)

    monkeypatch.setattr(ResultsWriter, "append", full)
    with pytest.raises(InputError, match="No space left"):
        compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)


@pytest.mark.parametrize("first", ["synchronise", "empty_cache"])
def test_a_device_that_stops_working_ends_the_run(
    model: Any, processor: Any, tmp_path: Path, answering: Any, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """After an illegal access every call to a GPU fails: a list of questions that failed would be a list of lies."""

    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def break_down(batch: Batch, arm: Any) -> None:
        if batch.prompts[0].example.id == EXAMPLES[1].id:
            monkeypatch.setattr(running, "device_of", lambda model: torch.device("cuda"))
            monkeypatch.setattr(torch.cuda, "empty_cache", lost if first == "empty_cache" else lambda: None)
            monkeypatch.setattr(
                running, "synchronise", lost if first == "synchronise" else lambda model: None
            )
            lost()

    answering(break_down)
    with pytest.raises(TokenryError, match=r"no longer works.*illegal memory access"):
        compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    assert not read_results(tmp_path / "results.jsonl").failures


# --- batches ----------------------------------------------------------------------------------------------------------

_TOLD = (
    "answer",
    "score",
    "tokens",
    "full_tokens",
    "by_layer",
    "prefill_flops",
    "kv_bytes",
    "recall",
    "trace",
)


def test_questions_in_a_batch_are_answered_as_alone(model: Any, processor: Any, tmp_path: Path) -> None:
    """Rows of different length and number of pictures, control tokens in one, the last batch not full."""
    two = (EXAMPLES[0].pictures[0], EXAMPLES[2].pictures[0])
    examples = [
        *EXAMPLES,
        replace(EXAMPLES[0], id="two", pictures=two, regions=()),
        replace(
            EXAMPLES[1], id="marks", question="what does <image><eos> mean, in as many words as it takes?"
        ),
    ]
    options: dict[str, Any] = {"seeds": 2, "max_new_tokens": 4}
    arms = (["fastervlm", "fastv"], ["25%"])
    alone = compare(model, processor, examples, *arms, out=tmp_path / "1", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(model, processor, examples, *arms, out=tmp_path / "4", batch_size=4, **options)
    assert not found.results.failures
    first = (*(e.id for e in EXAMPLES[:3]), "marks")  # questions about a picture next to each other
    single = {(r.arm, r.item): r for r in alone.results.results}
    assert {(r.arm, r.item) for r in found.results.results} == set(single)
    for result in found.results.results:
        before = single[result.arm, result.item]
        for name in _TOLD:
            assert getattr(result, name) == getattr(before, name), (name, result.arm, result.example)
        assert (before.rows, result.rows) == (1, 4 if result.example in first else 2)
        assert result.prefill_ms > result.selection_ms
    assert found.results.runs[0].facts["batch_size"] == 4
    assert alone.results.runs[0].setting != found.results.runs[0].setting


def test_times_of_a_batch_are_shared_out_among_its_rows(
    model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefill by rows; a step is what everybody waits for, until his own answer has ended."""
    from tokenry.bench.reducers.arms import plan_arms

    batch = Batch.of(model, processor, [VisualPrompt.of(model, processor, e) for e in EXAMPLES[:2]])
    encoded = measure.encode(model, batch, [])
    clock = iter([0.0, 8.0, 10.0, 11.0, 20.0, 23.0, 30.0, 35.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    eos, width = model.generation_config.eos_token_id, batch.inputs["input_ids"].shape[1]
    generate = model.generate

    def ended(**inputs: Any) -> Any:
        ids = generate(**inputs, eos_token_id=-1)
        ids[1, width + 1] = eos
        ids[0, width:][ids[0, width:] == eos] = 5
        return ids

    monkeypatch.setattr(model, "generate", ended)
    full = plan_arms([], ["25%"])[0]
    long, short = measure.answer(model, processor, batch, encoded, full, max_new_tokens=4)
    assert (long.passes, short.passes) == ((4.0, 1.0, 3.0, 5.0), (4.0, 1.0))
    assert (long.decode_s, short.decode_s) == (3.0, 1.0)


def test_the_encoder_is_charged_what_the_device_still_has_to_do(
    model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU has its work when the call returns, and has done it three seconds later."""
    now = [0.0]
    batch = Batch.of(model, processor, [VisualPrompt.of(model, processor, EXAMPLES[0])])
    monkeypatch.setattr(vision.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(vision, "synchronise", lambda model: now.append(now.pop() + 3.0))
    assert measure.encode(model, batch, []).seconds == 3.0


def test_the_source_of_a_method_is_that_of_the_code_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor saves while a comparison is running."""
    file = tmp_path / "edited_while_running.py"
    file.write_text("class Mine:\n    share = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("edited_while_running").Mine
    before = environment.source_digest(mine)
    file.write_text("class Mine:\n    share = 0.25\n")
    linecache.checkcache()
    assert environment.source_digest(mine) == before


def test_a_batch_that_fails_is_put_one_question_at_a_time(
    model: Any, processor: Any, tmp_path: Path, answering: Any
) -> None:
    def fail(batch: Batch, arm: Any) -> None:
        names = [prompt.example.id for prompt in batch.prompts]
        if arm.method == "pool" and (len(names) > 1 or names == [EXAMPLES[1].id]):
            raise torch.OutOfMemoryError("so many")

    answering(fail)
    with pytest.warns(UserWarning, match="one at a time: Out of memory") as told:
        found = compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, batch_size=2, **SHORT)
    assert len(told) == 1
    assert {(r.method, r.rows) for r in found.results.results} == {("none", 2), ("random", 2), ("pool", 1)}
    assert [(f.arm, f.example) for f in found.results.failures] == [(("pool", "25%", 0), EXAMPLES[1].id)]
    assert [(r.examples, r.failed) for r in found.rows] == [(4, 0), (4, 0), (3, 1)]


def test_a_family_that_cannot_be_batched_is_put_one_question_at_a_time(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    class Single(type(processor)):  # type: ignore[misc]
        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            if len(text) > 1:
                raise ValueError("Expected a single prompt")
            return super().__call__(images=images, text=text, **options)

    single = copy.copy(processor)
    single.__class__ = Single
    with pytest.warns(UserWarning, match="one at a time: ValueError: Expected a single prompt") as told:
        found = compare(model, single, EXAMPLES, [], ["25%"], out=tmp_path, batch_size=2, **SHORT)
    assert len(told) == 1
    assert [(r.examples, r.failed) for r in found.rows] == [(4, 0)] * 3
    assert {r.rows for r in found.results.results} == {1}


def test_an_interrupted_batch_is_measured_again_and_nothing_doubled(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, written = ResultsWriter.append, []

    def interrupted(self: ResultsWriter, line: Any) -> None:
        written.append(isinstance(line, ArmResult))
        if sum(written) == 5:
            raise KeyboardInterrupt
        append(self, line)

    options: dict[str, Any] = {"out": tmp_path, "batch_size": 3, **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(ResultsWriter, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(model, processor, EXAMPLES, [], ["25%"], **options)
    found = compare(model, processor, EXAMPLES, [], ["25%"], **options)
    assert [r.examples for r in found.rows] == [4] * 3
    lines = [json.loads(line) for line in found.path.read_text(encoding="utf-8").splitlines()]
    keys = [line["key"] for line in lines if line["kind"] == "result"]
    assert len(keys) == len(set(keys)) == 12


def test_a_batch_of_nothing_is_refused(model: Any, processor: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch size of 0"):
        compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, batch_size=0)
    assert not list(tmp_path.iterdir())


# --- pictures ---------------------------------------------------------------------------------------------------------


def _saved(folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> list[Example]:
    folder.mkdir(exist_ok=True)
    examples = []
    for i in range(count):
        path = folder / f"{i}.bmp"
        Image.effect_noise(size, 60 + i).convert("RGB").save(path)
        examples.append(
            Example(f"q{i}", pictures=(Picture(path.name, path),), question="what is it?", answer="noise")
        )
    return examples


def test_a_picture_is_open_only_while_its_questions_are_asked(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, opened, alive = _saved(tmp_path / "in", 4), [], []
    open_one = Picture.open

    def watched(self: Picture) -> Image.Image:
        gc.collect()
        alive.append(sum(one() is not None for one in opened))
        image = open_one(self)
        opened.append(weakref.ref(image))
        return image

    monkeypatch.setattr(Picture, "open", watched)
    compare(model, processor, examples, [], ["50%"], out=tmp_path / "out", pictures=1, **SHORT)
    assert alive == [0] * 4
    opened.clear(), alive.clear()
    compare(model, processor, examples, [], ["25%"], out=tmp_path / "out", batch_size=2, **SHORT)
    assert alive == [0, 1] * 2


def test_only_equal_pictures_share_what_the_encoder_made_of_them(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    """Not those of equal names, nor two whose names together are another's."""
    first, second = (e.pictures[0].source for e in (EXAMPLES[0], EXAMPLES[2]))
    a, b, other_a = Picture("a", first), Picture("b", second), Picture("a", second)
    examples = [
        Example("1", pictures=(a,), question="what?", answer=None),
        Example("2", pictures=(other_a,), question="what?", answer=None),
        Example("3", pictures=(a, b), question="what?", answer=None),
        Example("4", pictures=(Picture("a + b", first),), question="what?", answer=None),
        Example("5", pictures=(b, a), question="what?", answer=None),
    ]
    found = compare(model, processor, examples, [], ["25%"], out=tmp_path, pictures=9, **SHORT)
    assert not found.results.failures
    assert [(r.example, r.full_tokens) for r in found.results.results if r.method == "none"] == [
        ("1", 144), ("2", 144), ("3", 288), ("4", 144), ("5", 288),
    ]  # fmt: skip
    for example in examples:
        alone = compare(model, processor, [example], [], ["25%"], out=tmp_path / example.id, **SHORT)
        said = {r.arm: r.answer for r in alone.results.results}
        assert {r.arm: r.answer for r in found.results.results if r.example == example.id} == said
    write_report(found.path)


def test_of_a_picture_that_changed_inside_only_the_new_result_counts(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    """Same name, length and ends, as the fingerprint of a picture has it; the pixels between them tell."""
    examples = _saved(tmp_path / "in", 2, size=(256, 256))
    options: dict[str, Any] = {"out": tmp_path / "out", **SHORT}
    before = compare(model, processor, examples, [], ["25%"], **options)
    content = bytearray((tmp_path / "in" / "0.bmp").read_bytes())
    content[90_000:110_000] = bytes(20_000)
    (tmp_path / "in" / "0.bmp").write_bytes(content)
    examples = _fresh(examples)
    after = compare(model, processor, examples, [], ["25%"], **options)
    assert [r.examples for r in after.rows] == [2] * 3
    assert len(after.results.results) == len(before.results.results) == 6
    new = after.results.keys - before.results.keys
    assert {r.example for r in after.results.results if r.key in new} == {"q0"}
    assert len(new) == 3


def _fresh(examples: list[Example]) -> list[Example]:
    """As another process has them: a picture keeps its fingerprint."""
    return [replace(e, pictures=tuple(Picture(p.name, p.source) for p in e.pictures)) for e in examples]


def test_fewer_questions_and_then_all_again_measure_nothing_twice(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    for limit in (4, 1, 4):
        found = compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, limit=limit, **SHORT)
        assert [r.examples for r in found.rows] == [limit] * 3
    lines = [json.loads(line) for line in found.path.read_text(encoding="utf-8").splitlines()]
    assert sum(line["kind"] == "result" for line in lines) == 12


@pytest.mark.parametrize("name", ["half a \ud83d pair\udcff.png", "nul\0 line\u2028\nbreak"])
def test_hostile_names_are_written_and_read_back(
    model: Any, processor: Any, tmp_path: Path, name: str
) -> None:
    """As identifiers, as names of pictures and as questions; what a tokenizer cannot read is that question's error."""
    picture = Picture(name, EXAMPLES[0].pictures[0].source)
    examples = [
        Example(name, pictures=(picture,), question="what is it?", answer=name, kind=name),
        Example("question", pictures=(picture,), question=name, answer="cat"),
        Example("gone", pictures=(Picture(name, Path(name)),), question="what is it?", answer="cat"),
    ]
    found = compare(model, processor, examples, [], ["25%"], out=tmp_path, data_name=name, **SHORT)
    results, failures = found.results.results, found.results.failures
    assert (found.results.skipped, {r.picture for r in results}) == (0, {name})
    assert name in {r.example for r in results}
    assert {f.example for f in failures} | {r.example for r in results} == {name, "question", "gone"}
    assert write_report(found.path).page.is_file()
    assert (
        compare(model, processor, examples, [], ["25%"], out=tmp_path, data_name=name, **SHORT).rows
        == found.rows
    )


# --- two at a time ----------------------------------------------------------------------------------------------------

_RUN = """
import sys, time
from tests.bench.conftest import make_model
from tokenry.bench import compare
from tokenry.bench.reducers import measure
from tokenry.data.questions.examples import load_scenes
model, processor = make_model()
answer = measure.answer
def slow(*args, **options):
    print("asked", flush=True)
    time.sleep(float(sys.argv[2]))
    return answer(*args, **options)
measure.answer = slow
compare(model, processor, load_scenes("test", 3, per_scene=1), [], ["25%"], out=sys.argv[1], seeds=1, max_new_tokens=2)
"""


def _started(folder: Path, pause: float) -> subprocess.Popen[str]:
    found = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(folder), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([p for p in sys.path if p])},
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "asked\n"
    return found


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended_however_it_ended(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    data = load_scenes("test", 3, per_scene=1)
    options: dict[str, Any] = {"out": tmp_path, "seeds": 1, "max_new_tokens": 2}
    first = _started(tmp_path, pause=60)
    try:
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"process {first.pid}, since 20.*another folder"):
            compare(model, processor, data, [], ["25%"], **options)
        assert time.monotonic() - begun < 2
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    found = compare(model, processor, data, [], ["25%"], **options)
    assert [r.examples for r in found.rows] == [3] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [".results.jsonl.lock", "results.jsonl"]


def test_a_picture_that_was_opened_and_is_not_whole_and_a_question_without_one(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    """Pillow reads a file that the user opened when it is first needed: not before its turn."""
    path = tmp_path / "half.jpg"
    Image.effect_noise((300, 300), 50).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    half = Example(
        "half", pictures=(Picture("half", Image.open(path)),), question="what is it?", answer="noise"
    )
    bare = Example("bare", pictures=(), question="what is it?", answer="nothing")
    found = compare(model, processor, [half, *EXAMPLES[:1], bare], [], ["25%"], out=tmp_path, **SHORT)
    assert "truncated" in {f.example: f.reason for f in found.results.failures}["half"]
    assert all(row.failed and row.examples for row in found.rows)


def test_a_picture_that_cannot_be_drawn_costs_no_answer(
    model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "as_seen", lambda *_: [][0])
    with pytest.warns(UserWarning, match="No report shows 'test-0-0': IndexError"):
        found = compare(model, processor, EXAMPLES[:2], [], ["25%"], out=tmp_path, **SHORT)
    assert [(r.examples, r.failed) for r in found.rows] == [(2, 0)] * 3
    assert not found.results.pictures
    write_report(found.path)
