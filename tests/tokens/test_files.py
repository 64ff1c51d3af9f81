"""Files and folders are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.files import whole_file, whole_folder


def _listed(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def _fail(folder: Path, merge: bool, raised: BaseException) -> None:
    with whole_folder(folder, merge=merge) as scratch:
        (scratch / "x").write_text("half")
        raise raised


@pytest.mark.parametrize("merge", [False, True])
def test_a_new_folder_appears_with_its_parents(tmp_path: Path, merge: bool) -> None:
    with whole_folder(tmp_path / "a" / "b", merge=merge) as scratch:
        (scratch / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert _listed(tmp_path) == {"a/b/x": "1"}
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("merge", "left"), [(False, {"new/x": "2"}), (True, {"new/x": "2", "new/y": "1"})])
def test_a_folder_is_replaced_or_merged_into(tmp_path: Path, merge: bool, left: dict[str, str]) -> None:
    for name in ("x", "y"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / name).write_text("1")
    with whole_folder(tmp_path / "new", merge=merge) as scratch:
        (scratch / "x").write_text("2")
    assert _listed(tmp_path) == left


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(28, "No space left on device"), InputError),
        (Exception("disk full"), InputError),
        (UnsupportedError("not this model"), UnsupportedError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_changes_nothing(
    tmp_path: Path, merge: bool, raised: BaseException, told: type[BaseException]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("old")
    for name in ("there", "not there"):
        with pytest.raises(told):
            _fail(tmp_path / name, merge, raised)
    assert _listed(tmp_path) == {"there/x": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("old")
    replace = os.replace
    calls: list[Path] = []

    def second_fails(a: Path, b: Path) -> None:
        calls.append(a)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        replace(a, b)

    monkeypatch.setattr(os, "replace", second_fails)
    with (
        pytest.raises(InputError, match="Input/output error"),
        whole_folder(tmp_path / "there") as scratch,
    ):
        (scratch / "x").write_text("new")
    assert _listed(tmp_path) == {"there/x": "old"}


def test_a_file_appears_whole_with_its_folders_and_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.json"
    for text in ("1", "2"):
        with whole_file(target) as scratch:
            assert (scratch.suffix, scratch.exists()) == (".json", False)
            scratch.write_text(text)
            assert not target.exists() or target.read_text() == "1"
    assert _listed(tmp_path) == {"a/b.json": "2"}


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_fails_changes_nothing(tmp_path: Path, raised: BaseException) -> None:
    (tmp_path / "x").write_text("old")
    told = InputError if isinstance(raised, OSError) else type(raised)
    with pytest.raises(told), whole_file(tmp_path / "x") as scratch:  # noqa: PT012
        scratch.write_text("half")
        raise raised
    assert _listed(tmp_path) == {"x": "old"}


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    with whole_file(tmp_path / "x") as one, whole_file(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert _listed(tmp_path) in ({"x": "one"}, {"x": "other"})
