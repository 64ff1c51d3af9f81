"""Chat models as a pipeline needs them: count tokens, cut texts to a number of them, complete prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch.nn.utils.rnn import pad_sequence

from tokenry.hosts.chat import ChatPrompt, Message
from tokenry.hosts.upstream import longest_text
from tokenry.tokens.errors import InputError, UnsupportedError

_GREEDY: Final[Mapping[str, Any]] = MappingProxyType({"do_sample": False})
_PADDED: Final = 1.5  # times its length a prompt may be padded to


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: without special tokens and outer white space.
        prompt_tokens: of the prompt as the model read it, chat template included.
        new_tokens: written, the end token included; 0 if the model was not asked.
    """

    text: str
    prompt_tokens: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.new_tokens


@runtime_checkable
class Ruler(Protocol):
    """What measures texts in tokens."""

    def count(self, text: str) -> int:
        """Tokens of a text alone, special tokens not counted."""
        ...

    def cut(self, text: str, limit: int) -> str:
        """The longest beginning of a text that has at most ``limit`` tokens and, if possible, ends with a word."""
        ...

    def prompt_tokens(self, prompt: str) -> int:
        """Tokens of a prompt as the model reads it: chat template and special tokens included."""
        ...


@runtime_checkable
class LanguageModel(Ruler, Protocol):
    """A model that answers prompts: `ChatModel`, or a class of yours around a server's API."""

    @property
    def context(self) -> int:
        """Most tokens that prompt and answer may have together."""
        ...

    def complete(self, prompts: Sequence[str], limit: int) -> list[Completion]:
        """Answer each prompt with at most ``limit`` new tokens."""
        ...


class TokenRuler:
    """Counts with a tokenizer. Enough where prompts are only made and counted, and another program answers them.

    Special tokens that stand in a text are its letters: a review that says ``<|im_end|>`` must not end the turn it is
    quoted in.

    Args:
        tokenizer: a fast tokenizer, with a chat template or without.

    Raises:
        UnsupportedError: the tokenizer is not a fast one, which alone knows where in the text its tokens are.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedError(
                f"{type(tokenizer).__name__} cannot tell where in a text its tokens are; use the fast tokenizer "
                "(AutoTokenizer gives it)"
            )
        self.tokenizer = tokenizer
        self._prompt = ChatPrompt(tokenizer)

    def count(self, text: str) -> int:
        """See `Ruler.count`."""
        return len(self._prompt.plain.ids(text, add_special_tokens=False))

    def cut(self, text: str, limit: int) -> str:
        """See `Ruler.cut`."""
        if limit < 1:
            raise InputError(f"A text cannot be cut to {limit} tokens.")
        if self.count(text) <= limit:
            return text
        found = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        ends = [end for _, end in found["offset_mapping"]]
        head = text[: ends[min(limit, len(ends)) - 1]]
        if not text[len(head) :][:1].isspace() and len(words := head.rsplit(None, 1)) == 2:
            head = words[0]
        while self.count(head) > limit:  # rare: a beginning can have more tokens than the whole gave it
            head = head[:-1]
        return head

    def prompt_tokens(self, prompt: str) -> int:
        """See `Ruler.prompt_tokens`."""
        return len(self._prompt_ids(prompt))

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self._prompt.ids([prompt], _one_turn)


def _one_turn(texts: Sequence[str]) -> list[Message]:
    """A chat that begins with what the user says."""
    return [{"role": "user", "content": text} for text in texts]


class ChatModel(TokenRuler):
    """A causal transformers model behind its chat template, answering through `model.generate`.

    Args:
        model: with `generate`; put into evaluation mode.
        tokenizer: its fast tokenizer. Without a chat template the prompt is what the model continues.
        context: most tokens of prompt and answer together; by default what model and tokenizer allow.
        batch: prompts in one call of `generate`, padded on the left.
        generation: options of `generate`, greedy by default: ``{"repetition_penalty": 1.1}``, ``{"do_sample": True,
            "temperature": 0.7}``, ``{"custom_generate": tokenry.predict.lm.speculate.Speculation(...)}``.

    Raises:
        InputError: batch or context is below 1.
        UnsupportedError: no context was given and neither model nor tokenizer tells one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context: int | None = None,
        batch: int = 4,
        generation: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(tokenizer)
        if batch < 1 or (context is not None and context < 1):
            raise InputError(f"Batch and context must be positive, got {batch} and {context}")
        self.model, self.batch, self.generation = model.eval(), batch, {**_GREEDY, **generation}
        self._context = context or _context(model, tokenizer)

    @property
    def context(self) -> int:
        """See `LanguageModel.context`."""
        return self._context

    def complete(self, prompts: Sequence[str], limit: int) -> list[Completion]:
        """Answer each prompt with at most ``limit`` new tokens.

        Raises:
            InputError: a prompt and its answer do not fit the context, or the limit is below 1.
        """
        if limit < 1:
            raise InputError(f"An answer needs at least one token, got a limit of {limit}")
        rows = [self._prompt_ids(prompt) for prompt in prompts]
        longest = max(map(len, rows), default=0)
        if longest + limit > self.context:
            raise InputError(
                f"A prompt of {longest} tokens and an answer of {limit} do not fit the model's context of "
                f"{self.context}: put fewer or shorter texts into the prompt (for plain retrieval, a smaller `top`)"
            )
        found: dict[int, Completion] = {}
        for picked in self._batches([len(row) for row in rows]):
            found |= zip(picked, self._generate([rows[i] for i in picked], limit), strict=True)
        return [found[i] for i in range(len(rows))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Prompts of about the same length together: what stands beside a much longer one is mostly padding."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and (len(batch) == self.batch or lengths[i] > _PADDED * lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _generate(self, rows: Sequence[list[int]], limit: int) -> list[Completion]:
        ends = self._end_ids()
        pad = self.tokenizer.pad_token_id
        pad = (ends[0] if ends else 0) if pad is None else pad
        prompts = [torch.tensor(row, device=self.model.device) for row in rows]
        in_front = partial(pad_sequence, batch_first=True, padding_side="left")
        ids, mask = in_front(prompts, padding_value=pad), in_front([torch.ones_like(row) for row in prompts])
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=limit, pad_token_id=pad, **self.generation
            )
        answers = [self._up_to_end(new, ends) for new in out[:, ids.shape[1] :].tolist()]
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [
            Completion(text.strip(), len(row), len(answer))
            for text, row, answer in zip(texts, rows, answers, strict=True)
        ]

    def _end_ids(self) -> list[int]:
        own = self.model.generation_config.eos_token_id
        ends = self.generation.get("eos_token_id", own)
        return [] if ends is None else [int(e) for e in (ends if isinstance(ends, (list, tuple)) else [ends])]

    @staticmethod
    def _up_to_end(new: list[int], ends: Sequence[int]) -> list[int]:
        """The tokens up to the first end token, which counts: behind it is padding for longer rows."""
        first = next((at for at, token in enumerate(new) if token in ends), len(new))
        return new[: first + 1]


def _context(model: Any, tokenizer: Any) -> int:
    limits = [longest_text(model.config), tokenizer.model_max_length]
    told = [int(limit) for limit in limits if limit is not None and limit < 1e9]  # "unknown" is 1e30
    if not told:
        raise UnsupportedError(
            f"Neither {type(model).__name__} nor its tokenizer says how many tokens it can read: pass context=."
        )
    return min(told)
