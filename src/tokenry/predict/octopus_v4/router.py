"""A language model that routes: it writes a call of one of its functional tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor

from tokenry.hosts.upstream import longest_text
from tokenry.predict.octopus_v4.adapter import load_adapter, save_adapter
from tokenry.predict.octopus_v4.graph import Graph
from tokenry.predict.octopus_v4.tokens import CallPrompt, FunctionalTokens
from tokenry.tokens.errors import InputError, TokenryError


@dataclass(frozen=True)
class Written:
    """What a router wrote.

    Attributes:
        worker: Whom it calls; None if no call can be read out of it.
        argument: With what.
        confidence: Probability of the functional token among those allowed; of the likeliest one if `worker` is None.
        text: What it wrote, its special tokens included.
    """

    worker: str | None
    argument: str
    confidence: float
    text: str


@runtime_checkable
class Router(Protocol):
    """Whatever chooses among neighbours and words a request for the chosen one."""

    def write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
        """Choose one of the allowed nodes for each query, and write what to ask it."""
        ...


class FunctionalRouter:
    """A causal language model with functional tokens (arXiv 2404.19296).

    Args:
        model: With functional tokens in its vocabulary: wrapped by peft, or merged, which is faster. Put into
            evaluation mode.
        tokenizer: Its tokenizer.
        tokens: Its functional tokens.
        prompt: Query -> ids before a call; by default those that it was trained with, without descriptions.
        constrained: Only allowed functional tokens can come first, and none later but the end. The reference leaves
            its router free; what it writes then may be no call, or one of a node that is not allowed.
        max_new_tokens: Of a call; a longer one is cut off and cannot be read.
        batch: Queries at a time.

    Raises:
        InputError: If `max_new_tokens` or `batch` is too small.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tokens: FunctionalTokens,
        *,
        prompt: Callable[[str], list[int]] | None = None,
        constrained: bool = True,
        max_new_tokens: int = 64,
        batch: int = 16,
    ) -> None:
        if max_new_tokens < 2 or batch < 1:
            raise InputError(
                f"max_new_tokens must be at least 2 and batch at least 1, got {max_new_tokens}, {batch}"
            )
        self.model, self.tokenizer, self.tokens = model.eval(), tokenizer, tokens
        self.prompt = CallPrompt(tokenizer) if prompt is None else prompt
        self.constrained, self.max_new_tokens, self.batch = constrained, max_new_tokens, batch

    def write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
        """Write a call for each query, greedily.

        Args:
            queries: What is asked.
            allowed: Whom the router may call.

        Raises:
            InputError: If a query is empty or too long for the model, or nobody may be called.
            UnknownNameError: If one of the allowed has no functional token.
            TokenryError: If the model's logits are not finite.
        """
        return [
            written
            for at in range(0, len(queries), self.batch)
            for written in self._write(queries[at : at + self.batch], allowed)
        ]

    def confidences(self, queries: Sequence[str], allowed: Sequence[str]) -> Float[Tensor, "queries allowed"]:
        """Probability of each allowed token at the first step, without writing a call; arguments as for `write`."""
        ids = self._ids(allowed)
        rows = []
        for at in range(0, len(queries), self.batch):
            tokens, mask = self._pad(queries[at : at + self.batch])
            places = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                logits = self.model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=places,
                    logits_to_keep=1,
                    use_cache=False,
                ).logits[:, -1]
            rows.append(_confidences(logits, ids))
        return torch.cat(rows) if rows else torch.zeros(0, len(ids))

    def _write(self, queries: Sequence[str], allowed: Sequence[str]) -> list[Written]:
        prompts, mask = self._pad(queries)
        form = _CallForm(self.tokens, self._ids(allowed), prompts.shape[1], constrained=self.constrained)
        with torch.no_grad(), self._own_settings():
            rows = self.model.generate(input_ids=prompts, attention_mask=mask, logits_processor=[form])
        rows = rows[:, prompts.shape[1] :].tolist()
        return [
            self._read(row, chances, allowed) for row, chances in zip(rows, form.confidences, strict=True)
        ]

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Greedy decoding and nothing else: a penalty that the base model came with would bend what is called.

        transformers fills in from the model's own settings whatever a call leaves open, so these are put aside.
        """
        before = self.model.generation_config
        ends = getattr(before, "eos_token_id", None)
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=[self.tokens.end, *ends],
            pad_token_id=self.tokens.end,
        )
        try:
            yield
        finally:
            self.model.generation_config = before

    def _read(self, row: list[int], chances: Float[Tensor, " allowed"], allowed: Sequence[str]) -> Written:
        end = row.index(self.tokens.end) + 1 if self.tokens.end in row else len(row)
        text = self.tokenizer.decode(row[:end], skip_special_tokens=False)
        call = self.tokens.decode(self.tokenizer, row[:end])
        if call is None or call.worker not in allowed:
            return Written(None, "", float(chances.max()), text)
        return Written(call.worker, call.argument, float(chances[list(allowed).index(call.worker)]), text)

    def _ids(self, allowed: Sequence[str]) -> list[int]:
        if not allowed:
            raise InputError("Nobody may be called: allow at least one worker.")
        return [self.tokens.id_of(name) for name in allowed]

    def _pad(
        self, queries: Sequence[str]
    ) -> tuple[Int[Tensor, "queries length"], Int[Tensor, "queries length"]]:
        """Prompts with padding in front, and where they are."""
        rows = [torch.tensor(self.prompt(query)) for query in queries]
        longest = max(map(len, rows))
        limit = longest_text(self.model.config)
        if limit is not None and longest + self.max_new_tokens > limit:
            raise InputError(
                f"A query makes a prompt of {longest} tokens, and with {self.max_new_tokens} for the call it does not "
                f"fit into the router's {limit}: shorten it, or lower max_new_tokens."
            )
        in_front = partial(pad_sequence, batch_first=True, padding_side="left")
        ids = in_front(rows, padding_value=self.tokens.end)
        mask = in_front([torch.ones_like(row) for row in rows])
        return ids.to(self.model.device), mask.to(self.model.device)

    def save(self, folder: str | Path, graph: Graph) -> None:
        """Write adapter, new rows, tokens and graph; complete or not at all.

        Raises:
            InputError: If the model has no adapter any more (it was merged), or the folder cannot be written.
        """
        save_adapter(folder, self.model, self.tokens, {"graph": graph.to_json()})

    @classmethod
    def load(
        cls, folder: str | Path, model: Any, tokenizer: Any, *, merge: bool = True, **options: Any
    ) -> tuple[FunctionalRouter, Graph]:
        """Read what `save` wrote, on the model that was trained; arguments as for `load_adapter` and the class.

        Raises:
            InputError: If the folder holds something else, or it does not fit the model or the tokenizer.
        """
        loaded = load_adapter(folder, model, tokenizer, merge=merge)
        if "graph" not in loaded.about:
            raise InputError(f"{folder} holds functional tokens, but no graph.")
        return cls(loaded.model, tokenizer, loaded.tokens, **options), Graph.from_json(loaded.about["graph"])


class _CallForm(LogitsProcessor):
    """The first token calls somebody allowed, the others are no calls; and how sure the model was of the first."""

    def __init__(
        self, tokens: FunctionalTokens, allowed: Sequence[int], start: int, *, constrained: bool
    ) -> None:
        self.tokens, self.allowed, self.start, self.constrained = tokens, list(allowed), start, constrained
        self.confidences = torch.zeros(0, len(allowed))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        first = input_ids.shape[1] == self.start
        if first:
            self.confidences = _confidences(scores, self.allowed)
        if not self.constrained:
            return scores
        if first:
            masked = torch.full_like(scores, -torch.inf)
            masked[:, self.allowed] = scores[:, self.allowed]
        else:
            masked = scores.clone()
            masked[:, list(self.tokens.ids)] = -torch.inf
        return masked


def _confidences(
    logits: Float[Tensor, "rows vocabulary"], ids: Sequence[int]
) -> Float[Tensor, "rows allowed"]:
    """Probabilities of the allowed tokens, renormalised over them; in float32."""
    # minus infinity is what the model's generation settings forbid (min_new_tokens, say), and no fault
    if (logits.isnan() | logits.isposinf()).any():
        raise TokenryError("The router's logits are not finite: its weights, or their precision, are broken.")
    return logits[:, list(ids)].float().softmax(-1).cpu()
