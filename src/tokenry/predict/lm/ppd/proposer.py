"""Parallel Prompt Decoding: trained prompt tokens guess in the pass that verifies (arXiv 2405.18628)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.predict.lm.ppd.prompts import Chains, PromptTokens
from tokenry.predict.lm.ppd.tree import PromptTree, TreeSet, best_trees, choose_limit
from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.sizing import Expected
from tokenry.predict.lm.tree import Draft, DraftTree, Probes
from tokenry.tokens.errors import InputError, UnsupportedError

_SMOLLM2: Final = MappingProxyType(
    {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
)
"""What tells the model that prompt tokens are shipped for; its vocabulary may have grown."""

Search = Callable[[Float[np.ndarray, "m k"], int, int], TreeSet]
"""Table of acceptance, most rows beside the root and rows per prompt token -> the trees."""


class ParallelPromptDecoding:
    """Guess with prompt tokens that ride along in every pass.

    Source: Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference, arXiv
    2405.18628. Behind the root and the guesses of a pass stand chains of trained prompt tokens. The chain behind the
    last accepted node tells the guesses of the next pass, its length how far they reach (the state). Which guesses and
    how long chains a pass carries is chosen by state, for the most tokens per pass (`tree.best_trees`). Any text
    comes out as without guesses; how good the prompt tokens are only decides how fast.

    A pass has at most the `limit` of rows beside the root that the sizing asks for, prompt tokens included; trees for
    a limit are searched once. Where no guess fits, the pass carries the root alone.

    In the paper the pass over the prompt carries prompt tokens too. Here the first pass after it carries the root and
    its chain, and guesses nothing: one pass more per text, and the prompt is read as the model itself reads it.

    Args:
        prompts: for the model that decodes.
        acceptance: their table of acceptance; by default the one they were saved with.
        search: how trees are chosen.

    Raises:
        InputError: no table, or one for another number of prompt tokens.
    """

    hidden: bool = False

    def __init__(
        self,
        prompts: PromptTokens,
        acceptance: Float[np.ndarray, "m k"] | None = None,
        search: Search = best_trees,
    ) -> None:
        table = prompts.acceptance if acceptance is None else acceptance
        if table is None:
            raise InputError(
                "How well these prompt tokens guess is not known; measure it with "
                "tokenry.predict.lm.ppd.training.acceptance_table and hand it in."
            )
        if len(table) != prompts.count:
            raise InputError(
                f"{prompts.count} prompt tokens need as many rows of acceptance, got {len(table)}."
            )
        self.prompts, self.acceptance, self.search = prompts, table, search
        self._passes: dict[int, list[_Pass]] = {}
        self._guesses: dict[int, Int[np.ndarray, "s k"]] = {}

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """See `NamedProposer.for_model`: with the prompt tokens that come with tokenry, which are for SmolLM2-135M.

        Raises:
            UnsupportedError: another model.
        """
        config = model.config.get_text_config()
        if any(getattr(config, name, None) != value for name, value in _SMOLLM2.items()):
            raise UnsupportedError(
                f"The prompt tokens that come with tokenry are for SmolLM2-135M, not for {type(model).__name__} of "
                f"width {config.hidden_size}. Train some (tokenry.predict.lm.ppd.training), and pass "
                "ParallelPromptDecoding(PromptTokens.load(...))."
            )
        return cls(PromptTokens.for_smollm2())

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Float[Tensor, "s d"]] | None) -> None:
        """See `Proposer.begin`."""
        self._guesses.clear()

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        passes = self._trees(limit)
        guesses = self._guesses.get(row)
        state = 0 if guesses is None else min(len(guesses), len(passes) - 1)
        planned = passes[state]
        tree = planned.tree
        tokens = np.full(tree.n, text[-1], np.int64)
        if guesses is not None and tree.n > 1:
            tokens[1:] = guesses[tree.depth[1:] - 1, tree.rank[1:]]
        return Draft(tree, tokens, planned.probes(self.prompts))

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`: the guesses of the chain behind the last accepted node are the next ones."""
        self._guesses.pop(row, None)
        probes = verified.draft.probes
        if probes is None or verified.probes is None:
            return
        chain = np.flatnonzero(probes.after == verified.accepted.path[-1])
        if len(chain):
            logits = verified.probes[chain[0] : chain[-1] + 1].unflatten(0, (-1, self.prompts.ensemble))
            best = logits.float().mean(1).topk(self.acceptance.shape[1], dim=-1)
            self._guesses[row] = best.indices.cpu().numpy()

    def sizing(self, latency: Mapping[int, float]) -> PlannedRows:
        """How many rows pay on a machine: the size with the most expected tokens over a pass's measured time.

        Args:
            latency: rows of a pass, the root included -> time, in units of a pass over one row
                (`tokenry.predict.lm.calibrate`).
        """
        return PlannedRows(self.acceptance, Expected(latency), self.prompts.ensemble)

    def _trees(self, limit: int) -> list[_Pass]:
        if limit not in self._passes:
            trees = self.search(self.acceptance, limit, self.prompts.ensemble)
            self._passes[limit] = [_Pass.of(tree, self.prompts.ensemble) for tree in trees.states]
        return self._passes[limit]


@dataclass(frozen=True, eq=False)
class PlannedRows:
    """As many rows for each text as pay on a machine, by the table of acceptance; fewer where a pass serves several.

    Attributes:
        acceptance: see `PromptTree.of`.
        machine: knows how long passes take.
        ensemble: rows per prompt token.
    """

    acceptance: Float[np.ndarray, "m k"]
    machine: Expected
    ensemble: int
    _limits: dict[int, int] = field(init=False, repr=False, default_factory=dict)

    def most(self, texts: int) -> int:
        """See `Sizing.most`."""
        if texts not in self._limits:
            rows = np.array(sorted(self.machine.latency), np.float64)
            times = self.machine.time(texts * rows) / self.machine.time(np.array([float(texts)]))
            latency = dict(zip(rows.astype(int).tolist(), times.tolist(), strict=True))
            self._limits[texts] = choose_limit(self.acceptance, latency, self.ensemble).limit
        return self._limits[texts]

    def choose(self, drafts: Sequence[Draft]) -> int:
        """See `Sizing.choose`: a pass with prompt tokens is judged whole."""
        return self.most(len(drafts))


@dataclass(frozen=True, eq=False)
class _Pass:
    """What is the same in every pass of a state."""

    tree: DraftTree
    chains: Chains

    @classmethod
    def of(cls, planned: PromptTree, ensemble: int) -> Self:
        return cls(planned.tree, Chains.behind(planned.chains.tolist(), ensemble))

    def probes(self, prompts: PromptTokens) -> Probes | None:
        """The chains with the prompt tokens as they are now: these may be in training."""
        chains = self.chains
        if not len(chains.place):
            return None
        return Probes(chains.place, chains.step, chains.sees, prompts.rows(chains).detach())
