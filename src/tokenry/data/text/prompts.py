"""Prompts to measure decoding on: five classes that come with tokenry, and a user's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from tokenry.data.text.corpora import read_text
from tokenry.tokens.errors import InputError, UnknownNameError

_ROLES: Final = ("system", "user", "assistant")
_UNNAMED: Final = "prompts"

Prompts = Mapping[str, "tuple[Prompt, ...]"]
"""Prompts by class, in the order in which the classes first occur."""


@dataclass(frozen=True)
class Prompt:
    """What is put to a chat model.

    Attributes:
        name: unique within its class.
        messages: (role, content) of each, the last one not the assistant's.
    """

    name: str
    messages: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, text: str) -> Prompt:
        """A prompt that is one message of the user."""
        return cls(name, (("user", text),))

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return [{"role": role, "content": content} for role, content in self.messages]


def load_prompts(names: Sequence[str] | None = None) -> Prompts:
    """The prompts that come with tokenry: prose, code, list-making, summarise and edit-code, six of each.

    They were written for tokenry (licence Apache-2.0). The classes differ in how much of an answer can be guessed from
    the prompt: nothing in prose, nearly all in edited code. Every prompt has fewer than 500 tokens in the vocabularies
    in use.

    Args:
        names: the classes wanted; all of them if None.

    Raises:
        UnknownNameError: there is no such class.
    """
    text = (files("tokenry.data") / "assets" / "prompts.yaml").read_text(encoding="utf-8")
    known: dict[str, dict[str, str]] = yaml.safe_load(text)
    wanted = list(known) if names is None else list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in known]:
        raise UnknownNameError(f"There are no prompts of class {unknown[0]!r}; there are {', '.join(known)}.")
    return MappingProxyType(
        {kind: tuple(Prompt.of(name, one.strip()) for name, one in known[kind].items()) for kind in wanted}
    )


def read_prompts(path: str | Path) -> Prompts:
    """Read a file of prompts.

    JSON Lines (the name ends in ".jsonl", or the first character is a brace and the name does not end in ".txt"): one
    object a line, with ``"prompt"``, a text or a list of ``{"role": ..., "content": ...}``, and optionally ``"class"``
    and ``"name"``. Anything else is plain text: prompts divided by blank lines, or, if there are none, one a line.

    Raises:
        InputError: the file is missing, empty, not UTF-8, or a line of it is no prompt; the message names the line.
    """
    path = Path(path)
    text = read_text(path)
    if not text.strip():
        raise InputError(f'{path} is empty: write one prompt a line, or JSON Lines with a field "prompt".')
    is_json = path.suffix == ".jsonl" or (path.suffix != ".txt" and text.lstrip().startswith("{"))
    found: dict[str, list[Prompt]] = {}
    for kind, prompt in _json_lines(path, text) if is_json else _paragraphs(text):
        found.setdefault(kind, []).append(prompt)
    return MappingProxyType({kind: tuple(prompts) for kind, prompts in found.items()})


def _paragraphs(text: str) -> list[tuple[str, Prompt]]:
    lines = text.strip().splitlines()
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    texts = ["\n".join(block) for block in blocks] if len(blocks) > 1 else lines
    return [(_UNNAMED, Prompt.of(str(number), one.strip())) for number, one in enumerate(texts, 1)]


def _json_lines(path: Path, text: str) -> list[tuple[str, Prompt]]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"Line {number} of {path}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON ({error}): {line.strip()[:60]!r}") from error
        if not isinstance(entry, dict) or "prompt" not in entry:
            raise InputError(f'{where} has no field "prompt": {line.strip()[:60]!r}')
        kind, name = entry.get("class", _UNNAMED), entry.get("name", str(number))
        if not isinstance(kind, str) or not isinstance(name, str):
            raise InputError(f'{where}: "class" and "name" are texts, got {kind!r} and {name!r}.')
        found.append((kind, Prompt(name, _messages(entry["prompt"], where))))
    return found


def _messages(given: Any, where: str) -> tuple[tuple[str, str], ...]:
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given or not all(map(_is_message, given)):
        raise InputError(
            f'{where}: "prompt" is a text or a list of messages such as {{"role": "user", "content": "..."}} '
            f"(roles: {', '.join(_ROLES)}), with some text in each; got {str(given)[:60]}."
        )
    if given[-1]["role"] == "assistant":
        raise InputError(f"{where}: the last message is the assistant's, so there is nothing to answer.")
    return tuple((one["role"], one["content"]) for one in given)


def _is_message(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and one.get("role") in _ROLES
        and isinstance(one.get("content"), str)
        and bool(one["content"].strip())
    )
