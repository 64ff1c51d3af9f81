"""The decoders that can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from tokenry.tokens.errors import UnknownNameError

_HOMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "flash": "tokenry.predict.lm.flash:Flash",
        "ppd": "tokenry.predict.lm.ppd:ParallelPromptDecoding",
        "prompt-lookup": "tokenry.predict.lm.prompt_lookup:PromptLookup",
        "recycling+lookup": "tokenry.predict.lm.token_recycling:RecyclingWithLookup",
        "token-recycling": "tokenry.predict.lm.token_recycling:TokenRecycling",
    }
)


class _Decoders:
    default = "recycling+lookup"

    def names(self) -> tuple[str, ...]:
        return tuple(_HOMES)

    def get(self, name: str) -> Any:
        if name not in _HOMES:
            raise UnknownNameError(f"No decoder is called {name!r}; there are {', '.join(_HOMES)}.")
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(module), attribute)


DECODERS: Final = _Decoders()
