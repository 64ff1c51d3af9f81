"""Fetching Debian packages, and the two data sets that come in them."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenry.data import debian, packages
from tokenry.data.debian import fetch
from tokenry.data.images.fashion_mnist import CLASSES, load_fashion_mnist, read_idx
from tokenry.data.images.stamps import Stamp, load_stamps, read_captions
from tokenry.data.packages import PackageUnavailableError, cache_folder
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError

# --- packages ---------------------------------------------------------------------------------------------------------


class FakeApt:
    """Stands in for apt-get, apt-cache and dpkg-deb: knows one package, whose file holds `content`."""

    def __init__(
        self, listed: str | None = None, content: bytes = b"a package", system_lists: bool = True
    ) -> None:
        self.content = content
        self.listed = hashlib.sha256(content).hexdigest() if listed is None else listed
        self.system_lists = system_lists
        self.network = True
        self.calls: list[str] = []

    def run(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        words = [word for word in command if not word.startswith(("-o", "Dir::"))]
        private = len(words) < len(command)
        self.calls.append(" ".join(words))
        folder = Path(str(options["cwd"]))
        out, error = "", ""
        match words:
            case ["apt-get", *_] if not self.network:
                error = "E: Failed to fetch http://mirror/file: connection refused"
            case ["apt-get", "update"]:
                pass
            case ["apt-get", "download", "toys"] if private or self.system_lists:
                (folder / "toys_1.2_all.deb").write_bytes(self.content)
            case ["apt-get", "download", name]:
                error = f"E: Unable to locate package {name}"
            case ["dpkg-deb", "--field", _, "Version"]:
                out = "1.2\n"
            case ["apt-cache", "show", "toys=1.2"]:
                out = f"Package: toys\nSHA256: {self.listed}\n"
            case ["dpkg-deb", "--extract", _, target]:
                (Path(target) / "usr/share").mkdir(parents=True)
                (Path(target) / "usr/share/toy").write_text("bear")
            case _:
                raise AssertionError(f"unexpected command {command}")
        return subprocess.CompletedProcess(command, 100 if error else 0, out, error)


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeApt]:
    def install(**settings: object) -> FakeApt:
        fake = FakeApt(**settings)  # type: ignore[arg-type]
        monkeypatch.setattr(packages.subprocess, "run", fake.run)
        monkeypatch.setattr(debian.shutil, "which", lambda tool: f"/usr/bin/{tool}")
        return fake

    return install


def test_a_package_is_fetched_checked_extracted_and_kept(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    fake = apt()
    package = fetch("toys", cache=tmp_path)
    assert (package.name, package.version, package.sha256) == ("toys", "1.2", fake.listed)
    assert (package.root / "usr/share/toy").read_text() == "bear"
    assert [path.name for path in (tmp_path / "debian").iterdir()] == ["toys"], "scratch folders stay behind"
    calls = len(fake.calls)
    assert fetch("toys", cache=tmp_path) == package
    assert len(fake.calls) == calls, "the second time nothing is run"


def test_without_package_lists_it_fetches_its_own(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    fake = apt(system_lists=False)
    assert fetch("toys", cache=tmp_path).version == "1.2"
    assert fake.calls[:3] == ["apt-get download toys", "apt-get update", "apt-get download toys"]


@pytest.mark.parametrize("known", [True, False])
def test_an_altered_file_is_refused(
    apt: Callable[..., FakeApt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    fake = apt(listed="0" * 64)
    if known:
        monkeypatch.setattr(debian, "KNOWN_SHA256", {("toys", "1.2"): "1" * 64})
    with pytest.raises(TokenryError, match=f"expected {'1' if known else '0'}{{64}}"):
        fetch("toys", cache=tmp_path)
    assert not any("--extract" in call for call in fake.calls)
    assert list((tmp_path / "debian").iterdir()) == []


def test_no_checksum_no_package(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    apt(listed="")
    with pytest.raises(TokenryError, match="expected"):
        fetch("toys", cache=tmp_path)


def test_an_unknown_package_is_named(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    apt()
    with pytest.raises(PackageUnavailableError, match=r"Unable to locate package tosy.*/etc/apt"):
        fetch("tosy", cache=tmp_path)


def test_no_network_is_said(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    apt().network = False
    with pytest.raises(PackageUnavailableError, match="connection refused; check the network"):
        fetch("toys", cache=tmp_path)


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_not_on_debian_says_what_to_do(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda tool: None if tool == missing else tool)
    with pytest.raises(PackageUnavailableError, match=f"{missing} is not here.*root="):
        fetch("toys", cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    apt()
    (tmp_path / "file").touch()
    with pytest.raises(TokenryError, match="TOKENRY_CACHE names another folder"):
        fetch("toys", cache=tmp_path / "file")


def test_a_half_extracted_package_is_not_used(apt: Callable[..., FakeApt], tmp_path: Path) -> None:
    apt()
    (tmp_path / "debian/toys").mkdir(parents=True)  # as left by something that is not us: no manifest
    assert (fetch("toys", cache=tmp_path).root / "usr/share/toy").is_file()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TOKENRY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/tokenry"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/tokenry"


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    images = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.array([9, 0, 4], dtype=np.uint8)))
    return tmp_path


def test_fashion_mnist_from_a_folder(fashion: Path) -> None:
    data = load_fashion_mnist("test", root=fashion)
    assert len(data) == 3
    assert data.images[1, 0, :3].tolist() == [16, 17, 18]  # 784 = 3 * 256 + 16
    assert [CLASSES[label] for label in data.labels] == ["ankle boot", "T-shirt/top", "coat"]
    assert data.provenance is None
    data.images[0] = 0  # arrays can be written


def test_fashion_mnist_wrong_split_or_folder(fashion: Path) -> None:
    with pytest.raises(InputError, match=r"neither train-images-idx3-ubyte\.gz nor train-images-idx3-ubyte"):
        load_fashion_mnist("train", root=fashion)
    with pytest.raises(UnknownNameError, match="no split 'validation'"):
        load_fashion_mnist("validation", root=fashion)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 2], dtype=np.uint8), "do not belong together"),
        (np.array([1, 2, 10], dtype=np.uint8), "label 10"),
        (np.zeros((3, 1), dtype=np.uint8), "do not belong together"),
    ],
)
def test_fashion_mnist_labels_must_fit(fashion: Path, labels: np.ndarray, message: str) -> None:
    (fashion / "t10k-labels-idx1-ubyte").write_bytes(_idx(labels))
    with pytest.raises(InputError, match=message):
        load_fashion_mnist("test", root=fashion)


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")]
)
def test_idx_of_every_type(tmp_path: Path, code: int, dtype: str) -> None:
    values = np.array([[1, -2 if dtype != "u1" else 2, 3]], dtype=dtype)
    header = struct.pack(">HBB2I", 0, code, 2, *values.shape)
    (tmp_path / "x").write_bytes(header + values.astype(f">{dtype}").tobytes())
    read = read_idx(tmp_path / "x")
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG....", "no IDX file"),
        (b"\0\0\x08\x02\0\0", "ends inside its header"),
        (_idx(np.zeros((2, 2), dtype=np.uint8))[:-1], "has 15 bytes"),
        (_idx(np.zeros((2, 2), dtype=np.uint8)) + b"\0", "has 17 bytes"),
        (gzip.compress(_idx(np.zeros((9, 9), dtype=np.uint8)), mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b but not gzip", "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "x")


# --- stamps -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "animals/birds"
    folder.mkdir(parents=True)
    half = Image.new("RGBA", (4, 2), (200, 0, 0, 255))
    half.putpixel((0, 0), (0, 0, 0, 0))
    half.save(folder / "owl.png")
    half.save(folder / "owl_mirror.png")
    (folder / "owl.txt").write_text(
        "An owl.\nde.utf8=Eine Eule.\npt_BR.utf8=Uma coruja.\nfr.utf8=\n\n", "utf-8"
    )
    for name in ("owl_desc", "owl_desc_de", "owl_desc_pt_BR", "owl_fr"):
        (folder / f"{name}.ogg").touch()
    (folder / "finch.svg").touch()
    (folder / "finch.txt").write_text("A finch.\n", "utf-8")
    (folder / "lost.txt").write_text("No picture.\n", "utf-8")
    (folder / "noflip").touch()
    return tmp_path


def test_stamps_from_a_folder(collection: Path) -> None:
    stamps = load_stamps(root=collection)
    assert [stamp.name for stamp in stamps] == ["animals/birds/owl"]
    owl = stamps[0]
    assert owl.category == "animals"
    assert owl.captions == {"en": "An owl.", "de": "Eine Eule.", "pt_BR": "Uma coruja."}
    assert {language: path.name for language, path in owl.recordings.items()} == {
        "en": "owl_desc.ogg",
        "de": "owl_desc_de.ogg",
        "pt_BR": "owl_desc_pt_BR.ogg",
    }
    picture = owl.image(background=(0, 0, 255))
    assert (picture.mode, picture.size) == ("RGB", (4, 2))
    assert picture.getpixel((0, 0)) == (0, 0, 255)
    assert picture.getpixel((1, 0)) == (200, 0, 0)


def test_drawings_are_there_when_asked_for(collection: Path) -> None:
    finch, owl = load_stamps(root=collection, drawings=True)
    assert (finch.name, owl.name) == ("animals/birds/finch", "animals/birds/owl")
    with pytest.raises(InputError, match="only a vector drawing"):
        finch.image()


def test_a_truncated_picture_is_named(collection: Path) -> None:
    file = collection / "animals/birds/owl.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=r"owl\.png cannot be read"):
        load_stamps(root=collection)[0].image()


def test_stamps_are_split_by_subject() -> None:
    def stamp(name: str) -> Stamp:
        return Stamp(name, None, None, {"en": "."}, {})

    together = ["symbols/alphabets/filled/A_filled", "symbols/alphabets/outlined/a_outline", "symbols/x/a-2"]
    assert len({stamp(name).split for name in together}) == 1
    assert [stamp(f"animals/{name}").split for name in ("frog-1", "owl", "hen")] == [
        "train",
        "train",
        "test",
    ]  # a hash that is the same everywhere
    many = [stamp(f"animals/{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}") for i in range(100)]
    assert 10 <= sum(one.split == "test" for one in many) <= 40


def test_a_folder_without_stamps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stamps"):
        load_stamps(root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"An owl.\nHibou\n", "line 2: expected LANGUAGE"),
        (b"Caf\xe9\n", "cannot be read"),
    ],
)
def test_captions_that_cannot_be_understood(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "owl.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_captions(tmp_path / "owl.txt")


# --- the real packages ------------------------------------------------------------------------------------------------


def _load_or_skip(load: Callable[[], object]) -> object:
    try:
        return load()
    except (
        PackageUnavailableError
    ) as error:  # a damaged or altered package is a failure, not a reason to skip
        pytest.skip(f"the real package cannot be had here: {error}")


@pytest.mark.packages
def test_the_real_fashion_mnist() -> None:
    data = _load_or_skip(lambda: load_fashion_mnist("test"))
    assert data.images.shape == (10_000, 28, 28)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert round(float(data.images.mean()), 2) == 73.15
    assert data.provenance.licence == "MIT"
    assert len(data.provenance.sha256) == 64


@pytest.mark.packages
def test_the_real_stamps() -> None:
    stamps = _load_or_skip(load_stamps)
    assert len(stamps) > 700
    assert len({language for stamp in stamps for language in stamp.captions}) > 60
    assert stamps.provenance.licence == "GPL-2.0-or-later"
    for stamp in list(stamps)[::50]:
        assert min(stamp.image().size) > 10
    manifest = json.loads(
        (cache_folder() / "debian/tuxpaint-stamps-default/tokenry-package.json").read_text()
    )
    assert manifest["sha256"] == stamps.provenance.sha256
