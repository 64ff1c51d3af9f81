"""Which guesses and which prompt tokens a pass should carry: the search behind Parallel Prompt Decoding.

A pass in *state* s knows guesses for the next s tokens. It carries a tree of guesses, and behind the root and behind
each guess a chain of prompt tokens; the chain behind the last accepted node is what the next pass knows, so its length
is the next state. Everything here follows from one table: how often the token at each distance is exactly the r-th
guess of the prompt token for that distance. Source: arXiv 2405.18628.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from tokenry.predict.lm.tree import DraftTree
from tokenry.tokens.errors import InputError


@dataclass(frozen=True, eq=False)
class PromptTree:
    """A tree of guesses with a chain of prompt tokens behind each node.

    Attributes:
        tree: ranks of the guesses; a node of depth i is a guess of prompt i.
        reach: probability that each node is accepted; 1 for the root.
        chains: prompt tokens behind each node.
    """

    tree: DraftTree
    reach: Float[np.ndarray, " n"]
    chains: Int[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        acceptance: Float[np.ndarray, "m k"],
        paths: Iterable[Sequence[int]],
        chains: Sequence[int] | int = 0,
    ) -> Self:
        """The tree of some paths of ranks.

        Args:
            acceptance: probability that the token at distance i is exactly guess r.
            paths: of ranks, with all their beginnings; sorted by length and then by rank they are the nodes.
            chains: prompt tokens behind each node, the root first; or the same number behind all.
        """
        tree = DraftTree.from_paths(paths)
        reach = np.ones(tree.n)
        for level in tree.levels:
            reach[level] = reach[tree.parent[level]] * acceptance[tree.depth[level] - 1, tree.rank[level]]
        return cls(tree, reach, np.broadcast_to(np.asarray(chains, np.int64), tree.n).copy())

    @cached_property
    def ends(self) -> Float[np.ndarray, " n"]:
        """Probability that acceptance ends exactly at each node."""
        below = np.zeros(self.tree.n)
        np.add.at(below, self.tree.parent[1:], self.reach[1:])
        return self.reach - below

    @property
    def gain(self) -> float:
        """Expected number of accepted guesses (F)."""
        return float(self.reach[1:].sum())

    def rows(self, ensemble: int = 1) -> int:
        """Rows of the pass, the root included."""
        return self.tree.n + ensemble * int(self.chains.sum())


@dataclass(frozen=True, eq=False)
class TreeSet:
    """A tree for each state, and what they give in the long run.

    Attributes:
        states: the tree of state 0 (nothing known: the root and its prompts), of state 1, and so on.
    """

    states: tuple[PromptTree, ...]

    def rows(self, ensemble: int = 1) -> int:
        """Rows of the largest pass, the root included."""
        return max(tree.rows(ensemble) for tree in self.states)

    def transitions(self, as_coded: bool = False) -> Float[np.ndarray, "s s"]:
        """Markov chain over the states, 0 included: probability of the next one given this one.

        Args:
            as_coded: put a pass in state 0 after every pass in which only the root was accepted, as the authors' code
                does. It under-estimates: the root's prompts are known by then.
        """
        chain = np.zeros((len(self.states), len(self.states)))
        for state, tree in enumerate(self.states):
            following = tree.chains.copy()
            if as_coded and state:
                following[0] = 0
            np.add.at(chain[state], following, tree.ends)
        return chain

    def stationary(self, as_coded: bool = False) -> Float[np.ndarray, " s"]:
        """Share of passes in each state."""
        chain = self.transitions(as_coded)
        n = len(chain)
        equations = np.vstack([chain.T - np.eye(n), np.ones(n)])
        return np.linalg.lstsq(equations, np.eye(n + 1)[n], rcond=None)[0]

    def tau(self, as_coded: bool = False) -> float:
        """Expected tokens per pass: 1 and the guesses that are accepted.

        Args:
            as_coded: see `transitions`.
        """
        return 1 + float(self.stationary(as_coded) @ [tree.gain for tree in self.states])


@dataclass(frozen=True)
class RowChoice:
    """How many rows a machine should spend.

    Attributes:
        limit: rows beside the root.
        tau: expected tokens per pass with that limit.
        speed: expected speed-up over one token per pass.
    """

    limit: int
    tau: float
    speed: float


def likeliest_paths(acceptance: Float[np.ndarray, "m k"], state: int, nodes: int) -> list[tuple[int, ...]]:
    """The paths that are most likely accepted, best first; each after its own beginnings, the shorter first in a tie.

    Paths that were never accepted are left out, so there may be fewer.

    Args:
        acceptance: see `PromptTree.of`.
        state: longest path.
        nodes: how many.
    """

    def following(path: tuple[int, ...], reach: float) -> Iterable[tuple[float, int, tuple[int, ...]]]:
        if len(path) < state:
            for rank, share in enumerate(acceptance[len(path)]):
                if reach * share > 0:
                    yield -reach * float(share), len(path) + 1, (*path, rank)

    found: list[tuple[int, ...]] = []
    waiting = list(following((), 1.0))
    heapq.heapify(waiting)
    while waiting and len(found) < nodes:
        value, _, path = heapq.heappop(waiting)
        found.append(path)
        for candidate in following(path, -value):
            heapq.heappush(waiting, candidate)
    return found


def pruned(
    tree: PromptTree,
    gains: Sequence[float],
    limit: int,
    ensemble: int = 1,
    shortest: int = 1,
) -> PromptTree | None:
    """Give every node the longest chain, then shorten until the rows fit, always where it costs least.

    Args:
        tree: the guesses.
        gains: what each state is worth (`PromptTree.gain`), from state 0 on; the last is that of the longest chain,
            which the root keeps.
        limit: most rows beside the root.
        ensemble: rows per prompt token.
        shortest: least length of a chain.

    Returns:
        The tree with chains, or None if it does not fit.
    """
    longest = len(gains) - 1
    chains = np.full(tree.tree.n, longest)
    over = tree.tree.n - 1 + ensemble * longest * tree.tree.n - limit
    ends, steps = tree.ends.tolist(), np.diff(gains).tolist()
    # What shortening a node's chain costs; of equal losses, the node that comes last.
    nodes = range(1, tree.tree.n) if longest > shortest else ()
    waiting = [(ends[node] * steps[longest - 1], -node) for node in nodes]
    heapq.heapify(waiting)
    while over > 0 and waiting:
        node = -heapq.heappop(waiting)[1]
        chains[node] -= 1
        over -= ensemble
        if chains[node] > shortest:
            heapq.heappush(waiting, (ends[node] * steps[chains[node] - 1], -node))
    return PromptTree(tree.tree, tree.reach, chains) if over <= 0 else None


def best_trees(
    acceptance: Float[np.ndarray, "m k"], limit: int, ensemble: int = 1, shortest: int = 0
) -> TreeSet:
    """The trees with the most expected tokens per pass (the dynamic sparse tree).

    The paper says that the number of guesses in each state is chosen for the highest tau, not how; here one state after
    the other takes its best number, the others held, until nothing changes. Using fewer prompt tokens than were trained
    is tried too: with few rows they leave more room for guesses.

    Args:
        acceptance: see `PromptTree.of`; as many rows as prompt tokens.
        limit: most rows of a pass beside the root, prompt tokens included.
        ensemble: rows per prompt token.
        shortest: least chain behind a guess. The paper keeps 1 everywhere; with 0, guesses that are rarely the last
            accepted ones may do without, and the pass after them only asks, which is worth a little in small passes.

    Returns:
        The trees of the states 0 to m, or to fewer. Where not even one guess fits they are bare roots.

    Raises:
        InputError: a table that holds no probabilities; settings that mean nothing.
    """
    _check(acceptance, ensemble, shortest)
    ascended = (_ascend(acceptance[:m], limit, ensemble, shortest) for m in range(1, len(acceptance) + 1))
    nothing = TreeSet((PromptTree.of(acceptance, []),))
    return max((nothing, *(found for found in ascended if found is not None)), key=TreeSet.tau)


def _ascend(acceptance: Float[np.ndarray, "m k"], limit: int, ensemble: int, shortest: int) -> TreeSet | None:
    """See `best_trees`; None if not even one guess fits."""
    m = len(acceptance)
    most = (limit - ensemble * m) // (1 + ensemble * min(shortest, m))
    if most < 1:
        return None
    best = [likeliest_paths(acceptance, state, most) for state in range(m + 1)]
    bare = [[PromptTree.of(acceptance, paths[:k]) for k in range(len(paths) + 1)] for paths in best]

    def with_chains(sizes: Sequence[int]) -> TreeSet | None:
        guesses = [bare[state][size] for state, size in enumerate(sizes)]
        gains = [tree.gain for tree in guesses]
        trees = [pruned(tree, gains, limit, ensemble, min(shortest, m)) for tree in guesses]
        return None if None in trees else TreeSet(tuple(tree for tree in trees if tree is not None))

    def value(sizes: Sequence[int]) -> float:
        found = with_chains(sizes)
        return -1.0 if found is None else found.tau()

    # of the same value, fewer rows: hence the sizes in ascending order, and only what is really better
    sizes = [min(1, len(paths)) for paths in best]
    reached = value(sizes)
    improved = True
    while improved:
        improved = False
        for state in range(1, m + 1):
            for size in range(1, len(best[state]) + 1):
                tried = [*sizes[:state], size, *sizes[state + 1 :]]
                if (worth := value(tried)) > reached + 1e-12:
                    sizes, reached, improved = tried, worth, True
    return with_chains(sizes)


def static_trees(acceptance: Float[np.ndarray, "m k"], limit: int, ensemble: int = 1) -> TreeSet:
    """The same tree in every pass: all prompt tokens behind every node. What dynamic trees are compared with.

    Args:
        acceptance: see `PromptTree.of`.
        limit: most rows of a pass beside the root, prompt tokens included.
        ensemble: rows per prompt token.
    """
    m = len(acceptance)
    _check(acceptance, ensemble, 1)
    nodes = (limit - ensemble * m) // (1 + ensemble * m)
    if nodes < 1:
        return TreeSet((PromptTree.of(acceptance, []),))
    return TreeSet(
        tuple(
            PromptTree.of(acceptance, likeliest_paths(acceptance, state, nodes), m) for state in range(m + 1)
        )
    )


def choose_limit(
    acceptance: Float[np.ndarray, "m k"],
    latency: Mapping[int, float],
    ensemble: int = 1,
    shortest: int = 0,
) -> RowChoice:
    """How many rows pay on this machine: the most tokens per pass over the pass's measured time.

    Args:
        acceptance: see `PromptTree.of`.
        latency: rows of a pass, the root included -> time, in units of a pass over one row.
        ensemble: rows per prompt token.
        shortest: see `best_trees`.

    Raises:
        InputError: no latencies, or such that cannot be.
    """
    if not latency or min(latency) < 1 or min(latency.values()) <= 0:
        raise InputError(f"Latencies are times by number of rows (from 1), got {dict(latency)}.")
    choices = [RowChoice(0, 1.0, 1.0)]  # one token per pass
    for rows in sorted(set(latency) - {1}):
        tau = best_trees(acceptance, rows - 1, ensemble, shortest).tau()
        choices.append(RowChoice(rows - 1, tau, tau * latency.get(1, 1.0) / latency[rows]))
    return max(choices, key=lambda choice: choice.speed)


def _check(acceptance: Float[np.ndarray, "m k"], ensemble: int, shortest: int) -> None:
    if not acceptance.size or not np.isfinite(acceptance).all() or acceptance.min() < 0:
        raise InputError("A table of acceptance holds a probability for every prompt token and guess.")
    if (totals := acceptance.sum(1)).max() > 1 + 1e-6:
        raise InputError(
            f"The guesses of prompt {int(totals.argmax()) + 1} are right with probability {totals.max():.4g} "
            "together; a token is only one of them."
        )
    if ensemble < 1 or shortest < 0:
        raise InputError(
            f"An ensemble has members (got {ensemble}), a chain no negative length (got {shortest})."
        )
