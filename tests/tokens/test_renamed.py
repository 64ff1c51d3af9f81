"""Keywords of the last release: taken for one more, with a warning that names what to write."""

from __future__ import annotations

import inspect

import pytest
import torch
from PIL import Image

import tokenry as tk
from tokenry.tokens.renamed import renamed


@renamed(how="method", picture="image")
def draw(model: str, method: str = "fast", *, image: int = 0) -> tuple[str, str, int]:
    """What it does."""
    return model, method, image


def test_old_keywords_mean_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning, match=r"draw\(how=\.\.\.\) is now draw\(method=") as told:
        assert draw("m", how="slow") == ("m", "slow", 0)
    with pytest.warns(DeprecationWarning, match="draw") as told:
        assert draw("m", how="slow", picture=3) == ("m", "slow", 3)
    assert len(told) == 2


@pytest.mark.filterwarnings("error")
def test_new_keywords_are_silent_and_the_signature_is_todays() -> None:
    assert draw("m", "slow", image=3) == ("m", "slow", 3)
    assert list(inspect.signature(draw).parameters) == ["model", "method", "image"]
    assert draw.__doc__ == "What it does."


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(tk.InputError, match="both method and how"):
        draw("m", how="slow", method="fast")


def test_the_names_that_users_know_are_taken() -> None:
    linear, image = torch.nn.Linear(1, 1), Image.new("RGB", (2, 2))
    with pytest.warns(DeprecationWarning, match="method"), pytest.raises(tk.TokenryError):
        tk.decoder(linear, how="prompt-lookup")
    with pytest.warns(DeprecationWarning, match="method"), pytest.raises(tk.TokenryError):
        tk.generate(linear, [1, 2], decoder="prompt-lookup")
    with pytest.warns(DeprecationWarning, match="image"), pytest.raises(tk.TokenryError):
        tk.bench.ask(linear, None, picture=image, question="what?", method="no such method")
