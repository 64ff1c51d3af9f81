"""Clips: deterministic, disjoint splits, still where nothing happens, and answers that the frames confirm."""

import re

import numpy as np
import pytest

from tokenry.data.questions.examples import load_clips
from tokenry.data.scenes.clips import (
    CLIP_KINDS,
    FRAMES,
    HEADINGS,
    STILL_KINDS,
    Clip,
    Track,
    clip_words,
    make_clip,
)
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import PLACES, TEXTURES, reserved_words, sign_words
from tokenry.data.scenes.style import CELLS, OVERLAPPING, SMALL
from tokenry.tokens.errors import TokenryError

SPLITS = ("train", "val", "test")
EVENTS = ("move", "appear", "disappear", "turn", "still")


@pytest.fixture(scope="module")
def clips() -> dict[str, list[Clip]]:
    return {split: [make_clip(split, index) for index in range(100)] for split in SPLITS}


def name(index: int) -> str:
    return load_pack().objects[index].name


def centre(clip: Clip, number: int, frame: int) -> tuple[float, float]:
    """(x, y) of the pixels that a track owns in a frame: read from the picture's map, not from the plan."""
    rows, columns = np.nonzero(clip.owner[frame] == number + 1)
    return float(columns.mean()), float(rows.mean())


def place(x: float, y: float) -> str:
    return PLACES[int(y * CELLS / SMALL.side) * CELLS + int(x * CELLS / SMALL.side)]


def test_a_clip_is_a_function_of_its_arguments() -> None:
    first, again = make_clip("test", 7, 3), make_clip("test", 7, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.owner, again.owner)
    assert (first.tracks, first.sign, first.ask(20)) == (again.tracks, again.sign, again.ask(20))
    assert first.ask(20)[:3] == first.ask(3)
    assert first.pixels.shape == (FRAMES, SMALL.side, SMALL.side, 3)
    for other in (make_clip("test", 8, 3), make_clip("test", 7, 4), make_clip("val", 7, 3)):
        assert not np.array_equal(first.pixels, other.pixels)


def test_splits_share_no_combination_layout_background_or_word(clips: dict[str, list[Clip]]) -> None:
    def shown(clip: Clip) -> frozenset[int]:
        return frozenset(index for track in clip.tracks for index in track.indices if index >= 0)

    def seen(split: str) -> tuple[set[object], ...]:
        found = clips[split]
        return (
            {shown(clip) for clip in found},
            {
                (frozenset(track.cells[0] for track in clip.tracks), clip.sign and clip.sign.cells)
                for clip in found
            },
            {clip.texture for clip in found},
            {clip.sign.word for clip in found if clip.sign},
        )

    train, val, test = map(seen, SPLITS)
    for one, two, three in zip(train, val, test, strict=True):
        assert one
        assert not one & two
        assert not one & three
        assert not two & three
    assert {clip.texture for clip in clips["test"]} <= set(TEXTURES["test"])


def test_in_a_still_clip_all_frames_are_equal() -> None:
    for index in range(5):
        still = make_clip("test", index, event="still")
        assert (still.pixels == still.pixels[0]).all()
        assert all(track.rests for track in still.tracks)


@pytest.mark.parametrize("event", EVENTS)
def test_without_noise_only_what_happens_changes(event: str) -> None:
    for index in range(5):
        clip = make_clip("train", index, event=event, noise=False)
        acting = [number for number, track in enumerate(clip.tracks) if not track.rests]
        assert bool(acting) == (event != "still")
        touched = np.zeros(clip.owner.shape[1:], dtype=bool)
        for number in acting:
            for x0, y0, x1, y1 in clip.tracks[number].boxes:
                touched[y0:y1, x0:x1] = True
        changed = (clip.pixels != clip.pixels[0]).any((0, 3))
        assert not (changed & ~touched).any()
        assert changed.any() == bool(acting)


def test_noise_differs_by_frame_unless_it_is_told_not_to() -> None:
    differing = []
    for index in range(6):
        noisy, calm = (make_clip("train", index, event="move", noise=noise) for noise in (True, False))
        ground = np.ones(noisy.owner.shape[1:], dtype=bool)
        for x0, y0, x1, y1 in (box for track in noisy.movers for box in track.boxes):
            ground[y0:y1, x0:x1] = False  # letters and leaves have soft edges
        assert not (calm.pixels[0] != calm.pixels[1])[ground].any()
        differing.append((noisy.pixels[0] != noisy.pixels[1])[ground].mean())
    assert max(differing) > 0.5


def test_the_frames_confirm_every_answer_about_motion(clips: dict[str, list[Clip]]) -> None:
    asked: set[str] = set()
    for clip in clips["train"] + clips["test"]:
        there = [
            {number for number in range(len(clip.tracks)) if (clip.owner[frame] == number + 1).any()}
            for frame in range(FRAMES)
        ]
        both = there[0] & there[-1]
        steps = {n: np.subtract(centre(clip, n, FRAMES - 1), centre(clip, n, 0)) for n in both}
        same = {n for n in both if clip.tracks[n].indices[0] == clip.tracks[n].indices[-1]}
        moved = {n for n in same if np.abs(steps[n]).max() > SMALL.cell / 2}
        for question in clip.ask(20, CLIP_KINDS):
            asked.add(question.kind)
            found = read(clip, question.kind, question.text, there, steps, moved)
            assert question.answer in found, (clip.split, clip.index, question)
            assert len(question.regions) == FRAMES
            assert any(question.regions)
    assert asked == set(CLIP_KINDS)


