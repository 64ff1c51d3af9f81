"""Heads on patch tokens: where their maps lie, what they refuse, and a training from features to a loadable folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

import tokenry as tk
from tokenry.data.images.stamps import Stamp, Stamps
from tokenry.data.packages import PackageUnavailableError
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.maps import pixel_class_names, pixel_classes, pixel_depth
from tokenry.data.scenes.style import OVERLAPPING
from tokenry.hosts.upstream import BitImageProcessorPil
from tokenry.models.backbones.dinov2_heads import Dinov2HeadsRecipe, heads_folder, training
from tokenry.models.backbones.dinov2_heads.training import target_maps
from tokenry.models.backbones.heads import HeadedEncoder, TaskHeads, TaskHeadsConfig
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.loop import latest_checkpoint


@pytest.fixture
def heads() -> TaskHeads:
    torch.manual_seed(0)
    return TaskHeads(TaskHeadsConfig(hidden_size=8, intermediate_size=16, classes=("a", "b", "c"))).eval()


def test_each_patch_is_judged_by_its_own_token(heads: TaskHeads) -> None:
    features = torch.randn(2, 1 + 6, 8)
    logits, depth = heads.segment(features, grid=(2, 3)), heads.depth(features, grid=(2, 3))
    assert logits.shape == (2, 3, 2, 3)
    assert depth.shape == (2, 2, 3)
    other = features.clone()
    other[:, 1 + 4] += 1  # the patch in row 1, column 1
    changed = (heads.segment(other, grid=(2, 3)) != logits).any(1)
    assert changed[0].nonzero().tolist() == [[1, 1]]
    assert (heads.depth(other, grid=(2, 3)) != depth)[1].nonzero().tolist() == [[1, 1]]
    other = features.clone()
    other[:, 0] += torch.randn(8)  # [CLS] has no place
    assert torch.equal(heads.segment(other, grid=(2, 3)), logits)
    assert not torch.equal(heads.classify(other), heads.classify(features))


def test_maps_are_interpolated_to_pixels(heads: TaskHeads) -> None:
    features = torch.randn(1, 1 + 16, 8)
    coarse, fine = heads.depth(features), heads.depth(features, side=20)
    assert coarse.shape == (1, 4, 4)
    assert fine.shape == (1, 20, 20)
    torch.testing.assert_close(fine[:, 2::5, 2::5], coarse)  # centres of the patches


def test_without_a_class_token_the_mean_of_the_patches_is_all() -> None:
    heads = TaskHeads(TaskHeadsConfig(hidden_size=8, prefix=0)).eval()
    features = torch.randn(3, 9, 8)
    assert heads.segment(features).shape == (3, 2, 3, 3)
    torch.testing.assert_close(heads.pool(features), features.mean(1))


def test_features_that_do_not_fit_are_refused(heads: TaskHeads) -> None:
    with pytest.raises(InputError, match=r"\[pictures, tokens, 8\], got \[2, 10, 16\].*another tower"):
        heads.segment(torch.randn(2, 10, 16))
    with pytest.raises(InputError, match=r"7 patch tokens .* do not make 3 x 3: .*`grid`"):
        heads.depth(torch.randn(2, 8, 8))
    with pytest.raises(InputError, match=r"9 patch tokens .* do not make 2 x 4"):
        heads.depth(torch.randn(2, 10, 8), grid=(2, 4))


def test_target_maps_are_what_the_scene_shows_in_the_middle_of_each_place() -> None:
    scene = make_scene("train", 2, style=OVERLAPPING)
    classes, depth = target_maps(scene)
    assert classes.shape == depth.shape == (56, 56)
    assert np.array_equal(classes, pixel_classes(scene)[2::4, 2::4])
    assert np.array_equal(depth, pixel_depth(scene)[2::4, 2::4])


# ------------------------------------------------------------------------------------------------------------- training


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tower of width 384 that is no good and fast, a dozen stamps, and a recipe of few steps."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=1,
        patch_size=56,
        image_size=224,
    )
    model, processor = Dinov2Model(config).eval(), BitImageProcessorPil(do_center_crop=False)
    stamps = []
    for number in range(16):
        png = tmp_path / f"{number}.png"
        Image.new("RGB", (20, 10), (number * 15, 0, 99)).save(png)
        name = f"{('food', 'town')[number % 2]}/{'abcdefghijklmnop'[number]}"
        stamps.append(Stamp(name, png, None, MappingProxyType({"en": "."}), MappingProxyType({})))
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "load", lambda name: (model, processor))
    monkeypatch.setattr(training, "load_stamps", lambda: Stamps(tuple(stamps), None))
    loop = {"steps": 6, "warmup": 1, "checkpoint_every": 2, "precision": "no"}
    return {"scenes": 6, "batch": 3, "intermediate_size": 8, "loop": loop}


def _recipe(folder: Path, content: dict[str, Any]) -> Dinov2HeadsRecipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | {"output": str(folder / "run")}))
    return Dinov2HeadsRecipe.load(path)


def _trained(folder: Path, tiny: dict[str, Any], *stops: int | None) -> dict[str, Tensor]:
    folder.mkdir()
    recipe = _recipe(folder, tiny)
    made = [recipe.train(stop_after=stop, console=Console(quiet=True)) for stop in stops]
    assert made[:-1] == [None] * (len(stops) - 1)
    assert made[-1] is not None
    return load_file(made[-1] / "model.safetensors")


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tiny: dict[str, Any], tmp_path: Path) -> None:
    whole, pieces = _trained(tmp_path / "a", tiny, None), _trained(tmp_path / "b", tiny, 3, None)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert latest_checkpoint(tmp_path / "b" / "run" / "heads") is not None
    heads = TaskHeads.from_pretrained(tmp_path / "a" / "run" / "model")
    assert heads.dtype == torch.float16
    assert heads.config.classes == list(pixel_class_names())
    assert heads.config.categories == ["food", "town"]
    card = json.loads((tmp_path / "a" / "run" / "model" / "training.json").read_text())
    assert {"what", "licence", "tower", "trained_on", "limits", "recipe", "features", "stamps"} == card.keys()


def test_another_recipe_does_not_go_on_there(tiny: dict[str, Any], tmp_path: Path) -> None:
    _trained(tmp_path / "a", tiny, None)
    with pytest.raises(InputError, match="with another seed"):
        _recipe(tmp_path / "a", tiny | {"seed": 1}).train(console=Console(quiet=True))


def test_a_batch_that_is_larger_than_what_there_is_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch of 7 cannot be drawn from 6 scenes"):
        _recipe(tmp_path, tiny | {"batch": 7}).train(console=Console(quiet=True))


# ---------------------------------------------------------------------------------------------------- what is shipped


def test_the_shipped_heads_are_small_and_know_the_scenes() -> None:
    folder = heads_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1_000_000
    heads = TaskHeads.from_pretrained(folder)
    assert heads.config.classes == list(pixel_class_names())
    assert "animals" in heads.config.categories
    assert json.loads((folder / "training.json").read_text())["licence"] == "Apache-2.0"


@pytest.mark.packages
@pytest.mark.slow
def test_the_real_tower_with_the_shipped_heads_sees_scenes() -> None:
    try:
        vision = tk.models.dinov2_for_scenes()
    except (PackageUnavailableError, UnsupportedError) as error:
        pytest.skip(f"the real package cannot be had here: {error}")
    assert isinstance(vision, HeadedEncoder)
    scenes = [make_scene("test", index, style=OVERLAPPING) for index in range(4)]
    images = [scene.image for scene in scenes]
    truth = torch.from_numpy(np.stack([pixel_classes(scene) for scene in scenes]))
    high = torch.from_numpy(np.stack([pixel_depth(scene) for scene in scenes])).float()
    assert (vision.segment(images) == truth).float().mean() > 0.85 > (truth == 0).float().mean()
    error = (vision.depth(images) - high).square().mean().sqrt()
    assert error < 0.6 * high.std()
