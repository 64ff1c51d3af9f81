"""Pictures are opened as viewers show them."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from tokenry.data.images.pictures import Picture, as_shown, open_picture
from tokenry.tokens.errors import InputError

RED, BLACK, WHITE = (255, 0, 0), (0, 0, 0), (255, 255, 255)


def flag() -> Image.Image:
    """A red bar along the top, a blue one down the left: every turn and mirroring shows."""
    image = Image.new("RGB", (48, 32), "white")
    image.paste("blue", (0, 0, 8, 32))
    image.paste("red", (0, 0, 48, 8))
    return image


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_their_exif_says(orientation: int, ending: str, tmp_path: Path) -> None:
    stored = {  # how a camera held that way stores the flag
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = flag()
    for turn in stored:
        image = image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x.{ending}", exif=exif, quality=100)
    found = open_picture(tmp_path / f"x.{ending}")
    assert found.size == (48, 32)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(flag())).mean() < 6
    assert as_shown(found).tobytes() == found.tobytes()


def drawing(mode: str) -> tuple[Image.Image, dict[str, Any]]:
    """A black disc on nothing at all, in black as well, as drawing programs store it."""
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (32, 32), (0,) * len(mode))
        ImageDraw.Draw(image).ellipse((8, 8, 24, 24), fill=(*((0,) * (len(mode) - 1)), 255))
        return image, {}
    if mode == "P":  # two entries, both black: only the transparency tells them apart
        image = Image.new("P", (32, 32), 0)
        image.putpalette([0, 0, 0] * 256)
        ImageDraw.Draw(image).ellipse((8, 8, 24, 24), fill=1)
        return image, {"transparency": 0}
    # a key colour that stands for nothing
    image = Image.new(mode, (32, 32), (1, 1, 1) if mode == "RGB" else 1)
    ImageDraw.Draw(image).ellipse((8, 8, 24, 24), fill=0)
    return image, {"transparency": (1, 1, 1) if mode == "RGB" else 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_what_is_see_through_lies_on_white(mode: str, tmp_path: Path) -> None:
    image, options = drawing(mode)
    image.save(tmp_path / "x.png", **options)
    found = open_picture(tmp_path / "x.png")
    assert found.mode == "RGB"
    assert found.getpixel((0, 0)) == WHITE
    assert found.getpixel((16, 16)) == BLACK


def test_half_transparent_colour_is_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(tmp_path / "x.png")
    assert open_picture(tmp_path / "x.png").getpixel((0, 0)) == (255, 204, 204)
    for mode in ("RGBa", "La"):
        premultiplied = Image.new(mode[:-1] + "A", (4, 4), (255,) * len(mode)).convert(mode)
        assert as_shown(premultiplied).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled(ending: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"x.{ending}")
    found = np.asarray(open_picture(tmp_path / f"x.{ending}"))[..., 0].reshape(-1).astype(int)
    assert np.abs(found - np.arange(256)).max() <= 1


def test_numbers_without_a_scale_go_from_their_smallest_to_their_largest() -> None:
    for values in (
        np.array([[-2.0, 0.0], [1.0, 2.0]], np.float32),
        np.array([[-200000, 0], [100000, 200000]], np.int32),
    ):
        assert np.asarray(as_shown(Image.fromarray(values)))[..., 0].tolist() == [[0, 128], [191, 255]]
    endless = np.array([[-np.inf, 0.0, 0.5], [np.nan, 1.0, np.inf]], np.float32)
    assert np.asarray(as_shown(Image.fromarray(endless)))[..., 0].tolist() == [[0, 0, 128], [0, 255, 255]]
    for empty in (np.nan, np.inf):
        assert as_shown(Image.fromarray(np.full((2, 2), empty, np.float32))).getextrema() == ((0, 0),) * 3


def test_print_colours_go_through_their_profile(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    ink.save(tmp_path / "x.tif")
    assert open_picture(tmp_path / "x.tif").getpixel((0, 0)) == RED
    ink.save(tmp_path / "broken.tif", icc_profile=b"no profile")
    assert open_picture(tmp_path / "broken.tif").getpixel((0, 0)) == RED
    screen = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ink.save(tmp_path / "wrong.tif", icc_profile=screen)  # a profile of another kind of colours
    assert open_picture(tmp_path / "wrong.tif").getpixel((0, 0)) == RED


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_opened(ending: str, tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    options: dict[str, Any] = {"save_all": True, "append_images": [second], "duration": 100}
    first.save(tmp_path / f"x.{ending}", **options, **({"lossless": True} if ending == "webp" else {}))
    assert open_picture(tmp_path / f"x.{ending}").getpixel((4, 4)) == RED


def test_what_an_animated_png_shows_elsewhere_is_not_its_first_frame(tmp_path: Path) -> None:
    still, first, second = (Image.new("RGB", (16, 16), colour) for colour in ("blue", "red", "green"))
    still.save(
        tmp_path / "x.png", save_all=True, default_image=True, append_images=[first, second], duration=100
    )
    assert open_picture(tmp_path / "x.png").getpixel((4, 4)) == RED


def test_broken_files_are_told(tmp_path: Path) -> None:
    flag().save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    broken = [whole[: len(whole) // 2], b"", b"text", whole[:8] + struct.pack(">I", 1 << 31) + whole[12:]]
    for number, data in enumerate(broken):
        (tmp_path / f"{number}.png").write_bytes(data)
        with pytest.raises(InputError, match=f"Cannot read the picture.*{number}.png"):
            open_picture(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="Cannot read the picture"):
        open_picture(tmp_path)
    with pytest.raises(
        InputError, match=r"^Cannot read the picture '[^']*/none.png': No such file or directory\.$"
    ):
        open_picture(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not read; convert it"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "it is a film"),
        (b"%PDF-1.7\n", "PDF is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "PostScript is not read"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not read"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg/>', "SVG is not read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"who knows", "in no format that Pillow knows"),
        (b"", "it is empty"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_called_by_its_name(data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(InputError, match=rf"Cannot read the picture.*x\.jpg.*{what}"):
        open_picture(tmp_path / "x.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_nobody_waits_for_a_picture_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match="it is no file"):
        open_picture(tmp_path / "x.png")
    assert Picture("x", tmp_path / "x.png").fingerprint == Picture("x", tmp_path / "missing.png").fingerprint


@pytest.mark.parametrize(
    "format", ["jpeg", "progressive", "png", "webp", "gif", "tiff", "bmp", "ppm", "jpeg2000", "avif"]
)
def test_half_a_picture_is_none(format: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    progressive = format == "progressive"
    try:
        noise.save(tmp_path / "x", "jpeg" if progressive else format, progressive=progressive)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {format}")
    data = (tmp_path / "x").read_bytes()
    assert open_picture(tmp_path / "x").size == (64, 64)
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "x").write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError):
            open_picture(tmp_path / "x")


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
        "I;16B",
    ],
)
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    found = as_shown(image)
    assert (found.mode, found.size) == ("RGB", (4, 4))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_damaged_notes_do_not_cost_the_picture(ending: str, tmp_path: Path) -> None:
    notes = Image.Exif()
    notes[0x0112], notes[0x010F] = 6, "maker"
    whole = notes.tobytes()
    turned = bytearray(whole)
    turned[turned.index(b"\x01\x0f") + 3] = (
        7  # the maker's name is of another kind, which Pillow cannot write again
    )
    for exif, size in (
        (whole, (32, 48)),
        (bytes(turned), (32, 48)),
        (whole[:20], (48, 32)),
        (b"Exif\0\0XX", (48, 32)),
    ):
        flag().save(tmp_path / f"x.{ending}", exif=exif)
        assert open_picture(tmp_path / f"x.{ending}").size == size


def test_a_picture_that_somebody_opened_is_read_when_it_is_needed(tmp_path: Path) -> None:
    flag().save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])
    with (
        Image.open(tmp_path / "x.png") as image,
        pytest.raises(InputError, match="Cannot read the picture 'mine'"),
    ):
        Picture("mine", image).open()


def test_a_picture_too_large_to_be_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    flag().save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"Cannot read the picture.*exceeds limit"):
        open_picture(tmp_path / "x.png")


def test_of_a_picture_with_pages_the_first_is_opened(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("L", (8, 8))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    assert open_picture(tmp_path / "x.tif").getpixel((4, 4)) == RED


def test_a_picture_is_told_from_others_without_being_decoded(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, shade in zip(paths, (10, 10, 11), strict=True):
        Image.new("RGB", (8, 6), (shade, 0, 0)).save(path)
    one, same, other = (Picture("a", path).fingerprint for path in paths)
    assert one == same != other
    paths[0].write_bytes(paths[0].read_bytes()[:40])
    assert Picture("a", paths[0]).fingerprint not in (one, other)  # truncated: a picture of its own
    for missing in (tmp_path / "none.png", tmp_path / "nul\0.png", tmp_path):
        assert Picture("a", missing).fingerprint == Picture("b", tmp_path / "no.png").fingerprint
        with pytest.raises(InputError):
            Picture("a", missing).open()
