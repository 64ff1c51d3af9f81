"""Where visual tokens lie on their picture: one grid, a thumbnail with crops, and layouts that do not tell."""

from __future__ import annotations

import numpy as np
import torch

from tokenry.bench.reproduce.vqa.places import token_cover
from tokenry.hosts import Pictures


def pictures(n: int, grid: tuple[int, int, int], **parts: object) -> Pictures:
    nothing: dict[str, object] = {"tile": None, "cell": None, "first": []}
    return Pictures(
        lengths=[n], grid=torch.tensor([grid]), key=torch.zeros(1, dtype=torch.long), **nothing | parts
    )


def test_tokens_of_one_grid_lie_in_raster_order_on_the_whole_picture() -> None:
    cover = token_cover(pictures(6, (1, 2, 3)), 0, [(20, 10, 30, 20)], (20, 30))
    assert cover is not None
    assert cover.tolist() == [0, 0, 0, 0, 0, 1]


def test_a_thumbnail_and_crops_each_show_the_region_and_newlines_do_not() -> None:
    # LLaVA-NeXT: the thumbnail's 2 x 2 tokens; two crops beside each other, packed line by line with newlines.
    tile = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, -1, 1, 1, 2, 2, -1])
    cell = torch.tensor([0, 1, 2, 3, 0, 1, 0, 1, -1, 2, 3, 2, 3, -1])
    known = pictures(14, (1, 1, 14), tile=[tile], cell=[cell], side=2, tiles=[(1, 2)])
    region = [(30, 0, 40, 10)]  # the upper right corner of a picture of 40 x 20 pixels
    cover = token_cover(known, 0, region, (20, 40))
    assert cover is not None
    np.testing.assert_allclose(cover, [0, 0.5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    # A square picture lies in the middle of the two crops, padded left and right.
    cover = token_cover(known, 0, [(0, 0, 10, 10)], (20, 20))
    assert cover is not None
    np.testing.assert_allclose(cover, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])


def test_where_the_layout_is_not_known_no_place_is_made_up() -> None:
    assert token_cover(pictures(7, (1, 1, 7)), 0, [(0, 0, 5, 5)], (20, 20)) is None
    tiled = pictures(3, (1, 1, 3), tile=[torch.tensor([0, 1, 1])], cell=[torch.zeros(3).long()], side=1)
    assert token_cover(tiled, 0, [(0, 0, 5, 5)], (20, 20)) is None
