"""Features of frozen towers on disk: made once, resumed shard by shard, checked, refused where they are another's."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from tokenry.hosts.upstream import BitImageProcessorPil
from tokenry.models.backbones import features
from tokenry.models.backbones.features import FeatureCache, FrozenTower, PictureSeries
from tokenry.tokens.errors import InputError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD", 4)


@pytest.fixture(scope="module")
def tower() -> FrozenTower:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=4, image_size=16
    )
    size = {"height": 16, "width": 16}
    return FrozenTower(Dinov2Model(config).eval(), BitImageProcessorPil(size=size, do_center_crop=False))


class Noise:
    """Pictures of noise that count how often they are drawn."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __call__(self, index: int) -> Image.Image:
        self.drawn.append(index)
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def series(pictures: Noise, count: int = 10, **source: Any) -> PictureSeries:
    return PictureSeries("noise", count, pictures, {"kind": "noise"} | source)


def test_features_are_those_of_the_tower_in_any_order(tower: FrozenTower, tmp_path: Path) -> None:
    cache = FeatureCache(tower, series(Noise()), tmp_path / "a").fill()
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 3
    order = torch.tensor([7, 0, 9, 7])
    expected = torch.cat([tower([Noise()(i)]) for i in order.tolist()])
    found = cache[order]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)
    assert torch.equal(
        pickle.loads(pickle.dumps(cache))[order], found
    )  # as in a process that prepares batches


def test_an_earlier_layer_and_another_side(tower: FrozenTower) -> None:
    early = FrozenTower(tower.model, tower.processor, layer=1, side=24)
    assert early([Noise()(0)]).shape == (1, 1 + 36, 16)
    states = tower.model(early.pixels([Noise()(0)]), output_hidden_states=True).hidden_states
    assert torch.equal(early([Noise()(0)]), states[1])


def test_a_killed_run_goes_on_with_what_is_missing(tower: FrozenTower, tmp_path: Path) -> None:
    class Killed(Noise):
        def __call__(self, index: int) -> Image.Image:
            if index == 6:
                raise KeyboardInterrupt
            return super().__call__(index)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tower, series(Killed()), tmp_path / "a").fill()
    again = Noise()
    FeatureCache(tower, series(again), tmp_path / "a").fill()
    assert again.drawn == [4, 5, 6, 7, 8, 9]
    third = Noise()
    longer = FeatureCache(tower, series(third, count=13), tmp_path / "a").fill()
    assert third.drawn == [8, 9, 10, 11, 12]  # the last shard was not full
    assert longer[torch.arange(13)].shape == (13, 17, 16)


@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "gone"])
def test_a_damaged_shard_is_refused_and_made_again(tower: FrozenTower, tmp_path: Path, damage: str) -> None:
    whole = FeatureCache(tower, series(Noise()), tmp_path / "a").fill()[torch.arange(10)]
    file = tmp_path / "a" / "00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes({"half": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    pictures = Noise()
    cache = FeatureCache(tower, series(pictures), tmp_path / "a")
    assert torch.equal(cache[torch.tensor([0])], whole[:1])
    with pytest.raises(InputError, match=r"00001\.safetensors .*`fill\(\)` first"):
        cache[torch.tensor([5])]
    assert torch.equal(cache.fill()[torch.arange(10)], whole)
    assert pictures.drawn == [4, 5, 6, 7]


def test_features_of_another_tower_layer_or_series_are_refused(tower: FrozenTower, tmp_path: Path) -> None:
    FeatureCache(tower, series(Noise()), tmp_path / "a")
    trained = copy.deepcopy(tower.model)
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    for other, pictures, named in (
        (FrozenTower(trained, tower.processor), series(Noise()), "tower"),
        (FrozenTower(tower.model, tower.processor, layer=1), series(Noise()), "layer"),
        (FrozenTower(tower.model, BitImageProcessorPil()), series(Noise()), "processor"),
        (tower, series(Noise(), style="large"), "pictures"),
    ):
        with pytest.raises(InputError, match=f"with another {named}"):
            FeatureCache(other, pictures, tmp_path / "a")


def test_a_folder_of_the_cache_belongs_to_one_tower_and_series(
    tower: FrozenTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    one = FeatureCache(tower, series(Noise()))
    assert one.folder.parent == tmp_path / "features"
    assert FeatureCache(tower, series(Noise())).folder == one.folder
    assert FeatureCache(tower, series(Noise(), seed=1)).folder != one.folder
    assert (
        FeatureCache(FrozenTower(tower.model, tower.processor, layer=1), series(Noise())).folder != one.folder
    )


def test_features_that_overflow_and_pictures_that_are_not_there_are_refused(
    tower: FrozenTower, tmp_path: Path
) -> None:
    loud = copy.deepcopy(tower.model)
    with torch.no_grad():
        loud.layernorm.weight.fill_(1e6)
    with pytest.raises(InputError, match="do not fit half precision"):
        FeatureCache(FrozenTower(loud, tower.processor), series(Noise()), tmp_path / "a").fill()
    cache = FeatureCache(tower, series(Noise()), tmp_path / "b").fill()
    with pytest.raises(InputError, match="no picture 10 among the 10"):
        cache[torch.tensor([10])]
