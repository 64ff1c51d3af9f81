"""The kinds of vocabulary that can be trained, by name. A new kind is one file and one entry here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerFast

from tokenry.text.kl3m import train_characters, train_domain
from tokenry.text.lib import Lib, train_lib
from tokenry.text.supertokens import train_supertokens
from tokenry.text.training import train_bpe
from tokenry.tokens.errors import InputError, UnknownNameError

Trainer = Callable[..., PreTrainedTokenizerFast]


@dataclass(frozen=True)
class Kind:
    """One kind of vocabulary.

    Attributes:
        name: as `train` and the command line take it.
        summary: one line.
        train: function of (texts, size, **options).
        normalizes: Unicode normal form that decoding gives back; None: the text itself.
        settings: dataclass whose fields the trainer takes by name, too (its ``**settings``); None: there is none.
    """

    name: str
    summary: str
    train: Trainer
    normalizes: str | None = None
    settings: type | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """What the trainer takes by name."""
        own = (n for n, p in signature(self.train).parameters.items() if p.kind is Parameter.KEYWORD_ONLY)
        further = () if self.settings is None else fields(self.settings)
        return (*own, *(field.name for field in further))


_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("bpe", "Byte-level BPE with GPT-2's word boundaries", train_bpe),
            Kind("supertoken", "BPE whose last merges go over word boundaries", train_supertokens),
            Kind(
                "lib", "A ranked lexicon of parts of words, words and phrases (LiB)", train_lib, settings=Lib
            ),
            Kind("kl3m-domain", "BPE with tokens for a domain's fixed strings", train_domain, "NFKC"),
            Kind("kl3m-char", "BPE with tokens of at most 3 or 4 bytes", train_characters, "NFKC"),
        )
    }
)


def kinds() -> Mapping[str, Kind]:
    """All kinds by name."""
    return _KINDS


def train(kind: str, texts: Iterable[str], size: int, **options: Any) -> PreTrainedTokenizerFast:
    """Train a vocabulary of a kind: ``train("bpe", texts, 16_000)``.

    Args:
        kind: a name of `kinds`.
        texts: documents.
        size: entries of the vocabulary.
        **options: of the kind's own trainer.

    Returns:
        A tokenizer that `save_tokenizer` writes and `AutoTokenizer` loads.

    Raises:
        UnknownNameError: no such kind.
        InputError: texts or options that the kind cannot be trained with.
    """
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_KINDS)}."
        raise UnknownNameError(f"There is no kind of vocabulary {kind!r}. {hint}")
    chosen = _KINDS[kind]
    if unknown := sorted(options.keys() - set(chosen.options)):
        raise InputError(
            f"{kind} has no option {', '.join(unknown)}; options of {kind} are {', '.join(chosen.options)}."
        )
    return chosen.train(texts, size, **options)
