"""The results file: nothing that was measured gets lost, and nothing unreadable is fatal."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.reducers import synthetic
from tokenry.bench.lines import ResultsWriter, digest
from tokenry.bench.reducers.results import EVERY_ARM, ArmResult, Failure, StoredPicture, read_results
from tokenry.tokens import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "results.jsonl", synthetic.lines(6))


def test_reads_back_what_was_written(file: Path) -> None:
    written = [line for line in synthetic.lines(6) if isinstance(line, ArmResult)]
    found = read_results(file)
    assert list(found.results) == written
    assert found.runs == (synthetic.run(6),)
    assert found.refusals[0].method == "picky"
    assert set(found.pictures) == {"picture 0", "picture 1"}
    assert (found.skipped, found.other) == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        b"not json at all",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"kind":"result","format":1}',
        b'{"kind":"result","format":2,"setting":"5e77"}',
        b'{"kind":"nothing known","format":1}',
        b'{"kind":"result","format":1,"setting":',
        b'"text"',
        b"null",
        b"NaN",
    ],
)
def test_a_damaged_line_is_counted_and_the_good_ones_survive(file: Path, damage: bytes) -> None:
    good = read_results(file)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([damage, *lines[:3], damage, *lines[3:]]) + b"\n")
    found = read_results(file)
    assert found.results == good.results
    assert found.skipped == 2


def test_a_result_whose_figures_are_no_numbers_is_damaged(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    broken = next(line for line in lines if line["kind"] == "result")
    for field, value in (("prefill_ms", "fast"), ("tokens", None), ("by_layer", 4), ("trace", {"grid": [1]})):
        file.write_text(file.read_text() + json.dumps(broken | {"key": "new", field: value}) + "\n")
    found = read_results(file)
    assert found.skipped == 4
    assert "new" not in found.keys


def test_a_torn_last_line_does_not_spoil_the_next(file: Path) -> None:
    """What a kill in the middle of a write leaves, and the run after it."""
    whole = read_results(file).results
    file.write_bytes(file.read_bytes()[:-25])
    with ResultsWriter(file) as writer:
        writer.append(synthetic.result(item=5, answer="after the crash"))
    found = read_results(file)
    assert found.skipped == 1
    assert len(found.results) == len(whole) - 1  # the torn one
    assert any(r.answer == "after the crash" for r in found.results)


def test_a_later_line_with_the_same_key_replaces_the_earlier(file: Path) -> None:
    before = len(read_results(file).results)
    with ResultsWriter(file) as writer:
        writer.append(synthetic.result(item=0, answer="again"))
    found = read_results(file)
    assert len(found.results) == before
    assert found.results[0].answer == "again"


def test_settings_are_kept_apart(file: Path) -> None:
    """By default the last run's; the other results are counted, not mixed in."""
    with ResultsWriter(file) as writer:
        writer.append(synthetic.run(6, setting="other"))
        writer.append(synthetic.result(item=0, setting="other", key="x"))
    assert [r.setting for r in read_results(file).results] == ["other"]
    assert read_results(file).other > 6
    assert all(r.setting == synthetic.SETTING for r in read_results(file, synthetic.SETTING).results)


def test_examples_that_the_last_run_did_not_ask_are_left_out(file: Path) -> None:
    """A question that was edited is another question; its old results stay in the file, not in the report."""
    with ResultsWriter(file) as writer:
        writer.append(synthetic.run(2))
    found = read_results(file)
    assert {r.item for r in found.results} == {"item-0", "item-1"}
    assert found.other > 0


def test_a_refusal_gives_way_to_a_result(file: Path) -> None:
    with ResultsWriter(file) as writer:
        writer.append(synthetic.result("picky", "50%", 0))
    assert not read_results(file).refusals


@pytest.mark.parametrize("content", [b"", b"garbage\n", b'{"kind":"result"}\n'])
def test_a_file_without_a_run_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="holds no comparison"):
        read_results(tmp_path / "r.jsonl")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*nothing\.jsonl"):
        read_results(tmp_path / "nothing.jsonl")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Choose another folder"):
        ResultsWriter(tmp_path / "file" / "results.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this platform")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    link = tmp_path / "results.jsonl"
    link.symlink_to("/dev/full")
    with ResultsWriter(link) as writer, pytest.raises(InputError, match="No space left"):
        writer.append(synthetic.run(1))


