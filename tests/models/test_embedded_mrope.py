"""The embedded model with multi-axis RoPE: inputs without torchvision, training that resumes, and tokens that leave."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

import tokenry as tk
from tokenry.bench.reducers.measure import Batch, VisualPrompt, item_digest
from tokenry.data.questions.examples import load_clips, load_scenes
from tokenry.data.scenes.clips import FRAMES, make_clip
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pages import make_page
from tokenry.data.scenes.scenes import patch_class_names, sign_words
from tokenry.hosts.prompt import question_inputs
from tokenry.models.load import load
from tokenry.models.vlm.answering import IGNORE, Shortening, drawn, whole
from tokenry.models.vlm.embedded_mrope.batches import ALL_KINDS, mixed_batch
from tokenry.models.vlm.embedded_mrope.model import (
    DEPTH,
    IMAGE_PROMPT,
    VIDEO_PROMPT,
    build_config,
    build_processor,
)
from tokenry.models.vlm.embedded_mrope.objectives import Patches, class_tokens, on_grid, tower_grid
from tokenry.models.vlm.embedded_mrope.settings import SHARES
from tokenry.models.vlm.embedded_mrope.training import MropeRecipe, build, run
from tokenry.models.vlm.frames import FrameProcessor
from tokenry.tokens.errors import InputError, TokenryError

TINY = {"tower_width": 32, "tower_layers": 1, "tower_heads": 2, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "feed_forward": 48}  # fmt: skip


def tiny_recipe(folder: Path, **changes: object) -> MropeRecipe:
    loop = {"steps": 3, "warmup": 1, "checkpoint_every": 2, "precision": "no"}
    auxiliary = {"naming_weight": 0.5, "placing_weight": 0.5, "fade": True}
    content = {
        "output": str(folder / "run"),
        "model": TINY,
        "validate": 4,
        "tower": {"batch": 4, "loop": loop},
        "answers": [
            {"batch": 4, "questions": 4, "drill": 1, "loop": loop} | auxiliary,
            {"batch": 4, "questions": 3, "loop": loop},
        ],
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return MropeRecipe.load(path)


# -------------------------------------------------------------------------------------------------------- processor


@pytest.fixture(scope="module")
def processor() -> FrameProcessor:
    return build_processor()


def test_words_of_all_questions_are_single_tokens_and_other_words_are_spelt(
    processor: FrameProcessor,
) -> None:
    tokenizer = processor.tokenizer

    def pieces(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]))

    for split in ("train", "val", "test"):
        for word in sign_words(split)[::97]:
            assert len(pieces(word)) == len(word)
            assert tokenizer.decode(tokenizer(word, add_special_tokens=False)["input_ids"]) == word
        signs = {word for page in (make_page(split, i) for i in range(20)) for word in page.letters}
        questions = [q for i in range(20) for q in make_clip(split, i).ask(20)]
        questions += [
            q for i in range(20) for q in make_page(split, i).ask(9, ("nth", "lines", "words", "ink"))
        ]
        for question in questions:
            texts = [question.text]
            texts += [] if question.kind in ("sign", "nth") else [question.answer]
            for text in texts:
                assert not [
                    piece for piece in pieces(text) if piece.startswith("##") or piece in signs | {"<unk>"}
                ], text


def test_a_clip_becomes_tokens_in_time_and_a_picture_of_any_size_its_own_grid(
    processor: FrameProcessor,
) -> None:
    clip, page = make_clip("test", 0), make_page("test", 0)
    found = processor(
        videos=[list(clip.images)], text=VIDEO_PROMPT.format(question="what is moving?"), return_tensors="pt"
    )
    assert found["video_grid_thw"].tolist() == [[FRAMES // DEPTH, 16, 16]]
    assert int((found["input_ids"] == processor.video_token_id).sum()) == 4 * 64
    assert int((found["mm_token_type_ids"] == 2).sum()) == 4 * 64
    found = processor(images=page.image, text=IMAGE_PROMPT.format(question="what?"), return_tensors="pt")
    height, width = page.pixels.shape[:2]
    assert found["image_grid_thw"].tolist() == [[1, height // 6, width // 6]]
    assert int((found["input_ids"] == processor.image_token_id).sum()) == height * width // 144


def test_equal_frames_are_the_picture_and_an_odd_clip_repeats_its_last_frame(
    processor: FrameProcessor,
) -> None:
    first, second = make_clip("test", 0).images[:: FRAMES - 1]
    picture = processor.image_processor(images=[first], return_tensors="pt")["pixel_values"]
    for frames in ([first], [first, first], np.stack([np.asarray(first)] * 2)):
        film = processor.video_processor(frames)
        assert torch.equal(film["pixel_values_videos"], picture)
        assert film["video_grid_thw"].tolist() == [[1, 16, 16]]
    odd = processor.video_processor([[first, first, second], [first]])
    assert odd["video_grid_thw"].tolist() == [[2, 16, 16], [1, 16, 16]]
    last = processor.image_processor(images=[second], return_tensors="pt")["pixel_values"]
    assert torch.equal(odd["pixel_values_videos"], torch.cat([picture, last, picture]))


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ("film.mp4", "A str is no clip"),
        (["film.mp4"], "'film.mp4' is not read here, for that takes a video library"),
        ([[]], "A list is no clip"),
        ([np.zeros((96, 96), dtype=np.uint8)], "is no picture"),
        ([make_page("test", 0).image, make_scene("test", 0).image], "A clip has 2 frames, in sizes"),
    ],
)
def test_what_is_no_clip_is_refused(processor: FrameProcessor, videos: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        processor.video_processor(videos)


def test_the_bench_puts_a_clip_as_a_video_and_pictures_beside_it_as_pictures(tmp_path: Path) -> None:
    model, processor = build(tiny_recipe(tmp_path))[0].eval(), build_processor()
    clip, scene = load_clips("test", 1)[0], load_scenes("test", 1)[0]
    prompts = [VisualPrompt.of(model, processor, example) for example in (clip, scene)]
    assert [("pixel_values_videos" in one.inputs, "pixel_values" in one.inputs) for one in prompts] == [
        (True, False),
        (False, True),
    ]
    both = Batch.of(model, processor, prompts).inputs
    for row, one in enumerate(prompts):
        ids = one.inputs["input_ids"][0]
        assert torch.equal(both["input_ids"][row, -len(ids) :], ids)
    assert item_digest(clip) != item_digest(replace(clip, video=False))
    with pytest.raises(InputError, match="nor a video token, so there is no telling"):
        question_inputs(*load("embedded"), [[scene.image]], ["what?"], [True])


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("sort", SHARES)
def test_a_batch_is_a_function_of_its_step_and_holds_what_the_processor_would_make(
    sort: str, processor: FrameProcessor
) -> None:
    batch, again = (
        mixed_batch(3, size=4, seed=2, shares={sort: 1.0}, questions=8, drill=1) for _ in range(2)
    )
    assert batch.keys() == again.keys()
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    rows = len(batch["frames"])
    assert batch["shows"].shape == (rows, int(batch["grid"][0].prod()))
    assert batch["labels"].shape == (rows, 4 * batch["shows"].shape[1])
    film = processor.video_processor([list(frames) for frames in batch["frames"].numpy()])
    assert torch.equal(film["video_grid_thw"], tower_grid(batch["grid"]))
    torch.testing.assert_close(Patches()(batch["frames"]), film["pixel_values_videos"], atol=1e-6, rtol=0)
    assert batch["labels"].max() < len(patch_class_names()) == len(class_tokens())
    assert (batch["labels"] > 0).any()
    tokenizer = processor.tokenizer
    for row in range(rows):
        here = batch["segment"][row] == 0
        target = batch["target"][row][here]
        target = target[target != IGNORE]
        assert int(target[-1]) == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in batch["ids"][row][here]
        assert 0 <= int(batch["kind"][row][here][0]) < len(ALL_KINDS)


@pytest.mark.parametrize("sort", ["scene", "clip", "page"])
def test_packed_questions_are_answered_as_each_would_be_alone(sort: str, tmp_path: Path) -> None:
    objective = build(tiny_recipe(tmp_path))[2].eval()
    model, processor = objective.model, build_processor()
    batch = mixed_batch(1, size=4, seed=7, shares={sort: 1.0}, questions=5)
    with torch.no_grad():
        visual = objective.visual(batch)
        seen = whole(*visual.shape[:2], partial(on_grid, batch["grid"][0]))
        found = objective.read(batch, visual, seen)
        packed = model.lm_head(found.questions)
        frames = list(batch["frames"][0].numpy())
        for number in range(int(batch["segment"][0].max()) + 1):
            here = batch["segment"][0] == number
            text = processor.tokenizer.decode(batch["ids"][0][here])
            if sort == "clip":
                inputs = processor(videos=[frames], text=f"<video>\n{text}", return_tensors="pt")
            else:
                image = torch.from_numpy(frames[0]).permute(2, 0, 1)
                inputs = processor(images=image, text=f"<image>\n{text}", return_tensors="pt")
            length = int(here.sum())
            assert inputs["input_ids"][0, -length:].tolist() == batch["ids"][0][here].tolist()
            alone = model(**inputs).logits[0, -length:]
            torch.testing.assert_close(packed[0][here], alone, atol=1e-5, rtol=1e-4)


def test_dropped_tokens_keep_their_places_and_the_text_moves_up_only_if_asked() -> None:
    grid, index = torch.tensor([2, 2, 3]), torch.tensor([[0, 1, 7], [0, 5, 11]])
    for chance, begin in ((0.0, 3), (0.9, [[2], [3]])):
        positions, text = on_grid(grid, index, 12, chance, None)
        assert positions[:, 0].tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1]]
        assert (text if isinstance(text, int) else text.tolist()) == begin


def test_steps_on_fewer_tokens_run_through_the_decoder_whole_or_cut_short(tmp_path: Path) -> None:
    objective = build(tiny_recipe(tmp_path))[2].eval()
    batch = mixed_batch(0, size=2, seed=0, shares={"scene": 1.0}, questions=3)
    rule, generator = Shortening(steps=1.0, late=0.0), torch.Generator().manual_seed(0)
    found = set()
    with torch.no_grad():
        visual = objective.visual(batch)
        for _ in range(12):
            seen = drawn(batch["shows"] > 0, 2, rule, generator, partial(on_grid, batch["grid"][0]))
            read = objective.read(batch, visual, seen)
            assert read.questions.shape[:2] == batch["ids"].shape
            assert torch.isfinite(read.questions).all()
            found.add((seen.cut, read.left.shape[1] > 0))
    assert {(None, True), (1, True), (1, False)} <= found


def test_auxiliary_losses_end_and_the_tower_learns_alone(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    _, tower, objective = build(recipe)
    shares = {"scene": 1.0}
    first, last = recipe.answers
    for settings, step, named in ((first, 0, True), (first, first.loop.steps, False), (last, 0, False)):
        objective.enter({"settings": settings})
        objective.begin(0, step)
        _, figures = objective(mixed_batch(0, size=2, seed=0, shares=shares, questions=3))
        assert ("naming" in figures, "placing" in figures) == (named, named)
    loss, _ = tower(mixed_batch(0, size=2, seed=0, shares=shares, questions=1))
    loss.backward()
    learned = {name for name, p in tower.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned
    assert all(name.startswith(("model.model.visual.", "patches.")) for name in learned)


def test_a_tiny_run_resumes_bit_for_bit_and_exports_a_folder_that_loads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    console = Console(quiet=True)
    whole = run(tiny_recipe(tmp_path / "a"), console)
    recipe = tiny_recipe(tmp_path / "b")
    for stop in (2, 4, 8):  # within each phase
        assert run(recipe, console, stop_after=stop) is None
    resumed = run(recipe, console)
    assert whole is not None
    assert resumed is not None
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    model, processor = load(resumed, dtype=torch.float32)
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    assert isinstance(processor, FrameProcessor)
    inputs = processor(videos=[list(make_clip("test", 0).images)], text="<video>\nwhat?", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 1


def test_bad_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TokenryError, match="is not a recipe for the embedded model with multi-axis RoPE: tower"
    ):
        tiny_recipe(tmp_path, tower={"batch": 4})


# ------------------------------------------------------------------------------------------------------ tokens leave


@pytest.fixture(scope="module")
def untrained() -> tuple[Qwen2VLForConditionalGeneration, FrameProcessor]:
    """A model with large random weights, so that a wrong position or mask shows."""
    processor = build_processor()
    config = build_config(processor, tower_layers=2)
    model = Qwen2VLForConditionalGeneration._from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model, processor


@pytest.mark.parametrize("load_sort", [load_scenes, load_clips])
def test_its_own_inputs_pass_every_law_of_reduction_and_methods_keep_what_they_are_told(
    untrained: tuple[Qwen2VLForConditionalGeneration, FrameProcessor], load_sort: Any
) -> None:
    model, processor = untrained
    (example,) = load_sort("test", 1)
    frames = [picture.open() for picture in example.pictures]
    inputs = question_inputs(model, processor, [frames], [example.question], [example.video])
    report = tk.check(model, inputs, steps=2)
    assert report.ok, str(report)
    for method in ("random", "divprune"):
        with tk.reduced(model, method, budget=0.25) as session:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        (item,) = session.trace
        assert item.grid == (FRAMES // DEPTH if example.video else 1, 8, 8)
        assert int(item.kept.sum()) == item.n // 4


def test_the_model_of_the_recipe_is_small() -> None:
    recipe = MropeRecipe.load(Path(__file__).parents[2] / "recipes" / "embedded_mrope.yaml")
    assert 2 * sum(parameter.numel() for parameter in build(recipe)[0].parameters()) <= 3_900_000
