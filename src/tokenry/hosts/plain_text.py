"""User text in a prompt, tokenized as text: control tokens and picture markers written in it are only letters.

A tokenizer reads ``<|im_end|>`` out of any text it is given, whoever wrote it, and a processor takes the first
``<image>`` for the picture. An added token divides a text before anything else is done with it. So a token that means
nothing is put behind the first character of every control token of the user's, and is taken out of the ids again: the
control token is in two pieces then, and no vocabulary has a piece for the whole. (Asking the tokenizer to split
special tokens is not enough: WordPiece and Unigram vocabularies hold them as ordinary pieces too.) A text without
control tokens is not touched, and gets exactly the ids it always had.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Bool, Int
from tokenizers import AddedToken
from torch import Tensor

_BREAK: Final = "\U000f7b3c\U000f0d59"  # private use


class PlainText:
    """What a tokenizer or processor has for control tokens, and a way to encode texts of a user's around them.

    Control tokens are the tokenizer's special tokens, further added tokens that the chat template writes, and the
    markers that the processor replaces by pictures. One of a single character is a character and stays what it is.

    Args:
        processor: a processor with a tokenizer, or a tokenizer.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._starts: re.Pattern[str] | None = None
        self._size = -1

    def encode(
        self, texts: Sequence[str], encode: Callable[[Any, Sequence[str]], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Make a prompt of texts of a user's.

        Args:
            texts: what the user wrote.
            encode: ``(processor, texts)`` -> the prompts with the texts in them, a mapping of tensors with a row of
                `input_ids` for each, padded on the left. Called with the processor or tokenizer itself, or a copy that
                knows how to break tokens.

        Returns:
            What `encode` gave; where control tokens were broken, with one column for each id that stays.
        """
        mark = _BREAK
        while any(mark in text for text in texts):
            mark += _BREAK[0]
        broken = [self._break(text, mark) for text in texts]
        if broken == list(texts):
            return dict(encode(self._processor, texts))
        processor, token = _with_token(self._processor, mark)
        found = dict(encode(processor, broken))
        ids: Int[Tensor, "b s"] = found["input_ids"]
        padding = {"input_ids": _tokenizer_of(processor).pad_token_id or 0}
        return {
            name: _columns(value, ids.shape, ids != token, padding.get(name, 0))
            for name, value in found.items()
        }

    def ids(self, text: str, **options: Any) -> list[int]:
        """The ids of a text alone; `options` are the tokenizer's."""

        def encode(processor: Any, texts: Sequence[str]) -> Mapping[str, Any]:
            return dict(_tokenizer_of(processor)(list(texts), return_tensors="pt", verbose=False, **options))

        if not text:  # nothing to make a tensor of, unless the tokenizer puts something around it
            return list(_tokenizer_of(self._processor)(text, verbose=False, **options)["input_ids"])
        return [int(token) for token in self.encode([text], encode)["input_ids"][0]]

    def _break(self, text: str, mark: str) -> str:
        """The text with every control token in it in two."""
        ends = [found.start() + 1 for found in self._pattern().finditer(text)]
        edges = zip([0, *ends], [*ends, len(text)], strict=True)
        return mark.join(text[start:end] for start, end in edges)

    def _pattern(self) -> re.Pattern[str]:
        """What a control token begins at; made anew when tokens were added."""
        size = len(_tokenizer_of(self._processor))
        if self._starts is None or size != self._size:
            tokens = sorted(_control_tokens(self._processor))
            flags = re.IGNORECASE if _folds_case(_tokenizer_of(self._processor)) else re.NOFLAG
            self._starts = re.compile(f"(?={'|'.join(map(re.escape, tokens)) or '(?!)'})", flags)
            self._size = size
        return self._starts


def _tokenizer_of(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def _control_tokens(processor: Any) -> set[str]:
    """The texts that mean more than their letters."""
    tokenizer = _tokenizer_of(processor)
    templates = str([getattr(owner, "chat_template", None) for owner in (processor, tokenizer)])
    added = (
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in templates and not token.content.isspace())
    )
    return {name for name in (*added, *tokenizer.all_special_tokens, *_markers(processor)) if len(name) > 1}


def _folds_case(tokenizer: Any) -> bool:
    """Whether ``<EOS>`` is ``<eos>`` to a tokenizer."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and normalizer.normalize_str("<E>") == normalizer.normalize_str("<e>")


def _markers(processor: Any) -> Iterator[str]:
    """What a processor looks for in a prompt: ``image_token``, ``fake_image_token``, ``boi_token`` and the like."""
    if _tokenizer_of(processor) is processor:
        return
    for name in dir(processor):
        if name.endswith("_token") and isinstance(value := getattr(processor, name, None), str):
            yield value


def _with_token(processor: Any, text: str) -> tuple[Any, int]:
    """A copy of a processor or tokenizer with one more token, and that token's id."""
    tokenizer = copy.deepcopy(_tokenizer_of(processor))
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False, lstrip=False, rstrip=False)], special_tokens=True
    )
    if _tokenizer_of(processor) is processor:
        processor = tokenizer
    else:
        processor = copy.copy(processor)
        processor.tokenizer = tokenizer
    return processor, int(tokenizer.convert_tokens_to_ids(text))


def _columns(value: Any, shape: torch.Size, kept: Bool[Tensor, "b s"], padding: int) -> Any:
    """What stays, row by row, of whatever has a column for each id (masks, types of token); anything else as it is.

    Rows that lose more than others are padded on the left.
    """
    if not torch.is_tensor(value) or value.is_floating_point() or value.shape[:2] != shape:
        return value
    rows = [row[mask] for row, mask in zip(value, kept.to(value.device), strict=True)]
    width = max(map(len, rows))
    return torch.stack(
        [torch.cat([row.new_full((width - len(row), *row.shape[1:]), padding), row]) for row in rows]
    )
