"""Prompts by a model's own chat template, with texts of a user's in them that are text, whatever they say.

What `apply_chat_template` tokenizes is the prompt: the template's text put through a tokenizer again may begin with a
second BOS token. Control tokens in the user's texts are only letters (`tokenry.hosts.plain_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jinja2 import TemplateError

from tokenry.hosts.plain_text import PlainText
from tokenry.tokens.errors import InputError

Message: TypeAlias = Mapping[str, Any]
"""One turn of a chat as transformers has it: ``{"role": "user", "content": "..."}``."""


class ChatPrompt:
    """The chat template of a processor or tokenizer, to be filled with texts of a user's.

    Args:
        processor: a processor with a tokenizer, or a tokenizer; its template may come and go later.

    Attributes:
        plain: the same for texts outside a chat.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.plain = PlainText(processor)

    @property
    def templated(self) -> bool:
        """Whether there is a chat template."""
        return bool(getattr(self._processor, "chat_template", None))

    def encode(
        self,
        texts: Sequence[str],
        chats: Callable[[Sequence[str]], Sequence[Sequence[Message]]],
        otherwise: Callable[[Any, Sequence[str]], Mapping[str, Any]] | None = None,
        *,
        what: str = "this prompt",
        **options: Any,
    ) -> dict[str, Any]:
        """Make prompts of texts of a user's, each ending where the answer begins.

        Args:
            texts: what the user wrote.
            chats: texts -> chats with these texts in them, one for each row; whatever else stands in them is the
                program's own, and control tokens in it are control tokens.
            otherwise: ``(processor, texts)`` -> the prompts, where there is no chat template; see `PlainText.encode`.
                By default one prompt: the texts alone, a blank line between them.
            what: the prompts, in words for a message.
            **options: further ones of `apply_chat_template`.

        Returns:
            What the processor makes: tensors with a row for each prompt.

        Raises:
            InputError: the chat template refuses the chats.
        """

        def encode(processor: Any, plain: Sequence[str]) -> Mapping[str, Any]:
            if not self.templated:
                return (otherwise or _alone)(processor, plain)
            try:
                found: Mapping[str, Any] = processor.apply_chat_template(
                    [list(chat) for chat in chats(plain)],
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    add_generation_prompt=True,
                    **options,
                )
            except TemplateError as error:
                raise InputError(
                    f"The chat template of {type(processor).__name__} refuses {what}: {error}."
                ) from error
            return found

        return self.plain.encode(texts, encode)

    def ids(
        self,
        texts: Sequence[str],
        chat: Callable[[Sequence[str]], Sequence[Message]],
        otherwise: Callable[[Any, Sequence[str]], Mapping[str, Any]] | None = None,
        *,
        what: str = "this prompt",
    ) -> list[int]:
        """The ids of one prompt; see `encode`."""
        found = self.encode(texts, lambda plain: [chat(plain)], otherwise, what=what)
        return [int(token) for token in found["input_ids"][0]]

    def takes_system(self, system: str) -> bool:
        """Whether the chat template writes a system text: some have no system role, and refuse it or leave it out."""
        chat = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
        try:
            written = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            return False
        return system in str(written)


def _alone(tokenizer: Any, texts: Sequence[str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = tokenizer(["\n\n".join(texts)], return_tensors="pt", verbose=False)
    return found
