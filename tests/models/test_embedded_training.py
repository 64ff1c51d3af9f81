"""Training of the embedded model: objectives, packing, and a tiny run from start to a loadable folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS
from tokenry.data.scenes.style import FINE, TILED
from tokenry.models.load import load
from tokenry.models.vlm.answering import IGNORE, whole
from tokenry.models.vlm.embedded.batches import ALL_KINDS, answer_batch, lists, tower_batch
from tokenry.models.vlm.embedded.caption_head import CaptionHead, caption
from tokenry.models.vlm.embedded.contrast import CaptionContrast
from tokenry.models.vlm.embedded.model import build_processor, build_tokenizer
from tokenry.models.vlm.embedded.patch_labels import PatchLabels, PatchPlaces
from tokenry.models.vlm.embedded.tiles import TILES, crop_labels, cut, pack, packed_labels
from tokenry.models.vlm.embedded.training import EmbeddedRecipe, build, run
from tokenry.tokens.errors import TokenryError

TINY = {"tower_width": 32, "tower_layers": 2, "tower_heads": 2, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "feed_forward": 48}  # fmt: skip


def tiny_recipe(folder: Path, **changes: object) -> EmbeddedRecipe:
    loop = {"steps": 4, "warmup": 1, "checkpoint_every": 2, "precision": "no"}
    content = {
        "output": str(folder / "run"),
        "model": TINY,
        "validate": 1,
        "tower": {"batch": 4, "crops": 2, "loop": loop},
        "answers": [
            {
                "batch": 4,
                "questions": 4,
                "tiled": 0.5,
                "naming_weight": 0.5,
                "pointing_weight": 0.5,
                "loop": loop,
            },
            {
                "batch": 2,
                "drill": 1,
                "naming_weight": 0.5,
                "pointing_weight": 0.5,
                "fade": True,
                "loop": loop,
            },
            {"batch": 2, "loop": loop},
        ],
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return EmbeddedRecipe.load(path)


def test_packed_questions_give_the_logits_that_each_would_have_alone(tmp_path: Path) -> None:
    model, _, answers = build(tiny_recipe(tmp_path))
    batch = answer_batch(0, size=2, seed=5, questions=6)
    with torch.no_grad():
        visual = answers.eval().visual(batch)
        packed = model.lm_head(answers.read(batch, visual, whole(*visual.shape[:2])).questions)
        processor = build_processor()
        for row in range(2):
            scene = make_scene("train", row, 5, FINE)
            for number, question in enumerate(scene.ask(6)):
                inputs = processor(
                    images=scene.image,
                    text=f"<image>\n{question.text} {question.answer}",
                    return_tensors="pt",
                )
                here = batch["segment"][row] == number
                length = int(here.sum())
                assert inputs["input_ids"][0, -length:].tolist() == batch["ids"][row][here].tolist()
                alone = model(**inputs).logits[0, -length:]
                torch.testing.assert_close(packed[row][here], alone, atol=1e-5, rtol=1e-4)


def test_a_share_of_the_steps_is_on_large_pictures_in_tiles() -> None:
    shapes = [
        answer_batch(step, size=8, seed=0, questions=2, tiled=0.25)["pixels"].shape for step in range(8)
    ]
    assert [shape[:2] for shape in shapes] == [(8, 1), (8, 1), (8, 1), (2, 5)] * 2


def test_tiles_are_packed_as_they_are_labelled() -> None:
    scene = next(s for s in (make_scene("train", i, style=TILED) for i in range(9)) if s.sign)
    tiles, labels, patches = cut(scene), packed_labels(scene, 12), 96 // 8
    assert tiles.shape == (TILES, 96, 96, 3)
    assert np.array_equal(tiles[2], scene.pixels[:96, 96:])
    assert np.array_equal(tiles[3], scene.pixels[96:, :96])
    each = crop_labels(scene, patches)
    marks = torch.from_numpy(np.concatenate([np.zeros_like(each[:1]), each])).float()[None, :, :, None]
    found = pack(marks, torch.tensor([0.0]))[0, :, 0].long()
    assert found.tolist() == labels.tolist()
    assert len(found) == 144 + 24 * 25
    ends = pack(torch.zeros(1, TILES, 144, 1), torch.ones(1))[0, :, 0]
    assert ends.nonzero().flatten().tolist() == [144 + 25 * row + 24 for row in range(24)]


def test_answer_targets_are_the_answers_and_an_end() -> None:
    tokenizer = build_tokenizer()
    batch = answer_batch(3, size=2, seed=9, questions=8)
    for row in range(2):
        for number, question in enumerate(make_scene("train", 3 * 2 + row, 9, FINE).ask(8)):
            here = batch["segment"][row] == number
            target = batch["target"][row][here]
            target = target[target != IGNORE]
            assert int(target[-1]) == tokenizer.eos_token_id
            assert tokenizer.decode(target[:-1]) == question.answer
            assert KINDS[int(batch["kind"][row][here][0])] == question.kind


def test_lists_tell_what_is_where_in_words_that_the_tokenizer_has() -> None:
    tokenizer, objects = build_tokenizer(), load_pack().objects
    for index in range(40):
        scene = make_scene("train", index, 4, FINE)
        shown = {(item.place, objects[item.index].name, objects[item.index].group) for item in scene.items}
        what, where, kinds = (answer for _, answer in lists(scene))
        assert all(f"{place} {name}" in what and f"{name} {place}" in where for place, name, _ in shown)
        assert all(f"{place} {group}" in kinds for place, _, group in shown)
        for text in (text for both in lists(scene) for text in both):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
            assert (
                tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).replace(" ?", "?")
                == text
            )
    batch = answer_batch(2, size=4, seed=4, questions=1, told=2)
    assert all((row == ALL_KINDS.index("list")).any() for row in batch["kind"])


def test_captions_name_everything_and_negatives_differ_in_one_word() -> None:
    batch = tower_batch(0, size=16, seed=1)
    assert torch.equal(tower_batch(0, size=16, seed=1)["negatives"], batch["negatives"])
    different = (batch["words"] != batch["negatives"]).sum(1)
    assert torch.equal(different, torch.ones(16, dtype=torch.long))
    assert torch.equal(batch["words"] == 0, batch["negatives"] == 0)
    objects = len(load_pack().objects)
    scene = next(s for s in (make_scene("train", i, 1, FINE) for i in range(16)) if s.sign)
    assert scene.sign is not None
    words = caption(scene)
    assert [word for word in words if word <= objects] == [1 + item.index for item in scene.items]
    assert (
        "".join(chr(w - objects - 1 + ord("a")) for w in words if objects < w < objects + 27)
        == scene.sign.word
    )


def test_contrast_prefers_matching_captions_and_counts_repeated_words() -> None:
    torch.manual_seed(0)
    contrast = CaptionContrast(CaptionHead(width=16, dimension=8))
    once, twice = contrast.head.texts(torch.tensor([[3, 4, 0], [3, 4, 4]]))
    assert not torch.allclose(once, twice, atol=1e-3)
    assert torch.allclose(once, contrast.head.texts(torch.tensor([[4, 3, 0]]))[0], atol=1e-6)
    words = torch.tensor([[1, 2], [3, 4], [5, 6]])
    negatives = torch.tensor([[1, 9], [3, 10], [11, 6]])
    # a picture tower that already knows the captions: pseudo-inverse of the projection
    cls = contrast.head.texts(words) @ torch.linalg.pinv(contrast.head.picture.weight).T
    matched_loss, matched = contrast(cls, words, negatives)
    shuffled_loss, _ = contrast(cls.roll(1, 0), words, negatives)
    assert matched.item() == 1.0
    assert matched_loss.item() < shuffled_loss.item()


def test_patch_labels_weigh_background_less() -> None:
    torch.manual_seed(0)
    labels = PatchLabels(width=4, classes=3, background=0.25)
    tokens = torch.randn(1, 2, 4)
    loss, _ = labels(tokens, torch.tensor([[0, 2]]))
    logits = labels.head(labels.norm(tokens))[0].log_softmax(-1)
    expected = -(0.25 * logits[0, 0] + logits[1, 2]) / 1.25
    torch.testing.assert_close(loss, expected)


def test_patch_places_learns_rows_and_columns_from_tokens_that_carry_them() -> None:
    torch.manual_seed(0)
    places = PatchPlaces(width=8, grid=(2, 3))
    rows, columns = torch.arange(6) // 3, torch.arange(6) % 3
    told = torch.cat([F.one_hot(rows, 2), F.one_hot(columns, 3), torch.zeros(6, 3)], dim=1).float()[None]
    optimizer = torch.optim.Adam(places.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        places(told).backward()
        optimizer.step()
    assert places(told).item() < 0.05
    assert places(told.roll(1, 1)).item() > 1.0


def test_pointing_rewards_looking_at_the_named_object_and_away_from_absent_ones(tmp_path: Path) -> None:
    _, _, answers = build(tiny_recipe(tmp_path))
    batch = answer_batch(0, size=4, seed=3, questions=8)
    length = batch["ids"].shape[1]
    classes = answers.class_token[batch["labels"]]

    def attention(told: bool) -> torch.Tensor:
        """All attention on the first patch of the named class, or on the start if told so or where there is none."""
        looks = torch.zeros(4, 1, 145 + length, 145 + length)
        for row in range(4):
            for t in range(length):
                found = (classes[row] == batch["ids"][row, t]).nonzero()
                target = 1 + int(found[0]) if len(found) and told else 0 if told else 144
                looks[row, 0, 145 + t, target] = 1
        return looks

    assert answers.pointing_loss(attention(True), batch, whole(4, 144)).item() == pytest.approx(0, abs=1e-3)
    assert answers.pointing_loss(attention(False), batch, whole(4, 144)).item() > 5


def test_help_fades_over_a_phase_that_says_so(tmp_path: Path) -> None:
    steady, fading, _ = tiny_recipe(tmp_path).answers
    assert [steady.left(step) for step in (0, 2, 3)] == [1, 1, 1]
    assert [fading.left(step) for step in (0, 2, 3)] == [1, 0.5, 0.25]


def test_the_tower_is_finished_when_the_answers_begin(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    folder = run(recipe, Console(quiet=True))
    assert folder is not None
    finished = LlavaForConditionalGeneration.from_pretrained(folder).state_dict()
    saved = load_file(next((recipe.output / "1-tower").glob("step-*4")) / "model.safetensors")
    tower = {name: value for name, value in saved.items() if name.startswith("tower.")}
    assert tower
    for name, value in tower.items():
        torch.testing.assert_close(finished[f"model.vision_{name}"], value.half(), rtol=0, atol=0)
    fresh = build(recipe)[0].half().state_dict()
    for part in ("model.language_model.", "model.multi_modal_projector.", "lm_head."):
        assert any(not torch.equal(fresh[n], v) for n, v in finished.items() if n.startswith(part))


def test_a_tiny_run_resumes_bit_for_bit_and_exports_a_plain_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    console = Console(quiet=True)
    whole = run(tiny_recipe(tmp_path / "a"), console)

    # die in the last stage, after its first checkpoint
    recipe = tiny_recipe(tmp_path / "b")
    calls = 0

    def dies(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("tokenry.models.vlm.embedded.training.export", dies)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console)
    monkeypatch.undo()
    shutil.rmtree(
        recipe.output / "4-answers" / "step-0000004"
    )  # as if it died before that checkpoint was complete
    resumed = run(recipe, console)

    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    model = LlavaForConditionalGeneration.from_pretrained(resumed, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(resumed)
    scene = make_scene("test", 0)
    inputs = processor(images=scene.image, text="<image>\nwhat is at the top left?", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tower": {"batch": 4}}, "tower: it lacks 'loop'"),
        ({"colour": "red"}, "there is no setting 'colour', but output, tower"),
        ({"answers": 3}, "answers: a whole number \\(3\\) where a list belongs"),
        (
            {"answers": [{"batch": 2, "loop": {"steps": "4"}}]},
            r"answers\[0\].loop.steps: a text \('4'\) where a whole number belongs",
        ),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(TokenryError, match=f"is not a recipe for the embedded model: {words}"):
        tiny_recipe(tmp_path, **changes)


def test_it_stops_after_a_step_of_all_phases_and_goes_on(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    for stop in (3, 4, 6):  # within the first phase, at its end, within the second
        assert run(recipe, Console(quiet=True), stop_after=stop) is None
    assert not (recipe.output / "3-answers").exists()
    assert (recipe.output / "2-answers" / "step-0000002").exists()
    assert run(recipe, Console(quiet=True), stop_after=16) == recipe.output / "model"


@pytest.mark.xfail(
    strict=True, reason="the shipped weights are version 1's: version 2 is still being trained"
)
def test_the_recipe_of_the_shipped_model_fits_the_shipped_model() -> None:
    recipe = EmbeddedRecipe.load(Path(__file__).parents[2] / "recipes" / "embedded_vlm.yaml")
    model, _, _ = build(recipe)
    shipped, _ = load("embedded")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in shipped.state_dict().items()}


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match="is not a recipe"):
        EmbeddedRecipe.load(tmp_path / "nothing.yaml")