def read(
    clip: Clip,
    kind: str,
    text: str,
    there: list[set[int]],
    steps: dict[int, np.ndarray],
    moved: set[int],
) -> set[str]:
    """The answers that a reader of the owner maps would give."""

    def called(frame: int, n: int) -> str:
        return name(clip.tracks[n].indices[frame])

    if kind == "direction":
        words = re.fullmatch(r"which direction is the (.+) moving\?", text)
        assert words
        headings = {(0, -1): "upwards", (0, 1): "downwards", (-1, 0): "leftwards", (1, 0): "rightwards"}
        return {
            headings[tuple(np.sign(np.where(np.abs(steps[n]) > SMALL.cell / 2, steps[n], 0)).astype(int))]
            for n in moved
            if called(0, n) == words[1]
        }
    if kind == "moving":
        assert len(moved) == 1
        return {called(0, n) for n in moved}
    if kind == "movers":
        return {str(len(moved))}
    if kind in ("start", "end"):
        frame = 0 if kind == "start" else FRAMES - 1
        words = re.fullmatch(r"what is at the (.+) at the (?:start|end)\?", text)
        assert words
        return {called(frame, n) for n in there[frame] if place(*centre(clip, n, frame)) == words[1]}
    if kind == "appears":
        return {called(-1, n) for n in there[-1] - there[0]}
    if kind == "disappears":
        return {called(0, n) for n in there[0] - there[-1]}
    words = re.fullmatch(r"what does the (.+) become\?", text)
    assert words
    return {called(-1, n) for n in there[0] & there[-1] if called(0, n) == words[1] != called(-1, n)}


def test_questions_about_what_rests_hold_in_every_frame(clips: dict[str, list[Clip]]) -> None:
    kinds: set[str] = set()
    for clip in clips["train"][:60]:
        for question in clip.ask(20, STILL_KINDS):
            kinds.add(question.kind)
            if question.kind == "where":
                wanted = question.text.removeprefix("where is the ").removesuffix("?")
                numbers = [n for n, track in enumerate(clip.tracks) if name(track.indices[0]) == wanted]
                assert len(numbers) == 1
                for frame in range(FRAMES):
                    assert place(*centre(clip, numbers[0], frame)) == question.answer
            assert question.regions == (question.regions[0],) * FRAMES
    assert kinds == set(STILL_KINDS)


def test_a_frame_is_a_scene_with_what_is_shown_in_it() -> None:
    clip = make_clip("train", 3, event="appear")
    (late,) = [track for track in clip.tracks if track.indices[0] < 0]
    first, last = clip.scene(0), clip.scene(FRAMES - 1)
    assert len(last.items) == len(first.items) + 1 == len(clip.tracks)
    assert late.indices[-1] not in first.counts
    for scene in (first, last):
        for number, item in enumerate(scene.items):
            rows, columns = np.nonzero(scene.owner == number + 1)
            x0, y0, x1, y1 = item.box
            assert x0 <= columns.min()
            assert columns.max() < x1
            assert y0 <= rows.min()
            assert rows.max() < y1


def test_a_track_without_steps_has_no_heading() -> None:
    rests = Track((4,) * FRAMES, ((1, 1),) * FRAMES, ((0, 0, 5, 5),) * FRAMES)
    assert rests.heading is None
    assert rests.rests
    assert set(HEADINGS.values()) == {(0, -1), (0, 1), (-1, 0), (1, 0)}


def test_new_words_begin_no_word_of_a_sign_and_words_of_scenes_are_not_said_again() -> None:
    new = clip_words() - reserved_words()
    for split in SPLITS:
        assert not [word for word in sign_words(split) if any(word[:n] in new for n in range(2, 5))]


def test_examples_of_clips_are_videos_with_regions_for_each_frame() -> None:
    examples = load_clips("test", 9, per_clip=3)
    assert len({example.id for example in examples}) == 9
    for example in examples:
        assert example.video
        assert len(example.pictures) == len(example.frame_regions) == FRAMES
    assert examples[0].pictures[0] is examples[2].pictures[0]
    with pytest.raises(TokenryError, match="`n` and `per_clip` must be at least 1"):
        load_clips("test", 3, per_clip=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "dev"}, "Unknown split 'dev'"),
        ({"index": -1}, "must not be negative"),
        ({"style": OVERLAPPING}, "objects reach into each other's cells"),
        ({"event": "explode"}, "Nothing can 'explode' in a clip; events are move, appear"),
    ],
)
def test_what_cannot_be_made_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TokenryError, match=words):
        make_clip(**({"split": "test", "index": 0} | changes))  # type: ignore[arg-type]
