"""Token Recycling: the template, the matrix, and that the text stays the same."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.predict.lm.acceptance import Greedy
from tokenry.predict.lm.proposer import Guesser, Verified
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.predict.lm.token_recycling.proposer import template
from tokenry.tokens.errors import InputError

V = 24


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).double().eval()


IDS = torch.tensor([[3, 14, 15, 9, 2, 6]])
PLAIN = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 60, "do_sample": False}


def test_the_template() -> None:
    tree = template()
    assert [len(level) for level in tree.levels] == [8, 21, 25, 15, 8, 3]
    assert tree.n == 81
    assert len(tree.leaves) == 40
    paths = {tuple(int(tree.rank[node]) for node in tree.path(i)[1:]) for i in range(tree.n)}
    assert all(path[:-1] in paths for path in paths if path)
    assert (np.diff(tree.depth) >= 0).all()  # levels follow each other


@pytest.mark.parametrize("matrix", ["cold", "hot", "hostile"])
@pytest.mark.parametrize("size", [8, 80])
def test_the_text_is_that_of_greedy_decoding(model: LlamaForCausalLM, matrix: str, size: int) -> None:
    expected = model.generate(IDS, **PLAIN)
    proposer = TokenRecycling(V)
    how = Speculation(proposer, Fixed(size))
    if matrix == "hot":
        model.generate(IDS, **PLAIN, custom_generate=how)
    if matrix == "hostile":
        proposer.successors[:] = np.random.default_rng(0).integers(0, V, proposer.successors.shape)
    assert torch.equal(model.generate(IDS, **PLAIN, custom_generate=how), expected)
    if matrix == "hot":
        assert how.stats.acceptance_length > 1.5


def test_a_row_holds_what_the_last_node_with_its_token_said(model: LlamaForCausalLM) -> None:
    proposer = TokenRecycling(V, update_from_prompt=False)
    proposer.successors[:] = np.random.default_rng(0).integers(0, V, proposer.successors.shape)
    before = proposer.successors.copy()
    proposer.begin([[5]])
    draft = proposer.propose(0, [5], 80)
    logits = torch.randn(draft.tree.n, V, generator=torch.Generator().manual_seed(0))
    accepted = Greedy().walk(draft, lambda path: logits[path[-1]])
    proposer.learn(0, Verified(draft, logits, accepted))
    best = logits.topk(8).indices.numpy()
    for token in range(V):
        nodes = np.flatnonzero(draft.tokens == token)
        on_path = [node for node in accepted.path if draft.tokens[node] == token]
        if not len(nodes):
            np.testing.assert_array_equal(proposer.successors[token], before[token])
        else:
            last = on_path[-1] if on_path else nodes[-1]
            np.testing.assert_array_equal(proposer.successors[token], best[last])


def test_a_period_is_written_seven_tokens_a_pass() -> None:
    """The template is six deep: with a filled matrix a text that repeats itself takes a pass for seven tokens."""
    period = 11
    proposer = TokenRecycling(period)

    def logits(tokens: np.ndarray) -> torch.Tensor:
        found = torch.zeros(len(tokens), period)
        found[range(len(tokens)), (tokens + 1) % period] = 1
        return found

    text = [0]
    proposer.begin([text])
    lengths = []
    for _ in range(20):
        draft = proposer.propose(0, text, 80)
        said = logits(draft.tokens)
        verified = Verified(draft, said, Greedy().walk(draft, lambda path, said=said: said[path[-1]]))
        proposer.learn(0, verified)
        text += verified.written
        lengths.append(len(verified.written))
    assert text == [i % period for i in range(len(text))]
    assert lengths[0] == 1
    assert lengths[-4:] == [7] * 4, lengths


def test_sampled_text_has_the_model_s_distribution(model: LlamaForCausalLM) -> None:
    """Two tokens, drawn 600 times with drafts, against their exact probabilities."""
    n = 600
    ids = IDS.expand(n, -1)
    warped = {"temperature": 0.15, "top_k": 4}

    def next_distribution(rows: torch.Tensor) -> torch.Tensor:
        scores = model(rows).logits[:, -1] / warped["temperature"]
        scores[scores < scores.topk(4).values[:, -1:]] = -torch.inf
        return scores.softmax(-1)

    with torch.no_grad():
        first = next_distribution(IDS)[0]
        second = next_distribution(torch.cat([IDS.expand(V, -1), torch.arange(V)[:, None]], 1))
    torch.manual_seed(0)
    how = Speculation(TokenRecycling(V), Fixed(6))
    model.generate(IDS, **PLAIN, custom_generate=how)  # fills the matrix
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=3,
        do_sample=True,
        **warped,
        custom_generate=how,
    )
    counts = Counter(map(tuple, found[:, IDS.shape[1] : IDS.shape[1] + 2].tolist()))
    total, cells, rest = 0.0, 0, [0.0, 0]
    for a, b in product(range(V), repeat=2):
        expected = n * float(first[a] * second[a, b])
        if expected == 0:
            assert not counts[a, b]
        elif expected < 5:
            rest = [rest[0] + expected, rest[1] + counts[a, b]]
        else:
            total += (counts[a, b] - expected) ** 2 / expected
            cells += 1
    if rest[0] >= 5:
        total += (rest[1] - rest[0]) ** 2 / rest[0]
        cells += 1
    assert cells >= 3
    assert total / (cells - 1) < 3
    assert how.stats.acceptance_length > 1


def test_memory_and_settings() -> None:
    assert TokenRecycling(50_000).successors.nbytes < 2e6
    assert isinstance(TokenRecycling(V), Guesser)
    with pytest.raises(InputError, match="asks for candidate 7"):
        TokenRecycling(V, k=4)


def test_what_follows_in_a_prompt_is_known() -> None:
    proposer = TokenRecycling(V)
    proposer.begin([[1, 2, 3, 1, 4]])
    assert proposer.successors[1, :3].tolist() == [4, 2, -1]
    assert proposer.successors[4, 0] == -1
    untaught = TokenRecycling(V, update_from_prompt=False)
    untaught.begin([[1, 2, 3, 1, 4]])
    assert (untaught.successors == -1).all()
