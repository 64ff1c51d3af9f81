"""The picture pack: complete, licensed, small."""

import dataclasses
from importlib.resources import files

import numpy as np
import pytest

from tokenry.data.scenes.pack import load_pack
from tokenry.tokens.errors import TokenryError

ASSETS = files("tokenry.data") / "assets"


def test_every_object_has_a_picture_and_names_in_all_languages() -> None:
    pack = load_pack()
    assert 100 <= len(pack.objects) <= 200
    assert len(pack.languages) >= 10
    assert pack.sprites.shape == (len(pack.objects), 48, 48, 4)
    for item, sprite in zip(pack.objects, pack.sprites, strict=True):
        assert set(item.names) == set(pack.languages), item.key
        assert all(name.strip() for name in item.names.values()), item.key
        assert (sprite[:, :, 3] > 128).mean() > 0.1, f"{item.key} is empty"


def test_english_names_are_unique_short_and_lower_case() -> None:
    names = [item.name for item in load_pack().objects]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and 1 <= len(name.split()) <= 2 for name in names)


def test_pictures_differ_from_each_other() -> None:
    flat = load_pack().sprites.reshape(len(load_pack().objects), -1).astype(np.int32)
    for i in range(len(flat) - 1):
        assert np.abs(flat[i + 1 :] - flat[i]).mean(1).min() > 5


def test_letters_are_drawn_and_distinct() -> None:
    glyphs = load_pack().glyphs
    assert glyphs.shape[1] == 26
    for font in glyphs:
        assert len({letter.tobytes() for letter in font}) == 26
        assert all((letter > 128).mean() > 0.1 for letter in font)


def test_index_finds_by_key_and_by_name_and_refuses_the_unknown() -> None:
    pack = load_pack()
    assert pack.objects[pack.index("hot_dog")].name == "hot dog"
    assert pack.index("hot dog") == pack.index("hot_dog")
    with pytest.raises(TokenryError, match="no object 'gryphon'"):
        pack.index("gryphon")


def test_the_shared_pack_cannot_be_changed() -> None:
    pack = load_pack()
    with pytest.raises(ValueError, match="read-only"):
        pack.sprites[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pack.objects = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        pack.objects[0].names["en"] = "other"  # type: ignore[index]


def test_licences_lie_beside_the_pack_and_it_is_small() -> None:
    texts = {name: (ASSETS / f"LICENSE.{name}.txt").read_text() for name in ("noto-emoji", "cldr", "dejavu")}
    assert "SIL OPEN FONT LICENSE" in texts["noto-emoji"]
    assert "unicode" in texts["cldr"].lower()
    assert "Bitstream" in texts["dejavu"]
    assert sum(len(entry.read_bytes()) for entry in ASSETS.iterdir()) < 2_000_000
