"""TransTokenizer: a new token's row as the count-weighted mean of the old tokens that it is aligned with in text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import lcm
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.text.transplant.aligner import align_words
from tokenry.text.transplant.base import Context, Mixing, Mixture
from tokenry.text.transplant.counting import overlaps
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

Counts = dict[int, dict[int, float]]
"""Target id -> source id -> count."""


@dataclass(frozen=True, kw_only=True)
class TransTokenizer(Mixing):
    """Counts of token alignments, from a translated corpus or from one text cut twice.

    *Trans-Tokenization and Cross-lingual Vocabulary Transfers: Language Adaptation of LLMs for Low-Resource NLP*, arXiv
    2408.04303. With ``context.parallel`` (sentence pairs) words are aligned statistically; inside an aligned pair of
    m old and n new pieces the pieces are paired in order after repeating both to their common multiple, and a count is
    divided by how often a new piece is repeated. Without it, both vocabularies cut ``context.texts``, and a new token
    is aligned with the old tokens whose bytes it overlaps. A token that no text has inherits, from every counted token
    that begins with it and from the longest counted tokens inside it, their alignments scaled to 1000, twice as much
    for old tokens that start a word. Needs ``context.texts`` or ``context.parallel``.

    Where this differs from the published code: that also counts all pairs of an aligned word's pieces at half weight
    (here only those in order, as the paper has it), and mixes identical tokens with what else they are aligned to. Here
    shared and special tokens keep their rows, as with every method, so the counts of 1 and 1e9 that tie them to
    themselves matter only where another token inherits them. A token that nothing covers takes a random row, there the
    unknown token's.

    Attributes:
        inherited: count that each related token passes on.
    """

    slug: ClassVar[str] = "transtokenizer"

    inherited: float = 1000.0

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture:
        """Normalised counts."""
        counts = self.counts(plan, context)
        missing = [t for t in plan.unique.tolist() if t not in counts]
        passed_on = self._inherit(plan, counts, missing)
        row: list[int] = []
        ids: list[int] = []
        weights: list[float] = []
        for i, token in enumerate(plan.unique.tolist()):
            found = counts.get(token) or passed_on.get(token)
            if not found:
                continue
            total = sum(found.values())
            row.extend([i] * len(found))
            ids.extend(found)
            weights.extend(count / total for count in found.values())
        return Mixture.of(
            torch.tensor(row, dtype=torch.long),
            torch.tensor(ids, dtype=torch.long),
            torch.tensor(weights, dtype=torch.float32),
            len(plan.unique),
        )

    def counts(self, plan: TransplantPlan, context: Context) -> Counts:
        """How often each target token is aligned with which source tokens; shared tokens at least with themselves."""
        found: Counts = defaultdict(lambda: defaultdict(float))
        if context.parallel:
            count_words(found, plan.source, plan.target, align_words(context.parallel))
        else:
            pairs = overlaps(plan.source, plan.target, context.need_texts("transtokenizer"))
            for new, old, count in zip(*(x.tolist() for x in pairs), strict=True):
                found[new][old] += count
        for old, new in plan.shared.tolist():
            found[new][old] += 1.0
        return {token: dict(old) for token, old in found.items()}

    def _inherit(self, plan: TransplantPlan, counts: Counts, missing: Iterable[int]) -> Counts:
        """Counts for tokens that no text has, from counted tokens that begin with them or lie inside them."""
        names = plan.target.token_bytes
        starts_word = [(data or b"").startswith(b" ") for data in plan.source.token_bytes]
        trie = ByteTrie.build([data if t in counts else None for t, data in enumerate(names)])
        out: Counts = {}
        for token in missing:
            data = names[token] or b""
            lo, hi = trie.range(data)
            relatives = [*trie.order[lo:hi].tolist(), *longest_inside(trie, names, data)]
            found: dict[int, float] = defaultdict(float)
            for relative in dict.fromkeys(relatives):
                total = sum(counts[relative].values())
                for old, count in counts[relative].items():
                    found[old] += (2 if starts_word[old] else 1) * self.inherited * count / total
            if found:
                out[token] = dict(found)
        return out


def longest_inside(trie: ByteTrie, names: Sequence[bytes | None], data: bytes) -> list[int]:
    """Tokens inside a byte string that do not lie inside a longer one that is found too, by place."""
    inside = {token: at for at in range(len(data)) for token in reversed(trie.prefixes(data, at))}
    kept: list[int] = []
    for token in sorted(inside, key=lambda t: (-len(names[t] or b""), inside[t])):
        if not any((names[token] or b"") in (names[longer] or b"") for longer in kept):
            kept.append(token)
    return sorted(kept, key=lambda t: data.index(names[t] or b""))


def count_words(
    counts: Counts, source: ByteVocab, target: ByteVocab, pairs: Iterable[tuple[str, str, int]]
) -> None:
    """Add the token pairs of aligned words.

    Args:
        counts: added to.
        source: cuts old words.
        target: cuts new words.
        pairs: (old word, new word, how often they are aligned).
    """
    for old_word, new_word, count in pairs:
        try:
            old, new = (v.encode(f" {w}".encode()) for v, w in ((source, old_word), (target, new_word)))
        except InputError:
            continue  # a character that one of the vocabularies does not have
        if not old or not new:
            continue
        common = lcm(len(old), len(new))
        share = max(1, count // (common // len(new)))
        for i in range(common):
            counts.setdefault(new[i * len(new) // common], defaultdict(float))[
                old[i * len(old) // common]
            ] += share
