"""The joint space of pictures and words that ships with the embedded model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenry.data.scenes.compose import make_scene
from tokenry.models.load import load
from tokenry.models.vlm.embedded.caption_head import (
    HEAD_FILE,
    CaptionHead,
    caption,
    caption_words,
    load_caption_head,
)
from tokenry.tokens.errors import TokenryError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is there a hot dog?", ["hot dog"]),
        ("what is above the dog, or the red hot dog", ["dog", "hot dog", "red"]),
        ("what does the sign say?", []),
    ],
)
def test_word_ids_finds_caption_words_longest_first(text: str, words: list[str]) -> None:
    assert CaptionHead.word_ids(text) == sorted(caption_words().index(word) for word in words)


def test_captions_name_what_a_scene_shows() -> None:
    scene = next(s for s in (make_scene("test", i) for i in range(20)) if s.sign)
    assert scene.sign is not None
    words = [caption_words()[i] for i in caption(scene)]
    assert words[-1] == scene.sign.colour
    assert [w.removeprefix("letter ") for w in words if w.startswith("letter ")] == list(scene.sign.word)
    assert len(words) == len(scene.items) + len(scene.sign.word) + 1


def test_shipped_pictures_match_their_captions() -> None:
    model, processor = load("embedded")
    head = load_caption_head()
    scenes = [make_scene("test", i) for i in range(32)]
    pixels = processor.image_processor([scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    ids = np.zeros((32, 12), dtype=np.int64)
    for row, scene in enumerate(scenes):
        ids[row, : len(caption(scene))] = caption(scene)
    with torch.inference_mode():
        pictures = head.pictures(model.model.vision_tower(pixels).pooler_output)
        similarity = pictures @ head.texts(torch.from_numpy(ids)).T
    torch.testing.assert_close(pictures.norm(dim=-1), torch.ones(32))
    assert (similarity.argmax(1) == torch.arange(32)).float().mean() >= 0.9


def test_a_missing_or_foreign_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match="is missing"):
        load_caption_head(tmp_path)
    save_file(
        {"picture.weight": torch.zeros(2, 2)}, tmp_path / HEAD_FILE, metadata={"words": '["<pad>", "cat"]'}
    )
    with pytest.raises(TokenryError, match="another picture pack"):
        load_caption_head(tmp_path)
