"""A byte model after some bytes: covers that reach beyond the text, and token sequences that end where it does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tokenry.predict.lm.byte_probabilities.base import ByteLMState
from tokenry.predict.lm.byte_probabilities.cache import PrefixNode, TokenForest, moved
from tokenry.predict.lm.byte_probabilities.covers import Covers, Fresh, Group, Plan
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, UnsupportedError


@runtime_checkable
class StateModel(Protocol):
    """What a state asks of the byte model that it is of."""

    covers: Covers
    vocab: ByteVocab

    def begin(
        self,
        sequences: Sequence[Sequence[int]],
        texts: Sequence[bytes] | None = None,
        context: Sequence[int] | None = None,
    ) -> list[ByteState]:
        """States after token sequences that are certain."""
        ...

    def evaluate(self, states: Sequence[ByteLMState]) -> None:
        """Ask the language model what the states need to know."""
        ...


class ByteState(ByteLMState):
    """A byte model after some bytes. Stepping gives a new state; this one stays as it is.

    Attributes:
        model: the byte model.
        forest, row: where the keys and values of its token sequences are.
        groups: covers that reach beyond the text.
        fresh: token sequences that end where the text does, with their log-probabilities; the model has yet to be asked
            what follows them.
        log_mass: log-probability of all covers of the text since the last certain boundary of its prompt (nats).
        text: the bytes so far, prompt included, as the tokenizer sees them.
        before: tokens before them.
        exact: whether covers were neither left out nor counted too many. False with the options that say so, and where
            a text is so odd that it has no cover and its own encoding was taken instead.
    """

    def __init__(
        self,
        model: StateModel,
        forest: TokenForest,
        row: int,
        groups: list[Group],
        fresh: list[Fresh],
        log_mass: float,
        text: bytes,
        before: Sequence[int],
        exact: bool,
    ) -> None:
        self.model = model
        self.forest = forest
        self.row = row
        self.groups = groups
        self.fresh = fresh
        self.log_mass = log_mass
        self.text = text
        self.before = before
        self.exact = exact

    def waiting(self) -> list[PrefixNode]:
        """The token sequences that the model has yet to be asked about."""
        if "_begun" in self.__dict__:
            return []
        return [node for node, _ in self.fresh if node.logits is None]

    @cached_property
    def _begun(self) -> list[Group]:
        """The groups that begin here."""
        self.model.evaluate([self])
        return [self.model.covers.group(node, log_mass) for node, log_mass in self.fresh]

    @cached_property
    def log_probs(self) -> Float[np.ndarray, "257"]:
        """Log-probability of each next byte, and at 256 of the end of the text (nats)."""
        mass, _ = self.model.covers.next_bytes(self.groups + self._begun)
        total = mass.sum()
        if total <= 0:
            return self._rescued.log_probs
        with np.errstate(divide="ignore"):
            return np.log(mass) - math.log(total)

    @property
    def log_end(self) -> float:
        """Log-probability of the end of the text here, as the language model gives it (nats)."""
        ends = [g.log_mass + math.log(g.end) for g in self._begun if g.end > 0]
        return float(np.logaddexp.reduce(ends)) - self.log_mass if ends else float("-inf")

    @cached_property
    def _rescued(self) -> ByteState:
        """The state of the text's own encoding, for texts that have no cover."""
        tokens = self.model.vocab.encode(self.text)
        warnings.warn(
            f"No token sequence that covers the text up to {self.text[-20:]!r} has any probability; its own encoding "
            "is taken instead, and what follows is not exact (ByteState.exact).",
            stacklevel=3,
        )
        state = self.model.begin([tokens], [self.text], self.before)[0]
        state.exact = False
        for token in tokens:
            root = state.fresh[0][0]
            root.context = self.model.covers.validity.extend(root.context, token)
        mass, _ = self.model.covers.next_bytes(state._begun)
        if mass.sum() <= 0:
            raise UnsupportedError(
                f"After {self.text[-20:]!r} the model gives nothing that its tokenizer could give any probability."
            )
        return state

    def step(
        self, byte: int, known: dict[tuple[int, int], PrefixNode] | None = None, *, masked: bool = False
    ) -> ByteState:
        """The state after one more byte.

        Args:
            byte: 0 to 255.
            known: token sequences that were evaluated ahead (see `plan`); others are then left out.
            masked: leave out what the tokenizer could not give, also in a fast model, which spares that while drawing.

        Raises:
            InputError: no byte, such as the end of the text.
        """
        if not 0 <= byte < 256:
            raise InputError(f"{byte} is no byte; after the end of a text (256) there is nothing to step to.")
        covers = self.model.covers
        groups: list[Group] = []
        fresh: list[Fresh] = []
        for group in self.groups + self._begun:
            moved_on, complete = covers.advance(group, byte)
            if masked and moved_on is not None:
                moved_on = covers.masked(moved_on)
            if moved_on is not None:
                groups.append(moved_on)
            for token, log_mass in complete:
                node = covers.next(group.left, token) if known is None else known.get((id(group.left), token))
                if node is not None:
                    fresh.append((node, log_mass))
        text = self.text + bytes([byte])
        if not groups:
            return self._without_covers(text)
        log_mass = covers.log_mass(groups)
        groups, fresh = covers.kept(covers.unfinished(groups), fresh)
        return self._after(groups, fresh, log_mass, text)

    def _after(self, groups: list[Group], fresh: list[Fresh], log_mass: float, text: bytes) -> ByteState:
        return ByteState(
            self.model, self.forest, self.row, groups, fresh, log_mass, text, self.before, self.exact
        )

    def within_one_token(self, data: bytes) -> ByteState:
        """The state if the next token starts with some bytes (or is them): what token healing supposes."""
        covers = self.model.covers
        live: Group | None = self._begun[0]
        complete: list[tuple[int, float]] = []
        for byte in data:
            if live is None:
                raise InputError(f"No token starts with {data!r}.")
            live, complete = covers.advance(live, byte)
        groups = [] if live is None else [live]
        left = self._begun[0].left
        fresh = [(covers.next(left, token), log_mass) for token, log_mass in complete]
        return self._after(groups, fresh, covers.log_mass(groups), self.text + data)

    def _without_covers(self, text: bytes) -> ByteState:
        rescued = self._after([], [], float("-inf"), text)._rescued
        rescued.log_mass = float("-inf")
        return rescued

    def plan(self, text: bytes, only_the_end: bool = False) -> Plan:
        """The token sequences that stepping through a text will ask the model about; see `Covers.ahead`."""
        root = self.model.covers.trie.root
        live = [(g.left, g.at) for g in self.groups] + [(node, root) for node, _ in self.fresh]
        return self.model.covers.ahead(live, text, only_the_end)

    def encodings(self) -> set[tuple[int, ...]]:
        """All covers of the text that have any probability, as token sequences since the last certain boundary."""
        found = {(*node.tokens(),) for node, _ in self.fresh}
        return found.union(*map(self.model.covers.sequences, self.groups))

    def visible(self, length: int) -> np.ndarray:
        """Which of the forest's slots its token sequences need."""
        seen = np.zeros(length, bool)
        for node in self._lefts():
            seen[: len(node.visible)] |= node.visible
            if node.parent is not None and not len(node.visible):
                seen[: len(node.parent.visible)] |= node.parent.visible
        return seen

    def _lefts(self) -> list[PrefixNode]:
        begun = self.__dict__.get("_begun", [])
        return [g.left for g in self.groups] + [node for node, _ in self.fresh] + [g.left for g in begun]

    def move(self, forest: TokenForest, row: int, slots: np.ndarray, count: int) -> None:
        """Take the token sequences to a compacted forest."""
        copies: dict[int, PrefixNode] = {}
        for node in self._lefts():
            if len(node.visible):
                copies[id(node)] = moved(node, slots, count)
            else:  # not asked about yet: its parent has the slots
                assert node.parent is not None
                parent = moved(node.parent, slots, count)
                copies[id(node)] = PrefixNode(node.token, parent, node.position, node.context)
        self.forest, self.row = forest, row
        self.groups = [replace(g, left=copies[id(g.left)]) for g in self.groups]
        self.fresh = [(copies[id(node)], mass) for node, mass in self.fresh]
        if "_begun" in self.__dict__:
            self.__dict__["_begun"] = [replace(g, left=copies[id(g.left)]) for g in self._begun]


