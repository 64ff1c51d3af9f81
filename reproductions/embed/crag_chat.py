"""CRAG: the chat model that answers, with a memory of what it has answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokenry.bench.lines import digest
from tokenry.embed.chat import ChatModel, Completion
from tokenry.embed.encoder import SentenceEncoder
from tokenry.models.load import load
from tokenry.tokens.files import whole_file
from tokenry.train.language import small_llama


class Remembering:
    """A chat model that keeps its answers in a file: an interrupted reproduction goes on, and no prompt is paid twice.

    What an answer cost is kept with it, so that counts are those of a first run.
    """

    def __init__(self, model: ChatModel, path: Path) -> None:
        self.model, self.path = model, path
        self.known: dict[str, dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        )

    @property
    def context(self) -> int:
        """The model's."""
        return self.model.context

    def count(self, text: str) -> int:
        """By the model's tokenizer."""
        return self.model.count(text)

    def cut(self, text: str, limit: int) -> str:
        """By the model's tokenizer."""
        return self.model.cut(text, limit)

    def prompt_tokens(self, prompt: str) -> int:
        """By the model's tokenizer and template."""
        return self.model.prompt_tokens(prompt)

    def complete(self, prompts: Sequence[str], limit: int) -> list[Completion]:
        """Answer what was not answered before."""
        keys = [digest({"prompt": prompt, "limit": limit}) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.known}
        if new:
            found = self.model.complete(list(new.values()), limit)
            self.known |= {key: asdict(answer) for key, answer in zip(new, found, strict=True)}
            with whole_file(self.path) as scratch:
                scratch.write_text(json.dumps(self.known), encoding="utf-8")
        return [Completion(**self.known[key]) for key in keys]


def chat_model(name: str, encoder: SentenceEncoder) -> ChatModel:
    """SmolLM2, or a random model for rehearsals."""
    if name == "smollm2":
        return ChatModel(*load("smollm2", dtype=torch.bfloat16))
    tokenizer = encoder.tokenizer  # random weights, for rehearsals
    return ChatModel(
        small_llama(len(tokenizer), layers=1, width=32, heads=2, tied=False), tokenizer, context=8192
    )
