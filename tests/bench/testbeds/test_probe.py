"""What a probe reads of a model: attention rows and resemblance to names that are known, and a whole tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tests.bench.testbeds.conftest import LAYERS
from tokenry.bench.reproduce.vqa.question_sets import Round
from tokenry.bench.testbeds import Bed, BedLab, probe_bed
from tokenry.bench.testbeds.probing import NAMED, AttentionRecall, Naming, reading
from tokenry.data import Example
from tokenry.tokens import AttentionView, InputError, TokenView


class _Rows(AttentionView):
    """Attention of the last query that is given by hand."""

    def __init__(self, rows: Float[Tensor, "rows heads t"]) -> None:
        self._rows = rows

    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads t"]:
        return self._rows

    def mass(self, group: Bool[Tensor, "rows t"]) -> Float[Tensor, "rows heads t"]:
        raise NotImplementedError

    def propagate(
        self, p: Float[Tensor, "rows heads t"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads t"]:
        raise NotImplementedError


def asked(cover: list[list[float]], *answers: str) -> Round:
    examples = tuple(Example(str(i), answer=a, regions=((0, 0, 1, 1),)) for i, a in enumerate(answers))
    return Round(examples, {}, np.ones(len(cover)), np.array(cover, dtype=np.float64))


def test_recall_is_by_the_mean_over_heads_and_by_each_head() -> None:
    # 8 tokens, of which a quarter is looked for; patches 0 and 1 are asked for.
    heads = torch.tensor([[9, 8, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 9], [0, 0, 9, 9, 0, 0, 0, 0.0]])
    view = TokenView.of(torch.zeros(1, 8, 2), attention=_Rows(heads[None]), layer=3)
    found = AttentionRecall().told(asked([[1, 0.3, 0.2, 0, 0, 0, 0, 0]], "x")).read(view)
    assert list(found) == [reading(2)]
    # The mean's two are token 2 and 3 or 7: sums 9 9 11 11 2 2 2 10.
    assert found[reading(2)].tolist() == [[0, 1, 0.5, 0]]
    nothing = AttentionRecall().told(asked([[0] * 8], "x")).read(view)
    assert nothing[reading(2)].isnan().all()


def test_naming_counts_patches_of_things_by_their_nearest_name() -> None:
    vectors = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    names = (("dog", (0, 1)), ("cat", (2,)))
    features = torch.tensor([[[3.0, 1], [-5, 1], [0, 2], [1, 1]], [[-1, 0], [-1, 0], [-1, 0], [-1, 0]]])
    method = Naming(names=names, vectors=vectors)
    cover = [[0.6, 0.9, 1, 0.4], [0.4, 0, 0, 0]]
    found = method.told(asked(cover, "dog", "cat")).read(TokenView.of(features))[NAMED]
    assert found[0] == pytest.approx(2 / 3)  # the last patch shows mostly something else
    assert math.isnan(found[1])
    other = method.told(asked(cover, "yes", "dog")).read(TokenView.of(features))[NAMED]
    assert other.isnan().all()
    assert "vectors" not in method.to_json()
    with pytest.raises(InputError, match="told"):
        method.read(TokenView.of(features))


def test_a_tiny_model_is_probed_in_every_layer(bed_of: Callable[[str], Bed]) -> None:
    bed = bed_of("clip")
    names = tuple({e.answer for e in bed.examples if e.answer})
    found = probe_bed(BedLab(replace(bed, names=names, examples=[e for e in bed.examples if e.regions])))
    assert len(found.attention) == LAYERS
    assert all(0 <= mean <= 1 and 0 <= best <= 1 for mean, best in found.attention)
    assert found.things > 0
    assert 0 <= found.naming <= 1
    assert 0 < found.by_chance <= 1
    assert found.lacks == ()
    without = probe_bed(
        BedLab(replace(bed, names=(), examples=[replace(e, regions=()) for e in bed.examples]))
    )
    assert without.attention == ()
    assert len(without.lacks) == 2
    assert without.to_json()["naming"] is None
