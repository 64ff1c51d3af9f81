"""Byte-level probabilities of a tokenized language model (arXiv 2410.09303)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.hosts.encoding import start_id
from tokenry.hosts.treepass import require_trees
from tokenry.hosts.wrappers import unwrap
from tokenry.predict.lm.byte_probabilities.base import ByteLM, ByteLMState, check, generators
from tokenry.predict.lm.byte_probabilities.cache import PrefixNode, TokenForest
from tokenry.predict.lm.byte_probabilities.covers import Covers
from tokenry.predict.lm.byte_probabilities.fim import MiddleTokens, Order
from tokenry.predict.lm.byte_probabilities.impossible import refuse_impossible
from tokenry.predict.lm.byte_probabilities.rules import validity_of
from tokenry.predict.lm.byte_probabilities.state import ByteState, compact, evaluate
from tokenry.predict.lm.byte_probabilities.validity import Anything, Validity, ValidityContext
from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError
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


class ByteModel(ByteLM):
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
        self.covers = Covers(self.trie, validity, self.stops, fast, min_log_mass, max_groups)
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
        roots = forest.prefill([[*before, *s] for s in sequences], [ValidityContext()] * len(sequences))
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
    ) -> list[dict[tuple[int, int], PrefixNode]]:
        """Evaluate, in one forward pass, what stepping through texts will ask; see `ByteState.plan`."""
        self.evaluate(states)
        plans = [s.plan(text, only_the_end) for s, text in zip(states, texts, strict=True)]
        evaluate([(state, nodes) for state, (nodes, _) in zip(states, plans, strict=True)])
        return [known for _, known in plans]

    # ------------------------------------------------------------------------------- asking the model

    def evaluate(self, states: Sequence[ByteLMState]) -> None:
        """Ask the model what the states need to know, all of them in one forward pass."""
        own = [s for s in states if isinstance(s, ByteState) and s.model is self and s.waiting()]
        compact(own)  # before the waiting nodes are taken: it replaces them
        evaluate([(state, state.waiting()) for state in own])

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
                    refuse_impossible(self.stream(_bytes(prompt) + data), self.vocab, self.covers)
                state = state.step(byte, known)
        return np.array(found)

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
            refuse_impossible(self.stream(text), self.vocab, self.covers)
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
