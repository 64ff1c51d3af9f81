"""Laws of every connector: by itself, and in a model that runs with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosts.families import FAMILIES, IMAGE
from tests.laws.connectors.members import MEMBERS
from tests.laws.strategies import noise
from tokenry.models import Connector, VisualTokens
from tokenry.tokens import InputError, TokenView, UnsupportedError

pytestmark = pytest.mark.parametrize("name", MEMBERS)
GRIDS = torch.tensor([[1, 4, 4], [1, 2, 2], [2, 2, 4]])


def view_of(grids: Tensor, features: Tensor | None = None) -> TokenView:
    """Items that fill grids, with NaN behind them."""
    length = grids.prod(1)
    n = int(length.max()) + 2
    x = noise(len(grids), n, 8, seed=0) if features is None else features
    return TokenView.of(
        x.masked_fill((torch.arange(n) >= length[:, None])[..., None], torch.nan), length=length, grid=grids
    )


def real(made: VisualTokens, item: int) -> Tensor:
    return made.values[item, : int(made.length[item])]


def test_tokens_have_places_of_their_own_in_order(name: str) -> None:
    view = view_of(GRIDS)
    made = MEMBERS[name].build(8)(view)
    assert made.length.tolist() == [MEMBERS[name].count(n) for n in (16, 4, 16)]
    for item, n in enumerate(view.length.tolist()):
        places = made.anchor[item, : int(made.length[item])].tolist()
        assert places == sorted(set(places))
        assert all(0 <= place < n for place in places)
        assert bool(real(made, item).isfinite().all())


def test_a_mixture_is_what_its_matrix_makes(name: str) -> None:
    view = view_of(GRIDS)
    made = MEMBERS[name].build(8)(view)
    if made.source is None:
        assert list(MEMBERS[name].build(8).parameters()), "no matrix and no weights: who made the tokens?"
        return
    torch.testing.assert_close(made.source.apply(view.features), made.values)
    assert made.source.count.equal(made.length)
    assert made.source.anchor.equal(made.anchor)


def test_an_item_does_not_see_the_other_items(name: str) -> None:
    connector, whole = MEMBERS[name].build(8), view_of(GRIDS)
    together = connector(whole)
    for item, n in enumerate(whole.length.tolist()):
        alone = connector(TokenView.of(whole.features[item : item + 1, :n], grid=GRIDS[item : item + 1]))
        torch.testing.assert_close(real(alone, 0), real(together, item), rtol=1e-5, atol=1e-6)
        assert alone.anchor[0].equal(together.anchor[item, : int(together.length[item])])


def test_it_gives_the_number_that_it_is_asked_for_or_says_that_it_cannot(name: str) -> None:
    connector, view = MEMBERS[name].build(8), view_of(torch.tensor([[1, 4, 4]]))
    for number in MEMBERS[name].able:
        assert connector(view, torch.tensor([number])).length.tolist() == [number]
    for number in MEMBERS[name].unable:
        with pytest.raises(InputError, match=rf"16.*\b{number}\b"):
            connector(view, torch.tensor([number]))


def test_gradients_reach_its_tokens_and_weights(name: str) -> None:
    connector, x = MEMBERS[name].build(8), noise(1, 18, 8, seed=1).requires_grad_()
    made = connector(view_of(torch.tensor([[1, 4, 4]]), x))
    (real(made, 0).square().sum() + sum(made.losses.values())).backward()
    assert x.grad is not None
    assert bool(x.grad[0, :16].any())
    assert not bool(x.grad[0, 16:].any())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in connector.parameters())


# ------------------------------------------------------------------------------------------------- in a model


def host(shape: str) -> tuple[Any, dict[str, Any]]:
    """A LLaVA whose pictures are 6 x 6 tokens."""
    model: Any = FAMILIES["llava"].build()
    return model, FAMILIES["llava"].batch(model, shape)


def spliced(model: Any, inputs: dict[str, Any], connector: Connector) -> Tensor:
    """Logits of the last token of a prompt that is put together by hand around what the connector makes."""
    base = model.model
    features = base.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
    made = connector(TokenView.of(features[None], grid=torch.tensor([[1, 6, 6]])))
    ids = inputs["input_ids"][0]
    words = base.get_input_embeddings()(ids)
    visual = (ids == IMAGE).nonzero()[:, 0]
    embeds = torch.cat([words[: visual[0]], made.values[0], words[visual[-1] + 1 :]])[None]
    return model.lm_head(base.language_model(inputs_embeds=embeds).last_hidden_state[:, -1])


def test_a_model_with_it_is_one_whose_prompt_has_its_tokens(name: str) -> None:
    model, inputs = host("one")
    connector = MEMBERS[name].build(32)
    with torch.no_grad():
        before = model(**inputs).logits
        expected = spliced(model, inputs, connector)
        with connector.attach(model) as run:
            logits = model(**inputs).logits
            assert run.trace[0].n == 36
            left = len(inputs["input_ids"][0]) - 36 + MEMBERS[name].count(36)
            assert int(run.lengths[0, 0]) == left
        torch.testing.assert_close(logits[:, -1], expected, rtol=1e-4, atol=1e-5)
        assert model(**inputs).logits.equal(before), "the model is not what it was"


def test_a_model_with_it_generates_and_keeps_to_a_budget(name: str) -> None:
    model, inputs = host("ragged")
    connector, number = MEMBERS[name].build(32), MEMBERS[name].budget
    width = inputs["input_ids"].shape[1]
    with connector.attach(model, budget=number) as run:
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert written.shape == (2, width + 3)
        full = inputs["attention_mask"].sum(1)
        assert run.lengths[:, 0].tolist() == (full - 36 + number).tolist()


def test_a_training_step_reaches_its_weights(name: str) -> None:
    model, inputs = host("one")
    connector = MEMBERS[name].build(32)
    connector.train()
    with connector.attach(model):
        model(
            **inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
        ).loss.backward()
    weights = list(connector.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in weights)
    assert bool(model.model.vision_tower.get_parameter("embeddings.patch_embedding.weight").grad.any())


def test_a_model_without_pictures_is_refused(name: str) -> None:
    text = FAMILIES["llava"].build().model.language_model
    with pytest.raises(UnsupportedError, match="no visual tokens"):
        MEMBERS[name].build(32).attach(text)


def test_features_for_deeper_layers_are_mixed_too_or_refused(name: str) -> None:
    model: Any = FAMILIES["qwen3-vl"].build()
    inputs = FAMILIES["qwen3-vl"].batch(model, "one")
    connector = MEMBERS[name].build(32)
    with torch.no_grad(), connector.attach(model, budget=1.0):
        if next(connector.parameters(), None) is None:
            assert model(**inputs).logits.isfinite().all()
        else:
            with pytest.raises(UnsupportedError, match="features of its encoder to them in several layers"):
                model(**inputs)
