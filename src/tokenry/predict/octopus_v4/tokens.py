"""Functional tokens: one new vocabulary token for each thing that a language model can call (arXiv 2404.19296).

A call is ``<tok_3>('argument')<tok_end>``: the token says who is called, and what follows it is the request, reworded
for whoever that is. Choosing is therefore a single step of the model, a softmax over as many tokens as there are
workers. The reference (Octopus v4) writes ``<nexa_3>``; the prefix is a choice here.

In a call the argument is written with backslashes before quotes and backslashes and with line breaks as ``\\n``. The
reference writes it as it is, and its pattern then finds no call in one with an apostrophe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import nn

from tokenry.hosts.chat import ChatPrompt, Message
from tokenry.hosts.encoding import encode_plain
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError

SYSTEM: Final = "You are a router. Call the right function for the query."
_END: Final = "end of the call"
_ESCAPED: Final = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"}
_MEANT: Final = {written: plain for plain, written in _ESCAPED.items()} | {'\\"': '"'}


class ParsedCall(NamedTuple):
    """A call that was read out of a text."""

    worker: str
    argument: str


@dataclass(frozen=True)
class FunctionalTokens:
    """The functional tokens of a tokenizer, as `add_functional_tokens` made them.

    Attributes:
        workers: Whom the tokens call, by the number in the token's text.
        descriptions: What each of them does.
        ids: The id of each token.
        end: The id of the token that ends a call.
        prefix: Of the tokens' texts.
    """

    workers: tuple[str, ...]
    descriptions: tuple[str, ...]
    ids: tuple[int, ...]
    end: int
    prefix: str = "tok"

    @property
    def all_ids(self) -> tuple[int, ...]:
        """The ids of all new tokens, the end last."""
        return (*self.ids, self.end)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of all new tokens, the end last."""
        return _texts(self.prefix, len(self.workers))

    def id_of(self, worker: str) -> int:
        """Return the id of a worker's token.

        Raises:
            UnknownNameError: If no token calls such a worker.
        """
        if worker not in self.workers:
            raise UnknownNameError(
                f"No functional token calls {worker!r}; there are: {', '.join(self.workers)}"
            )
        return self.ids[self.workers.index(worker)]

    def format(self, worker: str, argument: str) -> str:
        """Write a call as text.

        Raises:
            UnknownNameError: If no token calls such a worker.
        """
        self.id_of(worker)
        return f"{self.texts[self.workers.index(worker)]}{_quoted(argument)}{self.texts[-1]}"

    def encode(self, tokenizer: Any, worker: str, argument: str) -> list[int]:
        """Write a call as ids. What looks like a functional token in the argument is encoded as the letters it is.

        Raises:
            UnknownNameError: If no token calls such a worker.
        """
        return [self.id_of(worker), *encode_plain(tokenizer, [_quoted(argument)])[0], self.end]

    def parse(self, text: str) -> ParsedCall | None:
        """Read the first call of a text; None if there is none that can be read.

        A call need not be ended if its argument is, and an argument whose quotes were not escaped is taken up to the
        last quote. What is cut off inside the argument is no call.
        """
        *calls, end = self.texts
        head = re.search("|".join(map(re.escape, calls)), text)
        if head is None:
            return None
        argument = _argument(text[head.end() :], end)
        return None if argument is None else ParsedCall(self.workers[calls.index(head[0])], argument)

    def decode(self, tokenizer: Any, ids: Sequence[int]) -> ParsedCall | None:
        """Read the first call of a row of ids, as `parse` does; only the tokens themselves count, not their letters."""
        place = next((i for i, token in enumerate(ids) if token in self.ids), None)
        if place is None:
            return None
        rest = list(ids[place + 1 :])
        rest = rest[: rest.index(self.end)] if self.end in rest else rest
        text = tokenizer.decode(rest, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        argument = _argument(text, None)
        return None if argument is None else ParsedCall(self.workers[self.ids.index(ids[place])], argument)

    def to_json(self) -> dict[str, Any]:
        """The tokens as JSON values."""
        return {
            "prefix": self.prefix,
            "end": self.end,
            "workers": [
                {"name": name, "id": token, "description": text}
                for name, token, text in zip(self.workers, self.ids, self.descriptions, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FunctionalTokens:
        """Read what `to_json` wrote.

        Raises:
            InputError: If it is something else.
        """
        try:
            rows = values["workers"]
            return cls(
                tuple(str(row["name"]) for row in rows),
                tuple(str(row["description"]) for row in rows),
                tuple(int(row["id"]) for row in rows),
                int(values["end"]),
                str(values["prefix"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is no description of functional tokens: {error!r}") from error


def add_functional_tokens(
    model: Any,
    tokenizer: Any,
    descriptions: Mapping[str, str],
    *,
    prefix: str = "tok",
    start: Literal["description", "mean"] = "description",
    seed: int = 0,
) -> FunctionalTokens:
    """Add a token for each worker, and one that ends calls, to a tokenizer and its model; both are changed.

    The tokens are special: never split, and never read out of text that is encoded as plain text. Rows are added to
    the embedding and to a head of its own; logits of old ids stay what they were.

    Args:
        model: A causal language model of transformers' form, with tied or untied head; not wrapped by peft yet.
        tokenizer: Its fast tokenizer.
        descriptions: Worker -> what it does, in a few words; the order numbers the tokens.
        prefix: Of the tokens' texts: "tok" makes ``<tok_0>``, ``<tok_1>``, ..., ``<tok_end>``.
        start: What a new row is: "description", the mean of the rows of the description's tokens; "mean", that of all
            rows, and noise of a hundredth of their standard deviation.
        seed: Of the noise.

    Raises:
        InputError: If there are no workers, a name or description is empty, the prefix is more than letters, digits and
            underscores, the tokens are there already, or the model is wrapped by peft.
        UnsupportedError: If the model's embedding is no table of rows, or the tokenizer splits the tokens.
    """
    from tokenizers import AddedToken

    if start not in ("description", "mean"):
        raise InputError(f'Start is "description" or "mean", got {start!r}')
    texts = _texts(prefix, len(descriptions))
    _check(model, tokenizer, descriptions, prefix, texts)
    pieces = encode_plain(tokenizer, [*descriptions.values(), _END])
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False, lstrip=False, rstrip=False) for text in texts],
        special_tokens=True,
    )
    ids = [int(tokenizer.convert_tokens_to_ids(text)) for text in texts]
    for text, token in zip(texts, ids, strict=True):
        if tokenizer(f"a{text}b", add_special_tokens=False)["input_ids"].count(token) != 1:
            raise UnsupportedError(f"{type(tokenizer).__name__} does not keep the added token {text} whole.")
    # A model padded to a round number of rows may have room: those rows belong to no token.
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head is not None:
        tables += [head.weight] if head.weight is not tables[0] else []
        tables += [head.bias] if getattr(head, "bias", None) is not None else []
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in tables:
            old = table[: min(ids)]
            if start == "description":
                rows = torch.stack([old[piece].float().mean(0) for piece in pieces])
            else:
                noise = torch.randn(len(ids), *old.shape[1:], generator=generator).to(old.device)
                rows = old.float().mean(0) + 0.01 * old.float().std(0) * noise
            table[ids] = rows.to(table.dtype)
    return FunctionalTokens(
        tuple(descriptions), tuple(descriptions.values()), tuple(ids[:-1]), ids[-1], prefix
    )


def _check(
    model: Any, tokenizer: Any, descriptions: Mapping[str, str], prefix: str, texts: Sequence[str]
) -> None:
    if not descriptions:
        raise InputError("There are no workers: name at least one, with a description.")
    for name, text in descriptions.items():
        if not name.strip() or not text.strip():
            raise InputError(f"Every worker needs a name and a description, got {name!r}: {text!r}")
    if not re.fullmatch(r"\w+", prefix):
        raise InputError(
            f"The prefix of the tokens is made of letters, digits and underscores, got {prefix!r}"
        )
    if there := sorted(set(texts) & set(tokenizer.get_vocab())):
        raise InputError(
            f"The tokenizer has the token {there[0]} already: load a fresh one, or choose another prefix."
        )
    if hasattr(model, "peft_config"):
        raise InputError("The model is wrapped by peft: add functional tokens first, and LoRA afterwards.")
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise UnsupportedError(f"{type(model).__name__} does not embed tokens with a table of rows.")


class CallPrompt:
    """The ids before a call: system text and query, in the chat form of the tokenizer if it has one.

    The query is encoded as plain text: control and functional tokens in it are only letters.

    Args:
        tokenizer: The model's fast tokenizer.
        tokens: Its functional tokens, to list them with their descriptions; None leaves that list out.
        system: What the model is told.
    """

    def __init__(
        self, tokenizer: Any, tokens: FunctionalTokens | None = None, *, system: str = SYSTEM
    ) -> None:
        if tokens is not None:
            rows = zip(tokens.texts[:-1], tokens.workers, tokens.descriptions, strict=True)
            system = "\n".join([system, *(f"{text}('query'): {name}: {what}" for text, name, what in rows)])
        self._prompt, self._system = ChatPrompt(tokenizer), system
        self._apart = self._prompt.templated and self._prompt.takes_system(system)

    def __call__(self, query: str) -> list[int]:
        """Return the ids of the prompt for a query.

        Raises:
            InputError: If the query is empty.
        """
        if not query.strip():
            raise InputError("The query is empty: there is nothing to route.")
        return self._prompt.ids([query], self._chat, self._encode)

    def _chat(self, texts: Sequence[str]) -> list[Message]:
        (query,) = texts
        if self._apart:
            return [{"role": "system", "content": self._system}, {"role": "user", "content": query}]
        return [{"role": "user", "content": f"{self._system}\n\n{query}"}]

    def _encode(self, tokenizer: Any, texts: Sequence[str]) -> Mapping[str, Any]:
        """The prompt for a tokenizer without a chat template."""
        (query,) = texts
        found = tokenizer([f"{self._system}\nQuery: {query}\nCall: "], return_tensors="pt")
        if found["input_ids"][0, -1] == tokenizer.eos_token_id:
            found = {name: value[:, :-1] for name, value in found.items()}  # a tokenizer that ends every text
        return dict(found)


# ------------------------------------------------------------------------------------------------ reading and writing


def _texts(prefix: str, count: int) -> tuple[str, ...]:
    return (*(f"<{prefix}_{number}>" for number in range(count)), f"<{prefix}_end>")


def _quoted(argument: str) -> str:
    return "('" + re.sub(r"[\\'\n\r]", lambda found: _ESCAPED[found[0]], argument) + "')"


def _argument(text: str, end: str | None) -> str | None:
    """What is called with, from what follows the functional token: as it was meant to be written, or nearly so."""
    tail = r"\s*\Z" if end is None else rf"\s*(?:{re.escape(end)}|\Z)"
    found = re.match(r"\s*\(\s*'((?:[^'\\]|\\.)*)'\s*\)" + tail, text, re.DOTALL)
    if found is None:
        text = text if end is None else text.partition(end)[0]
        found = re.match(r"\s*\(\s*(?P<quote>['\"])(?P<argument>.*)(?P=quote)\s*\)\s*\Z", text, re.DOTALL)
    if found is None:
        return None
    # a backslash before anything else is one that was not escaped: it stays
    return re.sub(r"\\.", lambda pair: _MEANT.get(pair[0], pair[0]), found[found.lastindex or 1])
