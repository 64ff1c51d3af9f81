"""Generating from a vocabulary far larger than the model's own: rows made in advance, candidates by angle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.text.knn import KnnIndex
from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett.network import HypernetOutput, Hypernetwork, MeanOfPieces, is_tied, source_rows
from tokenry.text.zett.surface import Surfaces
from tokenry.text.zett.swap import embed
from tokenry.tokens.errors import InputError, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next token is chosen among the candidates.

    Attributes:
        candidates: tokens retrieved a step, by cosine.
        nprobe: cells of the index to look at; all by default.
        temperature: 0 takes the best.
        top_k: of the candidates, by exact logit, that may be drawn.
        min_p: and of those, with at least this share of the best one's probability.
        eos_bias: added to the logit of the end of text, which always is a candidate.
        ban_ngram: a token that would repeat this many tokens in a row is not taken; 0 allows it.
    """

    candidates: int = 20
    nprobe: int | None = None
    temperature: float = 0.0
    top_k: int = 10
    min_p: float = 0.0
    eos_bias: float = 0.0
    ban_ngram: int = 10

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.top_k < 1 or self.ban_ngram < 0 or self.temperature < 0:
            raise InputError(
                "Candidates and top_k must be at least 1, temperature and ban_ngram not negative; got "
                f"{self.candidates}, {self.top_k}, {self.temperature}, {self.ban_ngram}"
            )
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is a share of the best probability, 0 .. 1; got {self.min_p}")


