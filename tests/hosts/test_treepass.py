"""Rows side by side behind a cached text: what each says, what of them stays, and who cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, StaticCache

from tokenry.hosts import treepass
from tokenry.tokens.errors import UnsupportedError

SIZES = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
TEXT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
ROWS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
PARENT = [-1, 0, 0, 1]  # 7 8 10 and 7 9
PATHS = [[0], [0, 1], [0, 2], [0, 1, 3]]


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, attn_implementation=request.param)
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture
def passed(model: Any) -> Any:
    """A cache with the text and a tree behind it, and the tree's logits."""
    sees = torch.zeros(2, 4, 5 + 4, dtype=torch.bool)
    sees[..., :5] = True
    for node, path in enumerate(PATHS):
        sees[:, node, [5 + i for i in path]] = True
    positions = torch.tensor([[4 + len(path) for path in PATHS]]).expand(2, -1)
    with torch.no_grad():
        cache = treepass.read_text(model, TEXT)
        return cache, treepass.tree_pass(model, cache, {"input_ids": ROWS}, sees, positions).logits


def alone(model: Any, row: int, path: list[int]) -> torch.Tensor:
    """Logits behind a text and a path, read as one text."""
    with torch.no_grad():
        return model(torch.cat([TEXT[row], ROWS[row, path]])[None]).logits[0, -1]


def test_every_row_says_what_its_path_says_alone(model: Any, passed: Any) -> None:
    for row in range(2):
        for node, path in enumerate(PATHS):
            torch.testing.assert_close(passed[1][row, node], alone(model, row, path))


@pytest.mark.parametrize("kept", [[[0, 1, 3], [0, 2, 2]], [[0, 1], [0, 1]], [[], []]])
def test_what_is_kept_lies_right_behind_the_text(model: Any, passed: Any, kept: list[list[int]]) -> None:
    cache, _ = passed
    treepass.keep_rows(cache, 4, np.array(kept, np.int64).reshape(2, -1))
    assert cache.get_seq_length() == 5 + len(kept[0])
    path = kept[0]
    with torch.no_grad():
        more = treepass.tree_pass(
            model, cache, {"input_ids": torch.tensor([[20], [20]])}, None, torch.full((2, 1), 5 + len(path))
        )
        expected = model(torch.cat([TEXT[0], ROWS[0, path], torch.tensor([20])])[None]).logits[0, -1]
    torch.testing.assert_close(more.logits[0, -1], expected)


def test_a_copy_holds_the_chosen_columns_and_leaves_the_cache(model: Any, passed: Any) -> None:
    cache, _ = passed
    columns = np.array([[0, 1, 2, 3, 4, 5, 7], [4, 3, 2, 1, 0, 8, 8], [0, 1, 2, 3, 4, 5, 7]])
    copy = treepass.copied_columns(model, cache, [1, 0, 1], columns)
    assert (copy.get_seq_length(), cache.get_seq_length()) == (7, 9)
    for new, old in zip(copy.layers, cache.layers, strict=True):
        for row, of in enumerate([1, 0, 1]):
            assert torch.equal(new.keys[row], old.keys[of][:, columns[row]])
            assert torch.equal(new.values[row], old.values[of][:, columns[row]])


def test_windows_are_taken_off_where_the_text_ends_before_them_and_refused_where_not() -> None:
    windowed = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()
    treepass.require_trees(windowed)
    treepass.require_full_attention(windowed, 8)
    cache = treepass.read_text(windowed, TEXT)
    assert len(treepass.plain_layers(cache)) == 2
    with pytest.raises(UnsupportedError, match=r"window of 8 tokens, .* this text may grow to 9"):
        treepass.require_full_attention(windowed, 9)


def test_a_cache_that_gives_no_token_back_is_refused_before_a_text_is_in_it(model: Any) -> None:
    with pytest.raises(UnsupportedError, match="a StaticCache with StaticLayer cannot give tokens back"):
        treepass.prepare(StaticCache(config=model.config, max_cache_len=8))


def test_a_model_whose_mask_means_something_else_is_refused_by_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    treepass.try_tree(odd)
    forward = type(odd).forward

    def flat_masks_only(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError("a mask of 2 axes is wanted")
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(type(odd), "forward", flat_masks_only)
    with pytest.raises(UnsupportedError, match="cannot read tokens side by side"):
        treepass.try_tree(odd)
