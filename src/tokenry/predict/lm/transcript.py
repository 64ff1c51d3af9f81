"""What has been written of a batch of texts: tokens, ends, and the model's scores as `generate` processes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from tokenry.predict.lm.tree import Draft


class Transcript:
    """What a call of `generate` has written behind each prompt, token by token as in plain decoding.

    Args:
        prompt: as `generate` hands it over, padded on the left.
        config: the options of `generate`.
        processors: of the logits.
        stopping: when a text ends.
        streamer: shown every token; None for nobody.

    Attributes:
        written: the new tokens of each row.
        done: whether each row has ended.
    """

    def __init__(
        self,
        prompt: Int[Tensor, "b s"],
        config: GenerationConfig,
        processors: LogitsProcessorList,
        stopping: StoppingCriteriaList,
        streamer: Any = None,
    ) -> None:
        self.prompt, self.config, self.streamer = prompt, config, streamer
        self.processors, self.stopping = processors, stopping
        self.written: list[list[int]] = [[] for _ in prompt]
        self.done = [False for _ in prompt]

    @property
    def tokens(self) -> int:
        """How many were written, over all rows."""
        return sum(map(len, self.written))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.written))

    def begin(self) -> None:
        """Show the prompt to the streamer, as `generate` does."""
        if self.streamer is not None:
            self.streamer.put(self.prompt.cpu())

    def end(self) -> None:
        """Tell the streamer that nothing follows."""
        if self.streamer is not None:
            self.streamer.end()

    def left(self, row: int) -> int:
        """How many tokens a row may still write."""
        return int(self.config.max_length) - self.prompt.shape[1] - len(self.written[row])

    def write(self, row: int, tokens: Sequence[int]) -> int:
        """Take over tokens one by one until a stopping criterion holds; how many were."""
        for count, token in enumerate(tokens, 1):
            self.written[row].append(token)
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            # Criteria may answer for each row by its number, so they see as many, of which this is one.
            ids = self._ids(row).expand(len(self.prompt), -1)
            if bool(self.stopping(cast(Any, ids), cast(Any, None))[row]):
                self.done[row] = True
                return count
        return len(tokens)

    def scores(
        self, row: int, logits: Float[Tensor, "n v"], draft: Draft, path: list[int]
    ) -> Float[Tensor, " v"]:
        """Processed logits at the end of a path of a draft's nodes."""
        raw = logits[path[-1]].to(torch.float32, copy=True)
        if not self.processors:
            return raw
        before = [int(draft.tokens[node]) for node in path[1:]]
        # Some processors know which row of the batch they see, so they see as many, of which this is one.
        rows = len(self.prompt)
        ids = self._ids(row, before).expand(rows, -1)
        return self.processors(cast(Any, ids), cast(Any, raw.repeat(rows, 1)))[row]

    def sequences(self) -> Int[Tensor, "b t"]:
        """Prompts and what was written, padded behind the end of shorter texts."""
        pad = self.config.pad_token_id
        pad = 0 if pad is None else int(pad)
        new = [[*tokens, *[pad] * (self.longest - len(tokens))] for tokens in self.written]
        tail = torch.tensor(new, dtype=self.prompt.dtype, device=self.prompt.device)
        return torch.cat([self.prompt, tail.reshape(len(new), self.longest)], 1)

    def _ids(self, row: int, more: Sequence[int] = ()) -> Int[Tensor, "1 t"]:
        """A row as transformers' criteria and processors want it: padded prompt and what follows."""
        new = torch.tensor([[*self.written[row], *more]], dtype=self.prompt.dtype, device=self.prompt.device)
        return torch.cat([self.prompt[row : row + 1], new], 1)
