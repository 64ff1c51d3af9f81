"""Draft trees, and the rules by which their guesses are accepted."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenry.predict.lm.acceptance import Accepted, Greedy, Rejection, Rule, SampleAndMatch, Typical
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError


def test_the_example_of_the_specification() -> None:
    tree = DraftTree.from_paths([[0], [1], [0, 0]])
    assert tree.parent.tolist() == [-1, 0, 0, 1]
    assert tree.depth.tolist() == [0, 1, 1, 2]
    assert ["".join(map(str, row.astype(int))) for row in tree.ancestors] == ["1000", "1100", "1010", "1101"]
    assert sorted(tree.retrieve.tolist()) == [[0, 1, 3], [0, 2, -1]]
    assert tree.leaves == (2, 3)
    assert [level.tolist() for level in tree.levels] == [[1, 2], [3]]


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents = [-1] + [draw(st.integers(0, i)) for i in range(draw(st.integers(0, 12)))]
    return DraftTree(np.array(parents), np.zeros(len(parents), np.int64))


@given(tree=trees())
def test_ancestors_are_the_ways_to_the_root(tree: DraftTree) -> None:
    for node in range(tree.n):
        path = tree.path(node)
        assert path[0] == 0
        assert np.flatnonzero(tree.ancestors[node]).tolist() == sorted(path)
        assert tree.depth[node] == len(path) - 1
    ends = [[node for node in row if node >= 0][-1] for row in tree.retrieve]
    assert ends == list(tree.leaves)


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6), st.none() | st.integers(0, 8))
def test_a_merged_draft_holds_its_continuations(continuations: list[list[int]], limit: int | None) -> None:
    draft = Draft.of(7, continuations, limit)
    paths = {tuple(draft.tokens[draft.tree.path(node)][1:].tolist()) for node in range(draft.tree.n)}
    assert len(paths) == draft.tree.n  # no guess twice
    wanted = {tuple(c[:k]) for c in continuations for k in range(len(c) + 1)} | {()}
    assert paths <= wanted
    if limit is None:
        assert paths == wanted
    else:
        assert draft.tree.n <= limit + 1


def test_the_best_subtree() -> None:
    tree = DraftTree.from_paths([[0], [1], [0, 0], [0, 1], [1, 0]])
    value = [1.0, 0.6, 0.3, 0.5, 0.1, 0.2]
    assert tree.best(3, value).parent.tolist() == [-1, 0, 0, 1]
    assert tree.best(0, value).n == 1
    assert tree.best(9, value).n == tree.n


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(InputError, match="no beginning"):
        DraftTree.from_paths([[0, 1]])
    with pytest.raises(InputError, match="follows an earlier one"):
        DraftTree(np.array([-1, 2, 0]), np.zeros(3, np.int64))
    with pytest.raises(InputError, match="as many tokens"):
        Draft(DraftTree.chain(2), np.array([1]))


# --------------------------------------------------------------------------------------------------- acceptance

P = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
"""A language over four tokens: what follows each of them."""


def following(draft: Draft):  # type: ignore[no-untyped-def]
    return lambda path: P[draft.tokens[path[-1]]].log()


def test_greedy_follows_the_likeliest_token_and_all_siblings_that_carry_it() -> None:
    # 3 -> 0 (tie to the first), 0 -> 0, so the text is 0 0 0 ...
    draft = Draft(DraftTree.from_paths([[0], [1], [0, 0], [1, 0], [1, 0, 0]]), np.array([3, 0, 0, 1, 0, 0]))
    assert Greedy().walk(draft, following(draft)) == Accepted((0, 2, 4, 5), 0)
    none = Draft.of(3, [[1, 1]])
    assert Greedy().walk(none, following(none)) == Accepted((0,), 0)


def texts(rule: Rule, draft_of, length: int, n: int) -> Counter[tuple[int, ...]]:  # type: ignore[no-untyped-def]
    """The first tokens of many texts that start after token 1."""
    found: Counter[tuple[int, ...]] = Counter()
    for _ in range(n):
        text = [1]
        while len(text) <= length:
            draft, rule_here = draft_of(text[-1], rule)
            done = rule_here.walk(draft, following(draft))
            text += [int(draft.tokens[node]) for node in done.path[1:]] + [done.token]
        found[tuple(text[1 : 1 + length])] += 1
    return found


def surprise(found: Counter[tuple[int, ...]], length: int, n: int) -> float:
    """Chi-square over degrees of freedom, against the language itself."""
    total, cells = 0.0, 0
    for text in product(range(4), repeat=length):
        p = np.prod([float(P[a, b]) for a, b in zip((1, *text), text, strict=False)])
        if p == 0:
            assert not found[text]
        else:
            total += (found[text] - n * p) ** 2 / (n * p)
            cells += 1
    return total / (cells - 1)


def test_sampling_and_matching_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    drafts = {root: Draft.of(root, [[0, 0], [2, 0], [0, 1]]) for root in range(4)}
    found = texts(SampleAndMatch(generator), lambda root, rule: (drafts[root], rule), 2, 6000)
    assert surprise(found, 2, 6000) < 2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rejection_changes_nothing_when_siblings_are_drawn_without_replacement(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    q = torch.tensor([0.2, 0.5, 0.2, 0.1])

    def draft_of(root: int, rule: Rule) -> tuple[Draft, Rule]:
        siblings = torch.multinomial(q, k, replacement=False, generator=generator).tolist()
        tree = DraftTree.from_paths([[i] for i in range(k)])
        return Draft(tree, np.array([root, *siblings]), proposal=q.repeat(k + 1, 1)), Rejection(generator)

    found = texts(Greedy(), draft_of, 2, 6000)
    assert surprise(found, 2, 6000) < 2


def test_rejection_wants_to_know_what_guesses_were_drawn_from() -> None:
    with pytest.raises(InputError, match="SampleAndMatch"):
        Rejection().walk(guessed := Draft.of(0, [[1]]), following(guessed))
    nothing = Draft.of(0, [])  # where there is no guess there is nothing to know
    assert Rejection().walk(nothing, following(nothing)).path == (0,)


def acceptance(k: int, n: int = 8000) -> float:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.6, 0.2])
    generator = torch.Generator().manual_seed(0)
    accepted = 0
    for _ in range(n):
        siblings = torch.multinomial(q, k, replacement=False, generator=generator).tolist()
        tree = DraftTree.from_paths([[i] for i in range(k)])
        draft = Draft(tree, np.array([0, *siblings]), proposal=q.repeat(k + 1, 1))
        done = Rejection(generator).walk(draft, lambda path: p.log())
        accepted += len(done.path) - 1
    return accepted / n


def test_how_often_rejection_accepts() -> None:
    assert acceptance(1) == pytest.approx(0.70, abs=0.02)
    assert acceptance(2) == pytest.approx(0.85, abs=0.02)


def test_typical_acceptance_says_that_it_changes_the_text() -> None:
    assert not Typical().lossless
    assert all(rule.lossless for rule in (Greedy(), SampleAndMatch(), Rejection()))
    assert all(isinstance(rule, Rule) for rule in (Greedy(), SampleAndMatch(), Rejection(), Typical()))
    draft = Draft.of(3, [[0, 0], [1]])
    rule = Typical(epsilon=0.3, delta=10.0, generator=torch.Generator().manual_seed(0))
    assert rule.walk(draft, following(draft)).path == (0,)  # 0.25 is not above 0.3
    rule = Typical(epsilon=0.2, delta=10.0, generator=torch.Generator().manual_seed(0))
    assert rule.walk(draft, following(draft)).path == (0, 1, 2)