def test_a_file_that_cannot_be_mended_is_told_and_let_go(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the end of a torn line."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file.write_bytes(file.read_bytes()[:-5])
    opened: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "pread", lambda one, *_: opened.append(one) or b"x")
        with pytest.raises(InputError, match="No space left"):
            ResultsWriter(file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    with ResultsWriter(file) as again:
        again.append(synthetic.result())
    again.close()  # once more does no harm


def test_infinite_figures_are_not_written(tmp_path: Path) -> None:
    """JSON has no infinity; a file that only Python can read is not JSON lines."""
    with ResultsWriter(tmp_path / "r.jsonl") as writer, pytest.raises(ValueError, match="JSON"):
        writer.append(synthetic.result(prefill_ms=float("inf")))
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def test_digest_depends_on_values_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest("a", "b") != digest("ab")


def test_a_picture_tells_its_type() -> None:
    assert StoredPicture("s", "p", "iVBORw0KGgo=").url.startswith("data:image/png;")
    assert replace(StoredPicture("s", "p", ""), data="/9j/4AAQ").url.startswith("data:image/jpeg;")


# --- failures ---------------------------------------------------------------------------------------------------------


def _failure(method: str, budget: str, item: int = 0, seed: int = 0) -> Failure:
    return Failure(
        synthetic.SETTING, method, budget, seed, f"item-{item}", f"question {item}", "p", "what?", "E", "Odd."
    )


@pytest.mark.parametrize(
    ("later", "left", "without"),
    [
        (["pool fails"], ["pool"], {"pool"}),
        (["pool fails", "pool fails"], ["pool"], {"pool"}),
        (["pool fails", "pool"], [], set()),
        (["pool fails", "fine"], ["pool"], {"pool"}),
        (["all fail"], [""], set()),  # what was answered before that is not taken back
        (["all fail", "pool"], [], set()),
        (["all fail", "pool fails"], ["pool"], {"pool"}),
        (["pool fails", "fine fails", "all fail"], [""], {"pool", "fine"}),
    ],
)
def test_of_an_example_under_an_arm_what_was_seen_last_counts(
    file: Path, later: list[str], left: list[str], without: set[str]
) -> None:
    lines = {
        "pool fails": _failure("pool", "50%"),
        "fine fails": _failure("fine", "50%"),
        "all fail": _failure(*EVERY_ARM[:2]),
        "pool": synthetic.result("pool", "50%"),
        "fine": synthetic.result("fine", "50%"),
    }
    with ResultsWriter(file) as writer:
        for name in later:
            writer.append(lines[name])
    found = read_results(file)
    assert [f.method for f in found.failures] == left
    answered = {r.method for r in found.results if r.item == "item-0" and r.budget == "50%" and not r.seed}
    assert answered == {"pool", "fine", "poor", "random"} - without


def test_failures_of_examples_that_the_last_run_did_not_ask_are_left_out(file: Path) -> None:
    with ResultsWriter(file) as writer:
        writer.append(_failure("pool", "50%", item=5))
        writer.append(synthetic.run(2))
    assert not read_results(file).failures


def test_of_two_results_of_an_example_under_an_arm_the_later_counts(file: Path) -> None:
    """Their keys differ where the picture changed inside, or a method's code."""
    before = len(read_results(file).results)
    with ResultsWriter(file) as writer:
        writer.append(synthetic.result("pool", "50%", 0, key="new", answer="again"))
    found = read_results(file)
    assert len(found.results) == before
    assert [r.answer for r in found.results if (r.method, r.budget, r.item) == ("pool", "50%", "item-0")] == [
        "again"
    ]
    assert "new" in found.keys


def test_a_result_beyond_what_can_be_is_damaged(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    broken = next(line for line in lines if line["kind"] == "result" and line["trace"])
    trace = broken["trace"]
    odd = [
        {"score": 1.5}, {"score": True}, {"recall": -0.1}, {"prefill_ms": -1}, {"prefill_ms": 1e300},
        {"rows": 0}, {"seed": 0.5}, {"tokens": 10**400}, {"by_layer": [1, -1]}, {"answer": None},
        {"item": ["a"]}, {"question": 3},
        {"trace": trace | {"life": [99] * len(trace["life"])}}, {"trace": trace | {"layers": 0}},
        {"trace": trace | {"grid": [1, 1]}}, {"trace": trace | {"more": 1}}, {"trace": []}, {"unknown": 1},
    ]  # fmt: skip
    with file.open("a") as more:
        more.writelines(json.dumps(broken | change) + "\n" for change in odd)
    assert read_results(file).skipped == len(odd)


def test_names_that_have_no_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    """File names may hold any bytes, which Python has as halves of surrogate pairs."""
    names = ["\udcff.png", "half \ud83d", "nul\0", "\\ud800", "线\u2028路"]
    lines = [synthetic.result(item=i, example=name, answer=name) for i, name in enumerate(names)]
    path = synthetic.write(tmp_path / "r.jsonl", [synthetic.run(5), *lines])
    path.read_text(encoding="utf-8")
    assert [(r.example, r.answer) for r in read_results(path).results] == [(n, n) for n in names]
    assert len({digest(name) for name in names}) == len(names)


def test_only_one_writes_to_a_file_at_a_time(file: Path) -> None:
    with ResultsWriter(file), pytest.raises(InputError, match=rf"process {os.getpid()}, since"):
        ResultsWriter(file)
    with ResultsWriter(file) as writer:
        (file.parent / ".results.jsonl.holder").write_text("damaged")
        with pytest.raises(InputError, match="Another run is writing"):
            ResultsWriter(file)
        writer.append(synthetic.result())
    with ResultsWriter(file):  # and readers are never in the way
        assert read_results(file).results


def test_a_folder_in_which_nothing_can_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / ".results.jsonl.lock").mkdir()
    with pytest.raises(InputError, match="Choose another folder"):
        ResultsWriter(tmp_path / "results.jsonl")
