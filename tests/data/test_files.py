"""Folders are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokenry.data.files import whole_folder
from tokenry.tokens.errors import InputError, UnsupportedError


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