class LargeVocabulary:
    """A causal language model with a vocabulary extended by any number of tokens, for generation.

    The last part of dynamic tokenization (arXiv 2411.18553): there, a million tokens. Rows of all tokens are predicted
    once; tokens of the model keep their own. A text is read by longest prefixes, which needs no merges. A step
    retrieves the candidates whose head rows point the way of the hidden state (an index over unit rows), and judges
    these by exact inner products with the rows as they are: the nearest by angle need not have the largest logits,
    which is why more are retrieved than are drawn from.

    Args:
        model: with a head that is a plain matrix.
        tokenizer: its own.
        tokens: bytes of the further tokens; those that the model has are left out.
        hypernet: predicts their rows; the mean of the pieces' rows without one.
        cells: k-means cells of the index; 0 searches exactly.

    Raises:
        UnsupportedError: a model that does not predict next tokens, or whose head does more than multiply.
        InputError: no further token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tokens: Iterable[bytes],
        hypernet: Hypernetwork | None = None,
        *,
        cells: int = 0,
    ) -> None:
        head = model.get_output_embeddings()
        if not model.can_generate() or not isinstance(head, nn.Linear):
            raise UnsupportedError(f"{type(model).__name__} has no head that is a matrix of one row a token.")
        if getattr(model.config, "final_logit_softcapping", None):
            raise UnsupportedError(f"{type(model).__name__} caps its logits, which inner products do not.")
        self.model = model
        self.vocabulary = ByteVocab.from_tokenizer(tokenizer)
        own = self.vocabulary.token_bytes
        added = [token for token in dict.fromkeys(tokens) if token and token not in self.vocabulary.ids]
        if not added:
            raise InputError("The vocabulary has no token that the model does not have already.")
        self.token_bytes: tuple[bytes | None, ...] = (*own, *added)
        self.eos = tokenizer.eos_token_id
        self.tokenizer = tokenizer
        made = self._predicted(hypernet, added)
        rows = model.get_input_embeddings().weight.detach()
        self.input_rows = _extended(rows, len(own), made.input_embeddings)
        tied = made.output_embeddings is None
        self.output_rows = (
            self.input_rows if tied else _extended(head.weight.detach(), len(own), made.output_embeddings)
        )
        self.bias = self.output_rows.new_zeros(len(self.token_bytes), dtype=torch.float32)
        if head.bias is not None:  # the further tokens get the average one
            known = head.bias.detach()[: len(own)].float()
            self.bias[: len(known)], self.bias[len(own) :] = known, known.mean()
        # Where the model has some bytes twice, the token that it reads them with; special tokens are never candidates.
        readable = sorted({*self.vocabulary.ids.values(), *range(len(own), len(self.token_bytes))})
        self._readable = torch.tensor(readable, device=rows.device)
        self.index = KnnIndex(self.output_rows[self._readable], cells=cells)
        chosen = set(readable)
        self._trie = ByteTrie.build([t if i in chosen else None for i, t in enumerate(self.token_bytes)])

    def encode(self, text: str | bytes) -> list[int]:
        """Token ids by longest prefixes.

        Raises:
            InputError: a byte that no token begins with.
        """
        data = text.encode() if isinstance(text, str) else text
        ids, at = [], 0
        while at < len(data):
            token, length = self._trie.longest_prefix(data, at)
            if not length:
                raise InputError(f"No token begins with byte 0x{data[at]:02X} at offset {at}")
            ids.append(token)
            at += length
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of token ids; special tokens have none."""
        return b"".join(self.token_bytes[token] or b"" for token in ids)

    @torch.no_grad()
    def generate(
        self,
        prompt: str | bytes,
        max_new_tokens: int = 50,
        decoding: Decoding | None = None,
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """Continue a prompt.

        Args:
            prompt: read by longest prefixes, after the special tokens and the space that the tokenizer puts before a
                text.
            max_new_tokens: stop after so many, or at the end of text.
            decoding: how tokens are chosen; greedily by default.
            generator: draws them, at a temperature above 0.

        Returns:
            Ids of the new tokens (see `decode`), without that of the end of text.

        Raises:
            InputError: an empty prompt for a model that begins with no special token.
        """
        decoding = decoding or Decoding()
        data = prompt.encode() if isinstance(prompt, str) else prompt
        seen = self.vocabulary.as_seen(data) if data else data
        ids = [*self.tokenizer("")["input_ids"], *self.encode(seen)]
        if not ids:
            raise InputError("The prompt is empty, and this tokenizer has no token to begin with.")
        body, cache, start = self.model.base_model, None, len(ids)
        new = ids
        for _ in range(max_new_tokens):
            embeds = embed(self.model, self.input_rows, torch.tensor([new], device=self.input_rows.device))
            out = body(inputs_embeds=embeds, **with_cache(body, cache), use_cache=True)
            cache = cache_of(out)
            token = self._next(out.last_hidden_state[0, -1].float(), ids, decoding, generator)
            if token is None or token == self.eos:
                break
            ids.append(token)
            new = [token]
        return ids[start:]

    def _next(
        self,
        hidden: Float[Tensor, " d"],
        ids: list[int],
        decoding: Decoding,
        generator: torch.Generator | None,
    ) -> int | None:
        """The next token; None if all candidates would repeat themselves."""
        k = min(decoding.candidates, len(self.index))
        found = self.index.search(hidden[None], k, nprobe=decoding.nprobe).ids[0]
        candidates = self._readable[found[found >= 0]]
        if self.eos is not None:
            candidates = torch.cat([candidates, candidates.new_tensor([self.eos])])
        logits = self.output_rows[candidates].float() @ hidden + self.bias[candidates]
        if self.eos is not None:
            logits[-1] += decoding.eos_bias
        banned = _repeats(ids, decoding.ban_ngram)
        if banned:
            logits[
                torch.isin(candidates, torch.tensor(sorted(banned), device=candidates.device))
            ] = -torch.inf
        if not torch.isfinite(logits).any():
            return None
        if decoding.temperature == 0:
            return int(candidates[logits.argmax()])
        best, at = logits.topk(min(decoding.top_k, len(logits)))
        p = (best / decoding.temperature).softmax(0)
        p = torch.where(p >= decoding.min_p * p.max(), p, 0.0)
        return int(candidates[at[torch.multinomial(p, 1, generator=generator)]])

    def _predicted(self, hypernet: Hypernetwork | None, added: list[bytes]) -> HypernetOutput:
        source = source_rows(self.model)
        pieces = 7 if hypernet is None else hypernet.config.pieces
        surface = Surfaces(self.vocabulary, len(source), pieces).matrix(added).to(source.device)
        return (hypernet or MeanOfPieces(is_tied(self.model))).predict(surface, source)


def _extended(rows: Float[Tensor, "rows d"], own: int, made: Tensor | None) -> Float[Tensor, "v d"]:
    """The rows of the model's own tokens (without filler rows) and those of the further ones.

    Special tokens that the model has no row for get zeros: they are never candidates.
    """
    known = F.pad(rows[:own], (0, 0, 0, max(0, own - len(rows))))
    return known if made is None else torch.cat([known, made.to(rows)])


def _repeats(ids: list[int], n: int) -> set[int]:
    """Tokens that would complete n tokens in a row that were there before."""
    if n == 0 or len(ids) < n:
        return set()
    last = ids[len(ids) - n + 1 :]
    return {ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last}
