"""What every restriction of attention obeys on a host: hidden is as good as gone, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tokenry as tk
from tests.hosts.families import FAMILIES
from tests.laws.restrictions.members import MEMBERS, Everything, TextOnly
from tokenry.hosts.host import Host
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.tokens import (
    BudgetLike,
    Columns,
    Depth,
    Reduction,
    ReductionError,
    Restriction,
    Stage,
    TokenryError,
    TokenView,
)

HOSTS = ("llava", "qwen2-vl", "smolvlm", "gemma3")
STEPS = 4


@dataclass(frozen=True, kw_only=True)
class DropAll(Reducer):
    """Lets all visual tokens go before a layer."""

    slug: ClassVar[str] = "drop-all"
    stage: ClassVar[Stage] = Stage.LAYER

    budget: BudgetLike = 1.0
    layer: int = 1

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        return (self.layer,)

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        return Reduction.from_mask(torch.zeros_like(view.valid), view.length)


def run(model: Any, inputs: Any, methods: Any, restrictions: Any) -> tuple[Tensor, Tensor]:
    """Logits of the prompt, and of each step of `generate`."""
    with torch.no_grad(), tk.reduced(model, methods, restrictions=restrictions):
        prompt = model(**inputs).logits
        steps = model.generate(
            **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    return prompt, torch.stack(steps.logits, 1)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", HOSTS)
def test_hidden_from_the_text_is_as_good_as_gone(name: str, attn: str) -> None:
    """In ragged, padded batches, over prefill and decoding: text says what it says where the tokens left."""
    family = FAMILIES[name]
    model: Any = family.build(attn)
    inputs = family.batch(model, "ragged")
    dropped, dropped_steps = run(model, inputs, DropAll(layer=2), [])
    hidden, hidden_steps = run(model, inputs, [], [TextOnly(2)])
    text = inputs["attention_mask"].bool()
    for token in Host.of(model).token_ids.values():
        text &= inputs["input_ids"] != token
    assert torch.allclose(hidden[text], dropped[text], atol=2e-5)
    assert torch.allclose(hidden_steps, dropped_steps, atol=2e-5)
    whole, _ = run(model, inputs, [], [Everything()])
    assert not torch.allclose(hidden[text], whole[text], atol=1e-3), "the restriction did nothing"


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", HOSTS)
def test_hiding_nothing_changes_nothing(name: str, attn: str) -> None:
    family = FAMILIES[name]
    model: Any = family.build(attn)
    inputs = family.batch(model, "ragged")
    found, steps = run(model, inputs, [], [Everything()])
    with torch.no_grad():
        plain = model(**inputs).logits
        expected = model.generate(
            **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    real = inputs["attention_mask"].bool()
    assert torch.allclose(found[real], plain[real], atol=1e-5)
    assert torch.allclose(steps, torch.stack(expected.logits, 1), atol=1e-5)


def test_a_method_and_a_restriction_together() -> None:
    """The tokens that the method leaves are hidden; the order in which both act does not matter."""
    family = FAMILIES["llava"]
    model: Any = family.build()
    inputs = family.batch(model, "ragged")
    both = run(model, inputs, FastV(budget=0.3, layer=1), [TextOnly(2)])
    gone = run(model, inputs, [FastV(budget=0.3, layer=1), DropAll(layer=2)], [])
    assert torch.allclose(both[1], gone[1], atol=2e-5)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_what_a_row_sees_depends_on_itself_only(member: Restriction) -> None:
    depth = Depth(encoder=2, decoder=4)
    kind, place = torch.randint(-1, 3, (3, 7)), torch.arange(7).expand(3, 7)
    for layer in member.layers(depth):
        together = member.visible(layer, Columns(kind, place), Columns(kind, place))
        assert together.dtype == torch.bool
        for row in range(3):
            one = Columns(kind[row : row + 1], place[row : row + 1])
            assert together[row : row + 1].equal(member.visible(layer, one, one))


@dataclass(frozen=True)
class Blind:
    """Hides everything, a token from itself too."""

    slug: str = "blind"

    def layers(self, depth: Depth) -> tuple[int, ...]:
        return (1,)

    def visible(self, layer: int, queries: Columns, keys: Columns) -> Tensor:
        return torch.zeros(*queries.kind.shape, keys.kind.shape[1], dtype=torch.bool)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_token_that_would_see_nothing_is_refused(attn: str) -> None:
    model: Any = FAMILIES["llava"].build(attn)
    inputs = FAMILIES["llava"].batch(model, "ragged")
    with pytest.raises(ReductionError, match="blind hides every key from a token in layer 1"):
        run(model, inputs, [], [Blind()])


def test_layers_that_are_not_there_are_refused() -> None:
    model: Any = FAMILIES["llava"].build()
    with pytest.raises(TokenryError, match=r"text-only wants to restrict layers \(\) of a decoder with"):
        tk.reduced(model, [], restrictions=[TextOnly(99)])
