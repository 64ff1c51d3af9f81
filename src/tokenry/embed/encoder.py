"""Sentence encoders: texts to vectors of length 1, from a transformers model or from any function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.upstream import longest_text
from tokenry.models.pretrained import find
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.pooling import Pooling, pool

Encoder = Callable[[list[str]], Any]
"""Texts to one vector each: a `SentenceEncoder`, the `encode` of a sentence-transformers model, a function of yours.

It may return an array, a tensor or a list of rows; `unit_vectors` checks what comes back.
"""

_POOLER: Final = r"(\w+\.)?pooler\."
"""BERT's own pooling, which a model trained with another head does not have; vectors are pooled here from states."""
_KNOWN_MODULES: Final = frozenset({"Transformer", "Pooling", "Normalize"})


class SentenceEncoder:
    """A transformers encoder, its last layer pooled to one vector of length 1 a text, in float32.

    Args:
        model: an encoder with `last_hidden_state`, such as `BertModel`.
        tokenizer: its tokenizer.
        pooling: "mean" over a text's tokens, padding left out; "cls" takes the first token.
        max_length: tokens of a text that are read; the rest is cut off. By default what model and tokenizer allow.
        batch: texts in one pass.

    Raises:
        InputError: the pooling is none of these, or batch or length is out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        pooling: Pooling = "mean",
        max_length: int | None = None,
        batch: int = 32,
    ) -> None:
        if pooling not in get_args(Pooling):
            raise InputError(f"Pooling is one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        longest = tokenizer.model_max_length
        longest = min(longest, longest_text(model.config) or longest)
        if batch < 1 or (max_length is not None and not 2 < max_length <= longest):
            raise InputError(
                f"Batch must be positive and max_length between 3 and the model's {longest}, "
                f"got batch={batch}, max_length={max_length}"
            )
        self.model, self.tokenizer, self.pooling, self.batch = model.eval(), tokenizer, pooling, batch
        self.max_length = max_length or longest

    @classmethod
    def load(cls, folder: str | Path = "minilm", *, batch: int = 32) -> Self:
        """Load an encoder in float32; what a sentence-transformers folder says of pooling and length is obeyed.

        Args:
            folder: "minilm" (all-MiniLM-L6-v2, 384 wide), a folder with a transformers model and its tokenizer, or a
                hub id.
            batch: texts in one pass.

        Raises:
            InputError: there is no such folder.
            UnsupportedError: the folder asks for something between pooling and vector that is not done here.
            PackageUnavailableError: MiniLM cannot be had here.
        """
        from transformers import AutoModel

        source = find(folder)
        pooling, max_length = _sentence_transformers_settings(source)
        return cls(
            source.model(AutoModel, spare=_POOLER, dtype=torch.float32),
            source.tokenizer(),
            pooling=pooling,
            max_length=max_length,
            batch=batch,
        )

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.model.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
        """Encode texts, in their order."""
        out = np.empty((len(texts), self.width), np.float32)
        rows = (
            self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
            if texts
            else []
        )
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # texts of one batch are about as long
        with torch.inference_mode():
            for at in range(0, len(order), self.batch):
                picked = order[at : at + self.batch]
                out[picked] = self._encode([rows[i] for i in picked]).cpu().numpy()
        return out

    def _encode(self, rows: list[list[int]]) -> Float[Tensor, "b width"]:
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(
            self.model.device
        )
        hidden = self.model(**padded).last_hidden_state.float()
        pooled = pool(hidden, padded["attention_mask"], self.pooling)
        return torch.nn.functional.normalize(pooled, dim=-1)


def unit_vectors(encoder: Encoder, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    """Encode texts and bring every vector to length 1.

    Clusters of vectors as they come would follow the texts' lengths, which some encoders' norms grow with.

    Args:
        encoder: see `Encoder`.
        texts: at least one.

    Raises:
        InputError: what the encoder returned is not one finite vector above zero for each text.
    """
    found = encoder(list(texts))
    if isinstance(found, Tensor):
        found = found.detach().float().cpu().numpy()
    try:
        vectors = np.asarray(found, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The encoder returned {type(found).__name__}, which is no array: {error}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise InputError(
            f"The encoder returned an array of shape {vectors.shape} for {len(texts)} texts; it must "
            "return one row each."
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InputError(
            f"The encoder returned a vector of length {norms[bad[0], 0]} for {_shown(texts[bad[0]])}; "
            "it has no direction."
        )
    return vectors / norms


def _sentence_transformers_settings(source: Checkpoint) -> tuple[Pooling, int | None]:
    """Pooling and length that a folder of sentence-transformers asks for; ("mean", None) if it is not one."""
    folder = source.name
    if not (modules := _json(source, "modules.json")):
        return "mean", None
    kinds = {entry["type"].rsplit(".", 1)[-1]: entry["path"] for entry in modules}
    if strange := sorted(set(kinds) - _KNOWN_MODULES):
        raise UnsupportedError(
            f"{folder} puts {', '.join(strange)} behind the encoder, which is not done here: load it with "
            "sentence-transformers and pass its `encode` as the encoder."
        )
    if kinds.get("Transformer"):
        raise UnsupportedError(
            f"{folder} keeps its transformer in {kinds['Transformer']}: name that folder instead."
        )
    length = _json(source, "sentence_bert_config.json").get("max_seq_length")
    pooling = _json(source, f"{kinds['Pooling']}/config.json") if "Pooling" in kinds else {}
    # two spellings: a flag for each mode, and, since sentence-transformers 5.4, one word
    modes = {
        n.removeprefix("pooling_mode_") for n, on in pooling.items() if n.startswith("pooling_mode_") and on
    }
    modes = {m.removesuffix("_tokens").removesuffix("_token") for m in modes} or {
        pooling.get("pooling_mode", "mean")
    }
    for known in get_args(Pooling):
        if modes == {known}:
            return known, length
    raise UnsupportedError(
        f"{folder} pools by {', '.join(sorted(modes))}; {' and '.join(get_args(Pooling))} are done here, the rest by "
        "sentence-transformers, whose `encode` is an encoder too."
    )


def _json(source: Checkpoint, name: str) -> Any:
    path = source.file(name)
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


def _shown(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[: length - 1] + "…")
