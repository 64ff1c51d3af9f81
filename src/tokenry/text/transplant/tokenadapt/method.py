"""TokenAdapt: a new row from the token's old pieces, by meaning and length, and from its nearest old tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.text.knn import KnnIndex
from tokenry.text.string_vectors import AuxEmbedder, SentenceVectors
from tokenry.text.transplant.base import Context, Mixing, Mixture
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.transplant.ragged import flatten, group_softmax
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

_EPSILON = 1e-5  # added to the temperature of the local part, as coded
_QUERIES = 2048  # tokens whose neighbours are searched at a time: the scores of a block stay in 100 MB


@dataclass(frozen=True, kw_only=True)
class TokenAdapt(Mixing):
    """Blend of a local and a global estimate, both weighted means of old rows.

    *Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning*, arXiv
    2505.09738. Local: the new token's string is cut into old pieces; a piece counts for its meaning (softmax of the
    cosine to the whole string, in an external embedding space) and its length (share of characters), averaged and put
    through a softmax once more, as coded: at this temperature pieces of a long token end up nearly equal. Global: the
    old tokens nearest to the string in the same space, by softmax of their cosines. The same weights serve the input
    and the head. Cost: one external vector per distinct token string of both vocabularies (seconds to a minute with
    MiniLM on a CPU, kept in a cache), and one matrix product of the two.

    The authors embed with nomic-embed-text-v2-moe; the default here is MiniLM, which ignores case and outer white
    space, so that " The" and "the" are equally near. Equal tokens are found by bytes, not by surface strings. A byte
    sequence that is no text has no meaning to embed: it takes its pieces by length alone, and as a piece it counts
    with cosine 0.

    Attributes:
        temperature: of all three softmaxes; the local ones add 1e-5.
        top_k: neighbours of the global part.
        weight: of the global part; 0 is local only, 1 global only.
        threshold: the global part is left out where even the best cosine is below this. The published default 0 means
            no threshold, also for negative cosines.
    """

    slug: ClassVar[str] = "tokenadapt"

    temperature: float = 0.3
    top_k: int = 3
    weight: float = 0.3
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 1 or not 0 <= self.weight <= 1:
            raise InputError(
                "tokenadapt: temperature must be positive, top_k at least 1 and weight between 0 and 1, got "
                f"{self.temperature}, {self.top_k}, {self.weight}."
            )

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture:
        """Both parts, blended where a token has both."""
        n = len(plan.unique)
        if n == 0:
            return Mixture.empty(0)
        vectors = SentenceVectors.minilm() if context.vectors is None else context.vectors
        old = _vectors(plan.source, range(plan.source.size), vectors)
        new = _vectors(plan.target, plan.unique.tolist(), vectors)
        row, ids = flatten(plan.pieces)
        local = self.local_weights((new[row] * old[ids]).sum(1), _length_shares(plan, row, ids), row, n)
        near, shares = self._neighbours(new, old)
        has_local = torch.bincount(row, minlength=n) > 0
        has_global = (near >= 0).any(1)
        global_share = torch.where(has_local, self.weight, 1.0) * has_global
        chosen = near >= 0
        return Mixture.of(
            torch.cat([row, chosen.nonzero()[:, 0]]),
            torch.cat([ids, near[chosen]]),
            torch.cat([local * (1 - global_share)[row], (shares * global_share[:, None])[chosen]]),
            n,
        )

    def local_weights(
        self,
        cosines: Float[Tensor, " pieces"],
        lengths: Float[Tensor, " pieces"],
        token: Int[Tensor, " pieces"],
        n: int,
    ) -> Float[Tensor, " pieces"]:
        """Weights of the old pieces of n tokens.

        Args:
            cosines: of each piece to the whole token.
            lengths: share of the token's characters.
            token: which token a piece belongs to.
            n: number of tokens.
        """
        temperature = self.temperature + _EPSILON
        meaning = group_softmax(cosines / temperature, token, n)
        return group_softmax((meaning + lengths) / 2 / temperature, token, n)

    def global_weights(self, cosines: Float[Tensor, "tokens k"]) -> Float[Tensor, "tokens k"]:
        """Weights of the nearest old tokens; -inf stands for none."""
        return torch.softmax(cosines / self.temperature, 1).nan_to_num(0.0)

    def _neighbours(
        self, new: Float[Tensor, "tokens width"], old: Float[Tensor, "source width"]
    ) -> tuple[Int[Tensor, "tokens k"], Float[Tensor, "tokens k"]]:
        """Ids of the nearest old tokens (-1: none) and their weights."""
        known = torch.nonzero(old.norm(dim=1) > 0).flatten()
        k = min(self.top_k, len(known))
        near = torch.full((len(new), k), -1)
        if k == 0 or self.weight == 0:
            return near, torch.zeros(len(new), k)
        cosines = torch.full((len(new), k), -torch.inf)
        asking = torch.nonzero(new.norm(dim=1) > 0).flatten()
        index = KnnIndex(old[known])
        for block in asking.split(_QUERIES):
            found = index.search(new[block], k)
            near[block], cosines[block] = known[found.ids], found.scores
        if self.threshold > 0:
            far = cosines[:, 0] < self.threshold
            near[far], cosines[far] = -1, -torch.inf
        return near, self.global_weights(cosines)


def _vectors(vocabulary: ByteVocab, ids: Sequence[int], vectors: AuxEmbedder) -> Float[Tensor, "ids width"]:
    """The external vector of each id's string; zero for special tokens and bytes that are no text."""
    texts = [_text(vocabulary.token_bytes[token]) for token in ids]
    places = [i for i, text in enumerate(texts) if text]
    found = vectors([texts[i] or "" for i in places])
    out = torch.zeros(len(texts), found.shape[1])
    out[torch.tensor(places, dtype=torch.long)] = found.float().cpu()
    return out


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _length_shares(
    plan: TransplantPlan, row: Int[Tensor, " pieces"], ids: Int[Tensor, " pieces"]
) -> Float[Tensor, " pieces"]:
    """Characters of each piece over those of the token; a fragment of a character counts as one."""
    pieces = torch.tensor([_characters(plan.source.token_bytes[i]) for i in range(plan.source.size)])
    tokens = torch.tensor([_characters(plan.target.token_bytes[i]) for i in plan.unique.tolist()])
    return pieces[ids] / tokens[row]


def _characters(data: bytes | None) -> float:
    return float(max(1, len((data or b"").decode(errors="replace"))))
