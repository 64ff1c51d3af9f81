"""Which scenes belong to which model is said on its card."""

from __future__ import annotations

import pytest

from tokenry.bench.reducers.data import scenes_of
from tokenry.bench.testbeds import open_bed
from tokenry.catalog import cards
from tokenry.data import SMALL, TILED
from tokenry.data.scenes.style import STYLES
from tokenry.tokens import InputError, UnknownNameError

WITH_SCENES = [card.slug for card in cards() if card.scenes is not None]


@pytest.mark.parametrize("name", WITH_SCENES)
def test_a_card_names_scenes_that_there_are(name: str) -> None:
    assert scenes_of(name) in STYLES


def test_a_bed_is_a_model_with_its_scenes() -> None:
    bed = open_bed("embedded", n=6, seed=3)
    assert scenes_of("embedded") is SMALL
    assert {e.image.size for e in bed.examples} == {(96, 96)}
    assert len(bed.examples) == 6
    assert "small scenes of 96 pixels, seed 3" in bed.scenes
    assert open_bed("embedded", n=1, style=TILED).examples[0].image.size == (192, 192)


def test_a_card_without_scenes_and_no_card_are_told() -> None:
    with pytest.raises(InputError, match="does not say which scenes"):
        open_bed("fastervlm")
    assert scenes_of("fastervlm") is scenes_of("no/such/folder") is None
    with pytest.raises(UnknownNameError):
        open_bed("embeded")
