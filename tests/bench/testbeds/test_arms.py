"""Ways of asking a test bed, on tiny models of every layout: they show, keep and drop what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from tests.bench.testbeds.conftest import HOSTS, LAYERS
from tokenry.bench.reproduce.vqa.question_sets import QuestionSet
from tokenry.bench.testbeds import Bed, BedArm, BedLab, judge_bed, measure_bed
from tokenry.bench.testbeds.controls import Nothing, Oracle
from tokenry.bench.testbeds.lines import FULL, GONE_LATE, GREY, LINES, NO_TOKENS, ORACLE
from tokenry.bench.testbeds.showing import BlownUp, Grey, SmallerPicture, fitting_grid
from tokenry.bench.testbeds.smaller import BLOWN_UP, SMALLER, smaller_pictures, why_not_smaller
from tokenry.data import Example, load_scenes
from tokenry.reduce import reduced
from tokenry.tokens import ColumnKind, Columns, Depth, InputError

BedOf = Callable[[str], Bed]
TOKENS = {"clip": 144, "dinov2": 144, "siglip": 144, "tiles": 144 + 24 * 24 + 24, "any size": 64}
FEWER = {"clip": 36, "dinov2": 36, "siglip": 36, "tiles": 144, "any size": 16}


@pytest.mark.parametrize("name", HOSTS)
def test_arms_keep_what_they_say_on_every_layout(name: str, bed_of: BedOf) -> None:
    bed, n = bed_of(name), TOKENS[name]
    small, blown_up = smaller_pictures(bed, 0.25)
    found = BedLab(bed).ask([FULL, GREY, NO_TOKENS, ORACLE, GONE_LATE, small, blown_up])
    tokens = {arm: set(answered.counts[:, 0]) for arm, answered in found.items()}
    assert tokens[FULL.name] == tokens[GREY.name] == tokens[blown_up.name] == tokens[GONE_LATE.name] == {n}
    assert tokens[small.name] == {FEWER[name]}
    assert tokens[ORACLE.name] == {round(n / 4)}
    assert not found[NO_TOKENS.name].counts.any()
    assert found[GONE_LATE.name].counts[0].tolist() == [n] * (LAYERS - 1) + [0]
    assert (found[ORACLE.name].asked == 1).all()
    assert len({answered.kinds for answered in found.values()}) == 1


def test_nothing_left_is_the_same_as_hiding_it_all(bed_of: BedOf) -> None:
    bed = bed_of("clip")
    asked = QuestionSet.of(bed.model, bed.processor, bed.batches[0])
    inputs = asked.encoded.inputs | asked.rounds[0].inputs
    late = Nothing(after=0.5)
    with torch.inference_mode():
        with reduced(bed.model, late, encoded=asked.encoded):
            cut = bed.model(**inputs, logits_to_keep=1).logits
        with reduced(bed.model, [], restrictions=[_Blindfold(2)], encoded=asked.encoded):
            hidden = bed.model(**inputs, logits_to_keep=1).logits
        full = bed.model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(cut, hidden)
    assert not torch.allclose(cut, full)


class _Blindfold:
    """No text sees a visual token from a layer on."""

    slug = "blindfold"

    def __init__(self, first: int) -> None:
        self._first = first

    def layers(self, depth: Depth) -> tuple[int, ...]:
        return tuple(range(self._first, depth.decoder))

    def visible(self, layer: int, queries: Columns, keys: Columns) -> Bool[Tensor, "rows q k"]:
        visual = ColumnKind.VISUAL
        return (keys.kind != visual)[:, None, :] | (queries.kind == visual)[:, :, None]


def test_what_is_shown(bed_of: BedOf) -> None:
    picture = bed_of("clip").examples[0].image
    assert len(Grey().image(picture).getcolors() or ()) == 1
    blown_up = BlownUp(0.25).image(picture)
    assert blown_up.size == picture.size
    again = BlownUp(0.25).image(blown_up)  # there is nothing left to lose but a little
    lost, more = (
        np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
        for a, b in ((picture, blown_up), (blown_up, again))
    )
    assert more < lost / 3
    wide = Image.new("RGB", (1344, 1008))
    assert SmallerPicture(0.25, 28, 16384).image(wide).size == (24 * 28, 18 * 28)
    assert SmallerPicture(0.25, 28, 64).image(wide).size == (4 * 28, 3 * 28)  # the processor leaves 64


@pytest.mark.parametrize(
    ("picture", "cells", "grid"),
    [
        ((1344, 1008), 432, (24, 18)),
        ((1344, 1008), 192, (16, 12)),
        ((1344, 1008), 64, (9, 7)),
        ((600, 2400), 64, (4, 16)),
        ((1000, 10), 3, (3, 1)),
    ],
)
def test_the_grid_of_a_smaller_picture(picture: tuple[int, int], cells: int, grid: tuple[int, int]) -> None:
    assert fitting_grid(*picture, cells) == grid


def test_no_grid_has_no_cells() -> None:
    with pytest.raises(InputError, match="at least one visual token"):
        fitting_grid(10, 10, 0)


def test_position_embeddings_are_interpolated_while_small_pictures_are_encoded_only(bed_of: BedOf) -> None:
    bed = bed_of("clip")
    BedLab(bed).ask(smaller_pictures(bed, 0.25)[:1])
    small = torch.zeros(1, 3, 48, 48)
    with pytest.raises(ValueError, match="size"):
        bed.host.towers["image"](small)
    assert bed.processor.image_processor.crop_size["height"] == 96


def test_an_encoder_that_cannot_be_shown_less_is_said_to(
    bed_of: BedOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = bed_of("siglip")
    assert why_not_smaller(bed) is None
    monkeypatch.setattr("tokenry.hosts.position_tables.interpolates", lambda module: False)
    assert "pictures of one size" in str(why_not_smaller(bed))
    assert [arm.name for arm in smaller_pictures(bed, 0.25)] == [f"{BLOWN_UP} (25%)"]
    monkeypatch.undo()
    assert [arm.name.partition(" (")[0] for arm in smaller_pictures(bed, 0.25)] == [SMALLER, BLOWN_UP]


def test_what_was_answered_is_not_asked_again(
    bed_of: BedOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = bed_of("clip")
    first = BedLab(bed, tmp_path).ask([FULL, ORACLE])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bed.model, "generate", refuse)
    again = BedLab(bed, tmp_path).ask([FULL, ORACLE])
    assert again[ORACLE.name].answers == first[ORACLE.name].answers
    for other in (BedArm("other", ((Oracle(budget=0.5),),)), BedArm("other", showing=BlownUp(0.5))):
        with pytest.raises(KeyboardInterrupt):
            BedLab(bed, tmp_path).ask([other])


def test_pictures_with_fewer_questions_are_asked_in_batches_of_their_own(bed_of: BedOf) -> None:
    bed = replace(bed_of("clip"), examples=load_scenes("test", 3, 0, 2))
    assert [[len(group) for group in batch] for batch in bed.batches] == [[2], [1]]
    assert len(BedLab(bed).ask([FULL])[FULL.name].correct) == 3


def test_questions_about_several_pictures_are_refused(bed_of: BedOf) -> None:
    bed = bed_of("clip")
    two = Example("two", pictures=bed.examples[0].pictures + bed.examples[2].pictures, question="?")
    with pytest.raises(InputError, match="several pictures"):
        BedLab(replace(bed, examples=[two])).ask([FULL])
    with pytest.raises(InputError, match="no questions"):
        replace(bed, examples=[])


def test_a_whole_report_names_what_is_lacking(bed_of: BedOf) -> None:
    bed = bed_of("any size")
    report = measure_bed(BedLab(bed), budgets=[0.25]).to_json()
    verdicts = {line["line"]: line for line in report["lines"]}
    assert list(verdicts) == [line.name for line in LINES]
    assert verdicts["reversed [CLS]"] == {
        "line": "reversed [CLS]",
        "asks": LINES[2].asks,
        "bound": "at most -10",
        "verdict": "not applicable",
        "lacks": "The encoder has no [CLS] whose attention could be read.",
    }
    assert all(
        line["verdict"] in ("passed", "missed") for name, line in verdicts.items() if "CLS" not in name
    )
    rows = {(row["method"], row["budget"]) for row in report["methods"]}
    assert {("none", "100%"), ("random", "25%"), ("pool", "25%"), (SMALLER, "25%"), (BLOWN_UP, "25%")} <= rows
    assert "with a [CLS] token" in report["left out"]["fastervlm"]
    assert not {method for method, _ in rows} & set(report["left out"])
    (probe,) = report["probes"]
    assert [row["layer"] for row in probe["attention by layer"]] == list(range(LAYERS))
    # The same verdicts without methods and probes, of the lines that were asked for.
    (blind,) = judge_bed(BedLab(bed), LINES[:1])
    assert blind.to_json() == {k: v for k, v in verdicts["blind"].items() if k != "methods"}
