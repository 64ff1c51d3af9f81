"""Cuts and needs: where a method acts, and what it reads."""

from __future__ import annotations

import pytest

from tokenry.tokens import Cut, InputError, Needs, ReadAttention, Stage, Tower


def test_a_number_is_a_layer_of_the_decoder() -> None:
    assert Cut.of(7) == Cut(Tower.DECODER, 7)
    assert Cut.of(Cut(Tower.ENCODER, 3)) == Cut(Tower.ENCODER, 3)
    assert [Cut.of(0).stage, Cut.of(1).stage, Cut(Tower.ENCODER, 0).stage] == [
        Stage.INPUT,
        Stage.LAYER,
        Stage.ENCODER,
    ]


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True, Cut(Tower.ENCODER, -2)])
def test_what_is_no_cut_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="A cut is a decoder layer"):
        Cut.of(wrong)  # type: ignore[arg-type]


def test_what_several_cuts_read_of_the_encoder() -> None:
    needs = [Needs(cls_layers=(3,), text=True), Needs(key_layers=(1, 3)), Needs(cls_logit_layers=(2,))]
    together = Needs.of_encoder(needs)
    assert together == Needs(cls_layers=(3,), cls_logit_layers=(2,), key_layers=(1, 3))
    assert together.encoder_layers == (1, 2, 3)
    assert together.cls
    assert not Needs(key_layers=(1,)).cls


def test_attention_is_that_of_one_of_two_layers() -> None:
    assert Needs(attention="next") == Needs(attention=ReadAttention.NEXT)
    with pytest.raises(InputError, match=r"'previous', 'next' to a cut, got 'last'"):
        Needs(attention="last")