def evaluate(work: Sequence[tuple[ByteState, list[PrefixNode]]]) -> None:
    """Ask language models about token sequences of several states: one forward pass for all of a forest.

    Args:
        work: states, and nodes of theirs, parents before children.
    """
    by_forest: dict[int, list[tuple[ByteState, list[PrefixNode]]]] = {}
    for state, nodes in work:
        if nodes:
            by_forest.setdefault(id(state.forest), []).append((state, nodes))
    for entries in by_forest.values():
        forest = entries[0][0].forest
        rows: list[list[PrefixNode]] = [[] for _ in range(forest.rows)]
        for state, nodes in entries:
            rows[state.row].extend(nodes)
        forest.extend(rows)


def compact(states: Sequence[ByteState]) -> None:
    """Move states whose forest holds much more than they need to one that does not."""
    by_forest: dict[int, list[ByteState]] = {}
    for state in states:
        by_forest.setdefault(id(state.forest), []).append(state)
    for members in by_forest.values():
        forest = members[0].forest
        live = [s.visible(forest.length) for s in members]
        widest = max(int(v.sum()) for v in live)
        if forest.wasteful(widest):
            kept = forest.compact([s.row for s in members], live)
            slots = forest.slots(live)
            for row, (state, seen) in enumerate(zip(members, live, strict=True)):
                state.move(kept, row, slots[row], int(seen.sum()))
