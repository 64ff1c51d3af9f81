"""Byte-level probabilities of a tokenized language model (arXiv 2410.09303)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.hosts.encoding import start_id
from tokenry.hosts.wrappers import unwrap
from tokenry.predict.lm.byte_probabilities.cache import Node, TokenForest, moved
from tokenry.predict.lm.byte_probabilities.covers import Covers, Group
from tokenry.predict.lm.byte_probabilities.drawing import Draw, State, check, generators
from tokenry.predict.lm.byte_probabilities.fim import MiddleTokens, Order
from tokenry.predict.lm.byte_probabilities.shapes import split_partial
from tokenry.predict.lm.byte_probabilities.validity import Anything, Context, Validity, validity_of
from tokenry.predict.lm.requirements import require_trees
from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError
from tokenry.tokens.ids import IdsLike, id_rows

_WINDOW = 64  # bytes of a known text whose tokens are evaluated together


def byte_model(
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    fast: bool = False,
    min_log_mass: float | None = None,
    max_groups: int | None = None,
    stops: Sequence[int] | None = None,
    context: IdsLike | None = None,
) -> ByteModel:
    """See a tokenized language model as a model of bytes (arXiv 2410.09303).

    The probability of a byte prefix is the sum over all its *cover encodings*: token sequences that the tokenizer
    could give, of which all but the last token lie inside the prefix. With it a prompt may end anywhere, inside a word
    or a character, and models with different vocabularies can be compared and mixed byte by byte.

    One forward pass of one token per byte: covers that share all but their last token are one range of the vocabulary,
    there are at most as many of those as the longest token has bytes, and their keys and values live in one cache that
    grows as a tree (`TokenForest`). The mask of valid next tokens is exact and costs a few vector operations
    (`PairValidity`, `ByteLevelValidity`).

    Where this differs from the paper and its code (facebookresearch): the code knows SentencePiece only; here also
    byte-level BPE. The paper calls a token sequence valid if it is the encoding of its own text; here, if it begins the
    encoding of some text. With tokenizers that look ahead (GPT-2's) the paper's rule gives everyday texts such as
    "Hi\\n\\nYou" no cover at all; see `tokenry.predict.lm.byte_probabilities.validity`.

    Args:
        lm: a causal language model; also one of peft or `torch.compile`.
        tokenizer: its tokenizer; by default the one saved beside the model (``lm.name_or_path``).
        fast: do not mask the last token of covers, but for those of the prompt. Not exact, though close where the model
            rarely predicts what its tokenizer never gives.
        min_log_mass: drop groups of covers whose log-probability lies this far below the best (a negative number, such
            as -20). Not exact.
        max_groups: keep at most so many groups. Not exact.
        stops: tokens that end a text; by default those that end generation.
        context: tokens before every prompt, by default the tokenizer's beginning-of-text token.

    Raises:
        UnsupportedError: a tokenizer that is not BPE or that exactness does not cover; a model that cannot read tokens
            side by side, by what it lacks.
        InputError: no tokenizer; no model of transformers; options that mean nothing.
    """
    plain: PreTrainedModel = unwrap(lm)
    require_trees(plain)
    if tokenizer is None:
        if not plain.name_or_path:
            raise InputError("This model was not loaded from a folder; pass its tokenizer.")
        vocab = ByteVocab.from_tokenizer(plain.name_or_path)
    else:
        vocab = ByteVocab.from_tokenizer(tokenizer)
    if min_log_mass is not None and not min_log_mass < 0:
        raise InputError(
            f"min_log_mass={min_log_mass} would drop the best group too; give a negative number."
        )
    if max_groups is not None and max_groups < 1:
        raise InputError(f"max_groups={max_groups} leaves no covers; at least 1 is needed.")
    return ByteModel(plain, vocab, validity_of(vocab), fast, min_log_mass, max_groups, stops, context)


class ByteModel(Draw):
    """A language model over bytes. Make one with `byte_model`.

    Attributes:
        lm: the language model.
        vocab: its vocabulary as bytes.
        stops: tokens that end a text.
        context: tokens before every prompt.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        vocab: ByteVocab,
        validity: Validity,
        fast: bool = False,
        min_log_mass: float | None = None,
        max_groups: int | None = None,
        stops: Sequence[int] | None = None,
        context: IdsLike | None = None,
    ) -> None:
        require_trees(lm)
        self.lm = lm
        self.vocab = vocab
        self._made_for = self._sizes()
        self.validity = validity
        self.min_log_mass = min_log_mass
        self.max_groups = max_groups
        self.stops = _one_row(_stops(lm, vocab) if stops is None else stops)
        self.context = _one_row(_beginning(lm, vocab) if context is None else context)
        for token in (*self.stops, *self.context):
            if not 0 <= token < lm.config.get_text_config().vocab_size:
                raise InputError(f"Token {token} is outside the model's vocabulary.")
        self.trie = ByteTrie.build(vocab.token_bytes)
        self.covers = Covers(self.trie, validity, self.stops, fast)
        self.pruned = fast or min_log_mass is not None or max_groups is not None
        self.exact = not self.pruned and not isinstance(validity, Anything)

    def with_context(self, context: IdsLike, stops: Sequence[int] | None = None) -> ByteModel:
        """The same model after other tokens, such as those of a chat template.

        Args:
            context: tokens before every prompt.
            stops: tokens that end a text, if not the same.
        """
        self.check_unchanged()
        return ByteModel(
            self.lm,
            self.vocab,
            self.validity,
            self.covers.fast,
            self.min_log_mass,
            self.max_groups,
            self.stops if stops is None else stops,
            context,
        )

    # ------------------------------------------------------------------------------------------- states

    def state(self, prompt: bytes | str = b"", context: IdsLike | None = None) -> ByteState:
        """The model after a prompt, which may end inside a token or a character.

        Args:
            prompt: bytes or text; special tokens in it are plain characters.
            context: tokens before it, instead of the model's own.
        """
        return self.states([prompt], context)[0]

    def states(self, prompts: Sequence[bytes | str], context: IdsLike | None = None) -> list[ByteState]:
        """The model after each of several prompts; what they cost later is shared."""
        if not prompts:
            raise InputError("There is no prompt; pass at least one (it may be empty).")
        streams = [self.stream(prompt) for prompt in prompts]
        splits = [self.validity.boundary(stream) for stream in streams]
        sure = [stream[:at] for stream, at in zip(streams, splits, strict=True)]
        states = self.begin([self.vocab.encode(part) for part in sure], sure, context)
        rest = [stream[at:] for stream, at in zip(streams, splits, strict=True)]
        return self.feed(states, rest, only_the_end=True)

    def begin(
        self,
        sequences: Sequence[Sequence[int]],
        texts: Sequence[bytes] | None = None,
        context: IdsLike | None = None,
    ) -> list[ByteState]:
        """States after token sequences that are certain: where they end, so does a token, whatever follows.

        Args:
            sequences: tokens after the context.
            texts: their bytes, if they are not simply those of the tokens.
            context: tokens before them, instead of the model's own.

        Raises:
            InputError: no context; tokens that were added since this byte model was made.
        """
        self.check_unchanged()
        before = self.context if context is None else _one_row(context)
        if not before:
            raise InputError(
                "This tokenizer has no token that begins a text, and a language model says nothing without any: pass "
                "context=[...]."
            )
        if texts is None:
            texts = [self.vocab.decode(sequence) for sequence in sequences]
        forest = TokenForest(self.lm, len(sequences))
        roots = forest.prefill([[*before, *s] for s in sequences], [Context()] * len(sequences))
        return [
            ByteState(self, forest, row, [], [(root, 0.0)], 0.0, text, before, self.exact)
            for row, (root, text) in enumerate(zip(roots, texts, strict=True))
        ]

    def check_unchanged(self) -> None:
        """Refuse to go on with tables of another vocabulary.

        Raises:
            InputError: tokens were added to the tokenizer or the model since this byte model was made.
        """
        if self._sizes() != self._made_for:
            (tokens, rows), (then, rows_then) = self._sizes(), self._made_for
            raise InputError(
                f"The tokenizer has {tokens} tokens and the model {rows}; when this byte model was made they were "
                f"{then} and {rows_then}. Make another: byte_model(model, tokenizer)."
            )

    def _sizes(self) -> tuple[int, int]:
        """Tokens of the tokenizer and of the model, which the tables here are of."""
        return len(self.vocab.tokenizer), int(self.lm.config.get_text_config().vocab_size)

    def stream(self, text: bytes | str) -> bytes:
        """The bytes that the tokenizer sees of a text: some put a space in front."""
        return self.vocab.as_seen(_bytes(text))

    def feed(
        self, states: Sequence[ByteState], texts: Sequence[bytes], only_the_end: bool = False
    ) -> list[ByteState]:
        """States after known texts: everything that the model has to be asked, in few forward passes.

        Args:
            states: states of this model.
            texts: what follows each.
            only_the_end: evaluate only what the last states need; masses on the way then leave covers out. Even a fast
                model then masks the covers of the text: they are its prompt's.
        """
        found = list(states)
        longest = max(map(len, texts), default=0)
        window = max(longest, 1) if only_the_end else _WINDOW
        for a in range(0, longest, window):
            parts = [text[a : a + window] for text in texts]
            for row, known in enumerate(self._ask_ahead(found, parts, only_the_end)):
                for at, byte in enumerate(parts[row], start=1):
                    prompt_ends = only_the_end and at == len(parts[row])
                    found[row] = found[row].step(byte, known, masked=prompt_ends and self.covers.fast)
        return found

    def _ask_ahead(
        self, states: Sequence[ByteState], texts: Sequence[bytes], only_the_end: bool = False
    ) -> list[dict[tuple[int, int], Node]]:
        """Evaluate, in one forward pass, what stepping through texts will ask; see `ByteState.plan`."""
        self.evaluate(states)
        plans = [s.plan(text, only_the_end) for s, text in zip(states, texts, strict=True)]
        self._run([(state, nodes) for state, (nodes, _) in zip(states, plans, strict=True)])
        return [known for _, known in plans]

    # ------------------------------------------------------------------------------- asking the model

    def evaluate(self, states: Sequence[State]) -> None:
        """Ask the model what the states need to know, all of them in one forward pass."""
        own = [s for s in states if isinstance(s, ByteState) and s.model is self and s.waiting()]
        self._compact(own)  # before the waiting nodes are taken: it replaces them
        self._run([(state, state.waiting()) for state in own])

    def _run(self, work: Sequence[tuple[ByteState, list[Node]]]) -> None:
        by_forest: dict[int, list[tuple[ByteState, list[Node]]]] = {}
        for state, nodes in work:
            if nodes:
                by_forest.setdefault(id(state.forest), []).append((state, nodes))
        for entries in by_forest.values():
            forest = entries[0][0].forest
            rows: list[list[Node]] = [[] for _ in range(forest.rows)]
            for state, nodes in entries:
                rows[state.row].extend(nodes)
            forest.extend(rows)

    def _compact(self, states: Sequence[ByteState]) -> None:
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

    def fill(
        self,
        prefix: bytes | str,
        suffix: bytes | str,
        max_bytes: int = 100,
        *,
        order: Order = "psm",
        tokens: MiddleTokens | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> bytes:
        """Draw what stands between two texts, with the special tokens that the model was taught this by.

        The prefix may end inside a token: what follows its last certain boundary is put behind the special token for
        the middle, as a prompt of the middle ("psm"), or the whole prefix is ("spm").

        Args:
            prefix: text before.
            suffix: text after.
            max_bytes: at most so many bytes.
            order: "psm": prefix, suffix, middle. "spm": suffix, then prefix and middle in one.
            tokens: the special tokens, if they have no name that is known.
            temperature, top_p, seed, generator: see `sample`.

        Raises:
            UnsupportedError: the model has no such tokens.
        """
        tokens = tokens or MiddleTokens.of(self.vocab)
        data = self.stream(prefix)
        at = self.validity.boundary(data) if order == "psm" else 0
        head, tail = self.vocab.encode(data[:at]), self.vocab.encode(_bytes(suffix))
        filler = self.with_context(tokens.before(head, tail, order), (*self.stops, *tokens.ends))
        start = filler.feed(filler.begin([[]], [data[:at]]), [data[at:]], only_the_end=True)
        check(max_bytes, temperature, top_p)
        return filler.draw(start, max_bytes, temperature, top_p, generators(1, seed, generator))[0]

    # ------------------------------------------------------------------------------------------ whole texts

    def log_probs(self, text: bytes | str, prompt: bytes | str = b"") -> Float[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prompt and the bytes before it (nats).

        Raises:
            InputError: bytes that are in no text of the tokenizer's; a space at the beginning of a text whose tokenizer
                takes that for the one that it puts there itself.
            UnsupportedError: a text whose own encoding the rules do not know, or whose covers were all dropped
                (``min_log_mass``, ``max_groups``). It would come out as impossible, and is not. Where the language
                model itself gives it no probability at all, minus infinity is the result, with a warning.
        """
        state = self.state(prompt)
        found = []
        data = _bytes(text)
        if not prompt and self.vocab.front == "missing" and data.startswith(b" "):
            raise InputError(
                f"The tokenizer puts a space before a text that has none, so {data[:20]!r} is the same text to it with "
                "and without its first space, which has no probability of its own. Take it off, or put it into the "
                "prompt."
            )
        for a in range(0, len(data), _WINDOW):
            part = data[a : a + _WINDOW]
            (known,) = self._ask_ahead([state], [part])
            for byte in part:
                found.append(state.log_probs[byte])
                if math.isinf(found[-1]):
                    self._refuse_impossible(self.stream(_bytes(prompt) + data))
                state = state.step(byte, known)
        return np.array(found)

    def _refuse_impossible(self, text: bytes) -> None:
        """Refuse to call a text impossible that is not so by the language model's account.

        Raises:
            InputError: what the tokenizer has no tokens for.
            UnsupportedError: a text that it has tokens for, of which there is nothing left.
        """
        context = Context()
        text, _ = split_partial(text)
        tokens = self.vocab.encode(text)
        for i, token in enumerate(tokens):
            if not self.validity.mask(context)[token]:
                raise _unknown_to_rules(text, self.vocab.decode(tokens[:i]), self.vocab.decode([token]))
            context = self.validity.extend(context, token)
        if self.min_log_mass is not None or self.max_groups is not None:
            raise UnsupportedError(
                f"All covers of {text[-30:]!r} were dropped on the way (min_log_mass={self.min_log_mass}, max_groups="
                f"{self.max_groups}), so it would come out as impossible. Allow for more, or leave the options off."
            )

    def log_prob(self, text: bytes | str, prompt: bytes | str = b"") -> float:
        """Log-probability of a text after a prompt: the sum of its bytes' (nats)."""
        return float(self.log_probs(text, prompt).sum())

    def log_mass(self, text: bytes | str, end: bool = False) -> float:
        """Sum of the probabilities that the language model gives to all covers of a text (nats).

        By the byte-token representation lemma this is the probability of the text under the language model, which may
        waste some of its own on token sequences that are none of its tokenizer's. With ``end`` it is the likelihood of
        the text's tokens and a stop token.

        Raises:
            InputError, UnsupportedError: see `log_probs`.
        """
        state = self.feed(self.begin([[]]), [self.stream(text)])[0]
        if math.isinf(state.log_mass):
            self._refuse_impossible(self.stream(text))
        return state.log_mass + (state.log_end if end else 0.0)


def _one_row(ids: IdsLike) -> tuple[int, ...]:
    """Ids of one text, with or without a batch axis."""
    rows = id_rows(ids)
    if len(rows) != 1:
        raise InputError(f"Here the ids of one text are wanted, got {len(rows)} texts.")
    return tuple(rows[0].tolist())


def _bytes(text: bytes | str) -> bytes:
    try:
        return text if isinstance(text, bytes) else text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Character {error.start} of {error.object[:40]!r} is half of a surrogate pair, which has no bytes; hand "
            "in bytes, or clean the text."
        ) from error


def _unknown_to_rules(text: bytes, before: bytes, token: bytes) -> TokenryError:
    try:
        text.decode()
    except UnicodeDecodeError:
        return InputError(
            f"{text[-30:]!r} is not UTF-8: after {before[-20:]!r}, {token!r} is a token of no text, so it has no "
            "probability. Decode the bytes first, with errors='replace' if need be."
        )
    return UnsupportedError(
        f"The tokenizer gives {token!r} after {before[-20:]!r}, which the rules for exact byte probabilities do not "
        "know, so this text would come out as impossible. Please report the tokenizer's splitting pattern; until then "
        "score texts by their tokens (tokenry.text.measure)."
    )


def _stops(lm: PreTrainedModel, vocab: ByteVocab) -> list[int]:
    settings = getattr(lm, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    if found is None:
        found = lm.config.get_text_config().eos_token_id
    if found is None:
        found = vocab.tokenizer.eos_token_id
    return [] if found is None else list(found) if isinstance(found, Sequence) else [int(found)]


def _beginning(lm: PreTrainedModel, vocab: ByteVocab) -> list[int]:
    token = start_id(vocab.tokenizer)
    if token is None:
        token = lm.config.get_text_config().bos_token_id
    return [] if token is None else [int(token)]


class ByteState(State):
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
        model: ByteModel,
        forest: TokenForest,
        row: int,
        groups: list[Group],
        fresh: list[tuple[Node, float]],
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

    def waiting(self) -> list[Node]:
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
            root.context = self.model.validity.extend(root.context, token)
        mass, _ = self.model.covers.next_bytes(state._begun)
        if mass.sum() <= 0:
            raise UnsupportedError(
                f"After {self.text[-20:]!r} the model gives nothing that its tokenizer could give any probability."
            )
        return state

    def step(
        self, byte: int, known: dict[tuple[int, int], Node] | None = None, *, masked: bool = False
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
        fresh: list[tuple[Node, float]] = []
        for group in self.groups + self._begun:
            moved_on, complete = covers.advance(group, byte)
            if masked and moved_on is not None:
                moved_on = covers.masked(moved_on)
            if moved_on is not None:
                groups.append(moved_on)
            for token, log_mass in complete:
                node = self._next(group.left, token) if known is None else known.get((id(group.left), token))
                if node is not None:
                    fresh.append((node, log_mass))
        text = self.text + bytes([byte])
        if not groups:
            return self._without_covers(text)
        log_mass = covers.log_mass(groups)
        # A node of the trie without children holds nothing but the token that ends there.
        first = self.model.trie.first_child
        groups = [g for g in groups if first[g.at] < first[g.at + 1]]
        groups, fresh = self._prune(groups, fresh)
        return self._after(groups, fresh, log_mass, text)

    def _after(
        self, groups: list[Group], fresh: list[tuple[Node, float]], log_mass: float, text: bytes
    ) -> ByteState:
        return ByteState(
            self.model, self.forest, self.row, groups, fresh, log_mass, text, self.before, self.exact
        )

    def within_one_token(self, data: bytes) -> ByteState:
        """The state if the next token starts with some bytes (or is them): what token healing supposes."""
        live: Group | None = self._begun[0]
        complete: list[tuple[int, float]] = []
        for byte in data:
            if live is None:
                raise InputError(f"No token starts with {data!r}.")
            live, complete = self.model.covers.advance(live, byte)
        groups = [] if live is None else [live]
        left = self._begun[0].left
        fresh = [(self._next(left, token), log_mass) for token, log_mass in complete]
        return self._after(groups, fresh, self.model.covers.log_mass(groups), self.text + data)

    def _without_covers(self, text: bytes) -> ByteState:
        rescued = self._after([], [], float("-inf"), text)._rescued
        rescued.log_mass = float("-inf")
        return rescued

    def _next(self, left: Node, token: int) -> Node:
        context = self.model.validity.extend(left.context, token)
        return Node(token, left, left.position + 1, context)

    def _prune(
        self, groups: list[Group], fresh: list[tuple[Node, float]]
    ) -> tuple[list[Group], list[tuple[Node, float]]]:
        least, most = self.model.min_log_mass, self.model.max_groups
        if least is None and most is None:
            return groups, fresh
        weights = [*self.model.covers.weights(groups), *(mass for _, mass in fresh)]
        floor = -math.inf if least is None else max(weights) + least
        if most is not None and len(weights) > most:
            floor = max(floor, sorted(weights)[-most])
        keep = [weight >= floor for weight in weights]
        return (
            [g for g, k in zip(groups, keep, strict=False) if k],
            [f for f, k in zip(fresh, keep[len(groups) :], strict=True) if k],
        )

    def plan(self, text: bytes, only_the_end: bool = False) -> tuple[list[Node], dict[tuple[int, int], Node]]:
        """The token sequences that stepping through a text will ask the model about.

        Args:
            text: the next bytes.
            only_the_end: leave out those that no cover of the whole text begins with.

        Returns:
            new nodes, parents first; the same by (id of parent, token).
        """
        model, trie = self.model, self.model.trie
        live = [(g.left, g.at) for g in self.groups] + [(node, trie.root) for node, _ in self.fresh]
        nodes: list[Node] = []
        known: dict[tuple[int, int], Node] = {}
        for byte in text:
            moved_on: list[tuple[Node, int]] = []
            for left, at in live:
                node = trie.child(at, byte)
                if node < 0:
                    continue
                moved_on.append((left, node))
                for token, _ in model.covers.ending(node):
                    if model.validity.mask(left.context)[token]:
                        new = known[id(left), token] = self._next(left, token)
                        nodes.append(new)
                        moved_on.append((new, trie.root))
            live = moved_on
        if only_the_end:
            needed: set[int] = set()
            for left, _ in live:
                node_: Node | None = left
                while node_ is not None and id(node_) not in needed:
                    needed.add(id(node_))
                    node_ = node_.parent
            nodes = [node for node in nodes if id(node) in needed]
            known = {key: node for key, node in known.items() if id(node) in needed}
        return nodes, known

    def encodings(self) -> set[tuple[int, ...]]:
        """All covers of the text that have any probability, as token sequences since the last certain boundary."""
        found = {(*node.tokens(),) for node, _ in self.fresh}
        for group in self.groups:
            lo, _ = self.model.trie.span(group.at)
            probs = group.below(self.model.trie, group.at)
            left = group.left.tokens()
            found |= {(*left, int(self.model.trie.order[lo + i])) for i in np.flatnonzero(probs)}
        return found

    def visible(self, length: int) -> np.ndarray:
        """Which of the forest's slots its token sequences need."""
        seen = np.zeros(length, bool)
        for node in self._lefts():
            seen[: len(node.visible)] |= node.visible
            if node.parent is not None and not len(node.visible):
                seen[: len(node.parent.visible)] |= node.parent.visible
        return seen

    def _lefts(self) -> list[Node]:
        begun = self.__dict__.get("_begun", [])
        return [g.left for g in self.groups] + [node for node, _ in self.fresh] + [g.left for g in begun]

    def move(self, forest: TokenForest, row: int, slots: np.ndarray, count: int) -> None:
        """Take the token sequences to a compacted forest."""
        copies: dict[int, Node] = {}
        for node in self._lefts():
            if len(node.visible):
                copies[id(node)] = moved(node, slots, count)
            else:  # not asked about yet: its parent has the slots
                assert node.parent is not None
                parent = moved(node.parent, slots, count)
                copies[id(node)] = Node(node.token, parent, node.position, node.context)
        self.forest, self.row = forest, row
        self.groups = [replace(g, left=copies[id(g.left)]) for g in self.groups]
        self.fresh = [(copies[id(node)], mass) for node, mass in self.fresh]
        if "_begun" in self.__dict__:
            self.__dict__["_begun"] = [replace(g, left=copies[id(g.left)]) for g in self._begun]
