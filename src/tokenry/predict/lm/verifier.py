"""The model's side of decoding with drafts: the prompt in the cache, and passes that judge drafts behind it.

A pass gets the root and the guesses of every row as one block, with a mask that lets each node see the cached text and
its own ancestors, and position ids by depth. The accepted path's keys and values are then moved to where the text ends;
the others are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from tokenry.hosts.reducing.ledger import columns_seen
from tokenry.hosts.treepass import (
    keep_rows,
    plain_layers,
    prepare,
    require_full_attention,
    tree_pass,
)
from tokenry.hosts.upstream import (
    Cache,
    cache_given,
    cache_of,
    longest_text,
    mask_width,
    read_prompt,
    release,
)
from tokenry.hosts.wrappers import virtual_tokens
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError, UnsupportedError


@dataclass(frozen=True, eq=False)
class ReadPrompt:
    """What a model made of the prompts.

    Attributes:
        texts: the tokens of each, without padding; none where it came as embeddings alone.
        logits: behind each.
        hidden: what entered the output layer at every token of each, if the proposer wants to see it.
    """

    texts: list[list[int]]
    logits: Float[Tensor, "b n v"]
    hidden: list[Float[Tensor, "_ d"]] | None


class Verifier:
    """A model with the texts of a batch in its cache, which judges drafts of how they go on.

    Args:
        model: the language model.
        prompt: as `generate` hands it over, padded on the left.
        columns: of the prompt: one that came as embeddings has no ids.
        config: the options of `generate`.
        proposer: whose drafts are judged; what it has to see is asked of it.

    Attributes:
        alive: which columns of the texts, cached ones and the prompt's first, are no padding.
        width: columns before those that were written.
        hidden: what entered the output layer in the last pass, if the proposer wants to see it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt: Int[Tensor, "b s"],
        columns: int,
        config: GenerationConfig,
        proposer: Proposer,
    ) -> None:
        self.model, self.prompt, self.columns, self.config = model, prompt, columns, config
        self.wants_hidden, self._reader = proposer.hidden, type(proposer).__name__
        self.cache: Cache | None = None
        self.hidden: Tensor | None = None
        self.alive: Bool[Tensor, "b t"]
        self.width = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what enters the output layer, for a proposer that wants it."""
        if not self.wants_hidden:
            yield
            return

        def heard(module: nn.Module, args: Any, output: Any) -> None:
            self.hidden = output[0]

        handle = cast(nn.Module, self.model.get_decoder()).register_forward_hook(heard)
        try:
            yield
        finally:
            handle.remove()

    # --- the prompt ------------------------------------------------------------------------------------------------

    def read(self, kwargs: dict[str, Any]) -> ReadPrompt:
        """The pass over the prompt, as the model itself prepares it.

        Args:
            kwargs: the model's arguments, as `generate` hands them over.

        Raises:
            InputError, UnsupportedError: a cache or a prompt that drafts cannot be judged behind.
        """
        self.alive = self._seen(kwargs.get("attention_mask"))
        real = self.alive[:, -self.columns :]
        texts = self._known(real)
        cache = cache_given(kwargs)
        self._open(cache)
        fresh = not columns_seen(cache)
        # Where the next token stands is the model's own business: multi-axis positions go on after the picture's.
        output, positions = read_prompt(self.model, self.prompt, self.config, kwargs)
        self._adopt(cache_of(output), fresh)
        self.positions = (
            torch.full((len(texts), 1), self.width, device=self.prompt.device)
            if positions is None
            else positions
        )
        return ReadPrompt(texts, output.logits, self._heard(real))

    def _seen(self, mask: Tensor | None) -> Bool[Tensor, "b t"]:
        """Which columns of the text are no padding: those in the cache of earlier turns, and the prompt's."""
        if mask is not None:
            return mask.bool()
        # `generate` leaves out a mask of ones, and notes how long it was: prompts may hold the new turn only.
        width = max(mask_width(self.config), self.columns)
        return self.prompt.new_ones(len(self.prompt), width, dtype=torch.bool)

    def _known(self, real: Bool[Tensor, "b s"]) -> list[list[int]]:
        """The tokens of each prompt, without padding; none where it came as embeddings alone."""
        if self.prompt.shape[1] == self.columns:
            return [row[keep].tolist() for row, keep in zip(self.prompt, real, strict=True)]
        if self.wants_hidden:
            raise UnsupportedError(
                f"{self._reader} reads the prompt's tokens, and this prompt came as `inputs_embeds` without them; "
                "hand in its `input_ids` too."
            )
        return [[] for _ in self.prompt]

    def _open(self, cache: Any) -> None:
        """Refuse a cache that cannot give tokens back before the prompt is read."""
        if not isinstance(cache, Cache):
            raise UnsupportedError(
                f"{type(self.model).__name__} keeps no cache of keys and values that tokens could be taken out of "
                "again; draft trees need attention in every layer."
            )
        if self.wants_hidden and cache.get_seq_length():
            raise UnsupportedError(
                f"{self._reader} reads the whole prompt, but the cache holds {cache.get_seq_length()} tokens of it "
                "already; leave the cache off."
            )
        new = int(self.config.max_length) - self.prompt.shape[1]
        require_full_attention(self.model, self.alive.shape[1] + new)
        prepare(cache)

    def _adopt(self, cache: Cache, fresh: bool) -> None:
        """The cache once the prompt is in it.

        Args:
            cache: what the model returned.
            fresh: whether nothing was in it before.
        """
        self.held = [layer.get_seq_length() for layer in plain_layers(cache)]
        virtual = virtual_tokens(self.model) if fresh else 0
        if virtual:
            self._put_in_front(virtual, columns_seen(cache) - self.alive.shape[1])
        if columns_seen(cache) != self.alive.shape[1]:
            raise InputError(
                f"Prompt and attention mask stand for {self.alive.shape[1]} tokens, the cache for "
                f"{columns_seen(cache)}. With a cache from an earlier turn, pass the new tokens and an "
                "attention mask over all of the text, outside `tokenry.reduced` if it was filled outside, else inside."
            )
        self.cache, self.width = cache, self.alive.shape[1]

    def _put_in_front(self, virtual: int, found: int) -> None:
        """Count the trained prompt that peft puts before the text."""
        if found != virtual:
            raise UnsupportedError(
                f"PEFT was to put {virtual} virtual tokens in front of the prompt, and {found} came to "
                f"{type(self.model).__name__}: these releases of peft and transformers ({release()}) do not know each "
                "other's names, and model.generate would decode without the trained prompt. Update peft."
            )
        self.alive = torch.cat([self.alive.new_ones(len(self.alive), virtual), self.alive], 1)

    def _heard(self, real: Bool[Tensor, "b s"]) -> list[Float[Tensor, "_ d"]] | None:
        """Hidden states of the prompts' tokens, if the proposer wants to see them."""
        if self.hidden is None:
            return None
        if self.hidden.shape[1] != real.shape[1]:
            raise UnsupportedError(
                f"{self._reader} reads the whole prompt in one pass; leave prefill_chunk_size off."
            )
        return [h[keep] for h, keep in zip(self.hidden, real, strict=True)]

    # --- drafts ----------------------------------------------------------------------------------------------------

    def fitting(self, limit: int) -> int:
        """Of so many guesses, those that stand within the model's positions: a table of them may end there.

        Texts that go on beyond their model's positions are the model's business, as without drafts.
        """
        longest = longest_text(self.model.config)
        free = -1 if longest is None else longest - self.alive.shape[1] - 1
        return min(limit, free) if free >= 0 else limit

    def judge(self, drafts: Sequence[Draft]) -> Float[Tensor, "b n v"]:
        """Logits at the nodes and probes of every row's draft; rows with fewer of them are padded."""
        device = self.prompt.device
        tokens, depth, sees = _laid_out(drafts)
        # What stands behind the longest text cannot be accepted; a table of positions may end there.
        room = int(self.config.max_length) - self.prompt.shape[1] - 2 - self.alive[:, self.width :].sum(1)
        depths = torch.minimum(torch.from_numpy(depth).to(device), room.clamp(min=0)[:, None])
        text = self.alive[:, None].expand(-1, tokens.shape[1], -1)
        output = tree_pass(
            self.model,
            self.cache,
            self._rows(drafts, torch.from_numpy(tokens).to(device)),
            torch.cat([text, torch.from_numpy(sees).to(device)], dim=-1),
            self.positions + depths,
            return_dict=True,
        )
        logits: Tensor = output.logits
        return logits

    def _rows(self, drafts: Sequence[Draft], tokens: Int[Tensor, "b n"]) -> dict[str, Tensor]:
        """The rows of a pass as ids, or as embeddings where some are no tokens."""
        if all(draft.probes is None for draft in drafts):
            return {"input_ids": tokens}
        embeddings = cast(nn.Module, self.model.get_input_embeddings())(tokens)
        for row, draft in enumerate(drafts):
            if draft.probes is not None:
                embeddings[row, draft.tree.n : draft.rows] = draft.probes.embeddings.to(embeddings)
        return {"inputs_embeds": embeddings}

    def accept(self, paths: Sequence[tuple[int, ...]], n: int) -> None:
        """Keep the accepted nodes' keys and values, right behind the text, and cut off the others.

        Args:
            paths: the nodes of each row that are text now.
            n: how many rows the last pass had.
        """
        longest = max(map(len, paths))
        slots = np.zeros((len(paths), longest), np.int64)
        real = np.zeros((len(paths), longest), bool)
        for row, path in enumerate(paths):
            slots[row, : len(path)], real[row, : len(path)] = path, True
        keep_rows(self.cache, n, slots)
        alive = torch.from_numpy(real).to(self.prompt.device)
        self.alive = torch.cat([self.alive, alive], 1)
        self.positions = self.positions + alive.sum(1)[:, None]

    def close(self, written: Sequence[list[int]]) -> None:
        """Leave the cache as plain decoding does: every token that was written, but the last of the longest text, lies
        where it stands in the text."""
        kept = self.config.return_dict_in_generate or getattr(self.cache, "_is_user_defined", False)
        if self.cache is None or not kept:
            return
        here = self.alive.shape[1] - self.width
        for layer, held in zip(plain_layers(self.cache), self.held, strict=True):
            layer.crop(min(0, held + here - layer.get_seq_length()))  # of a pass that was interrupted
        # Not all has been through the model: the last token of a text that ended early, what was being taken over
        # when an interruption came.
        most = max(map(len, written)) - 1
        cached = self.alive[:, self.width :].sum(1).tolist()
        late = [tokens[n : max(most, n)] for tokens, n in zip(written, cached, strict=True)]
        if any(late):
            self.judge([Draft.of(row[0], [row[1:]]) if row else Draft.of(0, []) for row in late])
            self.accept([tuple(range(len(row))) for row in late], max(map(len, late)))
        real = self.alive[:, self.width :].cpu().numpy()
        if not real.all():  # rows got on at different speeds
            order = np.argsort(~real, axis=1, kind="stable")
            keep_rows(self.cache, real.shape[1], order[:, : int(real.sum(1).max())])


def _laid_out(
    drafts: Sequence[Draft],
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "b n"], Bool[np.ndarray, "b n n"]]:
    """The nodes and probes of drafts as rows of one pass: tokens, depths, and which of its own rows each row sees."""
    n = max(draft.rows for draft in drafts)
    tokens = np.zeros((len(drafts), n), np.int64)
    depth = np.zeros((len(drafts), n), np.int64)
    sees = np.zeros((len(drafts), n, n), bool)
    sees[:, range(n), range(n)] = True  # padding sees itself, or its softmax would have nothing to sum
    for row, draft in enumerate(drafts):
        m, all_, tree = draft.tree.n, draft.rows, draft.tree
        tokens[row, :m], depth[row, :m], sees[row, :m, :m] = draft.tokens, tree.depth, tree.ancestors
        if (probes := draft.probes) is not None:
            depth[row, m:all_] = tree.depth[probes.after] + probes.depth
            sees[row, m:all_, :m] = tree.ancestors[probes.after]
            sees[row, m:all_, m:all_] = probes.sees
    return tokens, depth, sees
