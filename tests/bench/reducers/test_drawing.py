"""Overlays and charts: the right patches, the right places, valid files."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.bench.reducers import synthetic
from tokenry.bench.charts.canvas import MARKERS, Canvas
from tokenry.bench.reducers import plots
from tokenry.bench.reducers.columns import flops, milliseconds, number, signed, size
from tokenry.bench.reducers.overlay import (
    contact_sheet,
    decode_picture,
    draw_overlay,
    encode_picture,
    has_grid,
    svg_overlay,
)
from tokenry.bench.reducers.results import TokenTrace, read_results
from tokenry.bench.reducers.summary import Row, summarise
from tokenry.tokens import InputError

WHITE = Image.new("RGB", (40, 40), "white")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, ...]:
    file = tmp_path_factory.mktemp("rows") / "results.jsonl"
    return summarise(read_results(synthetic.write(file, synthetic.lines())))


def test_a_patch_is_as_clear_as_it_lived_long() -> None:
    """2 x 2 patches that lived 4, 2, 1 and 0 of 4 layers."""
    drawn = (
        np.asarray(draw_overlay(WHITE, TokenTrace((1, 2, 2), 4, (4, 2, 1, 0)), width=40)).astype(int).sum(2)
    )
    quarters = [drawn[y : y + 20, x : x + 20] for y in (0, 20) for x in (0, 20)]
    assert all(q.min() == q.max() for q in quarters)  # each patch is covered exactly, with no seam
    shades = [float(q.mean()) for q in quarters]
    assert shades[0] == 3 * 255
    assert shades == sorted(shades, reverse=True)
    assert len(set(shades)) == 4


def test_merged_patches_are_outlined_and_single_ones_are_not() -> None:
    black = Image.new("RGB", (40, 40))
    merged = np.asarray(
        draw_overlay(black, TokenTrace((1, 2, 2), 1, (1, 1, 1, 1), (0, 0, 1, 2)), width=40)
    ).astype(int)
    assert merged[10, 10].sum() > 0  # tinted
    assert merged[30, 10].sum() == merged[30, 30].sum() == 0  # groups of one
    assert (merged[20, 5] == 255).all()  # the border below the merged pair
    svg = svg_overlay(TokenTrace((1, 2, 2), 1, (1, 1, 1, 1), (0, 0, 1, 2)), "p", "label")
    assert "M0 1L1 1" in svg
    assert "M1 1L1 2" not in svg  # between two groups of one


def test_svg_and_png_veil_the_same_patches() -> None:
    life = (4, 0, 0, 4, 4, 0, 0, 0, 4)
    svg = ElementTree.fromstring(svg_overlay(TokenTrace((1, 3, 3), 4, life), "p", "a <label>"))
    veiled = np.zeros((3, 3), bool)
    for x, y, length in re.findall(r"M(\d) (\d)h(\d)", svg[1].get("d", "")):
        veiled[int(y), int(x) : int(x) + int(length)] = True
    assert (veiled.flatten() == (np.array(life) == 0)).all()
    assert svg.get("aria-label") == "a <label>"


@pytest.mark.parametrize("grid", [(1, 1, 4), (2, 2, 1), (1, 3, 3)])
def test_tokens_without_a_grid_are_not_drawn(grid: tuple[int, int, int]) -> None:
    trace = TokenTrace(grid, 2, (2, 2, 0, 0))
    assert not has_grid(trace)
    with pytest.raises(InputError, match="cannot be laid over"):
        draw_overlay(WHITE, trace)


def test_a_trace_whose_parts_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match="disagree"):
        TokenTrace((1, 2, 2), 4, (1, 1, 1, 1), (0, 0))


def test_pictures_survive_storing() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    assert (np.asarray(decode_picture(encode_picture(noise))) == np.asarray(noise)).all()
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8))
    stored = encode_picture(large)
    assert decode_picture(stored).size == (448, 336)
    assert Image.open(io.BytesIO(base64.b64decode(stored))).format == "JPEG"


@pytest.mark.parametrize("data", ["", "%%%", "aGVsbG8="])
def test_a_damaged_stored_picture_is_told(data: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        decode_picture(data)


def test_a_contact_sheet_has_a_place_for_every_overlay() -> None:
    trace = TokenTrace((1, 2, 2), 4, (4, 4, 0, 0))
    sheet = contact_sheet(
        WHITE, [[("a, 50%", trace), ("a, 25%", None)], [("b, 50%", trace)]], "what?", width=50
    )
    assert sheet.width > 2 * 50
    assert sheet.height > 2 * 50


@pytest.mark.parametrize("cost", ["tokens_mean", "prefill_flops", "prefill_ms"])
@pytest.mark.parametrize("width", [350, 1100])
def test_nothing_of_a_chart_is_outside_of_it(rows: tuple[Row, ...], cost: str, width: int) -> None:
    chart = plots.tradeoff(rows, cost, width=width, height=400)
    assert chart is not None
    for shape in chart.shapes:
        reach = len(shape.text) * shape.size * 0.6
        left = {"start": 0.0, "middle": reach / 2, "end": reach}[shape.anchor] if shape.text else 0
        for x, y in shape.points:
            assert x - left >= -1
            assert x - left + reach <= width + 1
            assert -1 <= y <= 401


def test_better_is_higher_and_cheaper_is_further_left(rows: tuple[Row, ...]) -> None:
    chart = plots.tradeoff(rows, "tokens_mean")
    assert chart is not None
    at = {s.title.split(":")[0]: np.mean(s.points, axis=0) for s in chart.shapes if s.title}
    assert at["fine at 25%"][1] < at["poor at 25%"][1]
    assert at["fine at 25%"][0] < at["fine at 50%"][0] < at["none"][0]


def test_points_stand_at_their_cost_unless_they_would_hide_another(rows: tuple[Row, ...]) -> None:
    """Four methods of the same two costs: their middle is the cost, and none stands where another cost belongs."""
    chart = plots.tradeoff(rows, "tokens_mean")
    assert chart is not None
    at = {s.title.split(":")[0]: float(np.mean(s.points, axis=0)[0]) for s in chart.shapes if s.title}
    tokens = {"25%": 4.0, "50%": 8.0, "": 16.0}
    zero = 44.0
    scale = (at["none"] - zero) / 16
    for budget in ("25%", "50%"):
        places = [x for name, x in at.items() if name.endswith(budget) and name != "none"]
        assert np.mean(places) == pytest.approx(zero + scale * tokens[budget], abs=0.5)
        assert all(abs(x - zero - scale * tokens[budget]) < scale for x in places), (
            "not half way to another cost"
        )


def test_every_method_has_a_form_of_its_own(rows: tuple[Row, ...]) -> None:
    """Colour is never the only difference."""
    found = plots.styles(rows)
    named = [found[m] for m in ("random", "pool", "fine", "poor")]
    assert len({s.marker % len(MARKERS) for s in named}) == len(named)


def test_charts_are_valid_svg_and_png(rows: tuple[Row, ...]) -> None:
    chart = plots.tradeoff(rows, "tokens_mean")
    assert chart is not None
    root = ElementTree.fromstring(chart.svg("score & cost"))
    assert root.get("role") == "img"
    image = plots.with_legend(chart, rows).png(1)
    assert image.width == 1100
    assert len(image.getcolors(1 << 24) or []) > 50
    layers = plots.layers(rows[1], "#123456")
    assert layers is not None
    ElementTree.fromstring(layers.svg("tokens"))


def test_nothing_to_draw_gives_no_chart() -> None:
    assert plots.tradeoff([Row("none", "")], "tokens_mean") is None
    assert plots.layers(Row("none", ""), "ink") is None


def test_dashes_in_png_cover_their_share_of_the_line() -> None:
    canvas = Canvas(200, 10)
    canvas.line([(0, 5), (200, 5)], "#000000", width=4, dash=(10, 10))
    row = np.asarray(canvas.png(1).convert("L"))[5]
    assert 0.4 < float((row < 128).mean()) < 0.6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (flops(549e6), "549 MFLOP"),
        (flops(1.11e9), "1.11 GFLOP"),
        (size(0), "0 B"),
        (size(323 * 1024), "323 KiB"),
        (milliseconds(0.456), "0.46"),
        (milliseconds(1043.2), "1,043"),
        (number(72.0), "72"),
        (number(10.375), "10.4"),
        (signed(-0.0312), "−3.1"),
        (signed(0.0), "+0.0"),
    ],
)
def test_figures_are_written_for_readers(text: str, expected: str) -> None:
    assert text == expected
