"""Which positions a pre-training objective hides, and what stands there instead.

Every policy takes a `torch.Generator` and the positions that may be chosen (`candidates`: no special token, no
padding), and works on a whole batch without a loop over tokens.

- BERT's 80/10/10 (arXiv 1810.04805): `choose` or `choose_words`, then `corrupt`.
- whole words: `choose_words` with the word each token belongs to (`word_index`).
- ELECTRA's, in its home: `choose`, then `corrupt` with 85 % [MASK] and 15 % kept.
- T5's span corruption (arXiv 1910.10683): `choose_spans`, then `span_corruption`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError

IGNORE = -100
"""The label of positions without loss, as everywhere in transformers."""


def candidates(
    ids: Int[Tensor, "b n"], attention_mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"], special: Iterable[int]
) -> Bool[Tensor, "b n"]:
    """Positions that may be hidden: real tokens that are not special."""
    forbidden = torch.tensor(sorted(special), dtype=ids.dtype, device=ids.device)
    return attention_mask.bool() & ~torch.isin(ids, forbidden)


def check_rate(rate: float) -> None:
    """See that a rate is a share.

    Raises:
        InputError: It is not.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"A share of tokens to mask lies between 0 and 1, got {rate}")


def _priorities(allowed: Bool[Tensor, "b n"], generator: torch.Generator) -> Float[Tensor, "b n"]:
    """A random number a position, above all others where it is not allowed."""
    noise = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    return noise.masked_fill(~allowed, 2.0)


def rounded_counts(
    allowed: Bool[Tensor, "b n"], rate: float, *, least: int = 1, most: int | None = None
) -> Int[Tensor, "b"]:
    """How many positions of a row to choose: its share of the allowed ones, rounded, within limits.

    Args:
        allowed: positions that may be chosen.
        rate: the share; at 0 nothing is chosen, whatever ``least`` says.
        least, most: limits; never more than there are.
    """
    check_rate(rate)
    available = allowed.sum(1)
    count = (available * rate).round().long().clamp(min=least if rate else 0, max=most)
    return torch.minimum(count, available)


def choose(
    allowed: Bool[Tensor, "b n"],
    count: Int[Tensor, "b"],
    generator: torch.Generator,
    *,
    replacement: bool = False,
) -> Bool[Tensor, "b n"]:
    """Choose positions at random.

    Args:
        allowed: positions that may be chosen.
        count: how many, by row; at most as many as there are.
        generator: randomness.
        replacement: draw with replacement, so that rows with doubles get fewer (as in ELECTRA's published code).
    """
    if replacement:
        # No row may be empty for multinomial; what such a row draws is not counted.
        weight = allowed.float() + (~allowed.any(1, keepdim=True)).float()
        drawn = torch.multinomial(weight, max(1, int(count.max())), replacement=True, generator=generator)
        counts = torch.arange(drawn.shape[1], device=drawn.device) < count[:, None]
        hits = torch.zeros_like(allowed, dtype=torch.long).scatter_add_(1, drawn, counts.long())
        return (hits > 0) & allowed
    rank = _priorities(allowed, generator).argsort(1).argsort(1)
    return (rank < count[:, None]) & allowed


def word_index(ids: Int[Tensor, "b n"], continues: Bool[Tensor, "v"]) -> Int[Tensor, "b n"]:
    """Number of the word each token belongs to, from 0 in every row.

    Args:
        ids: token ids.
        continues: by token id, whether the token continues the word before it (WordPiece's ``##``).
    """
    starts = ~continues[ids]
    starts[:, 0] = True
    return starts.long().cumsum(1) - 1


def choose_words(
    allowed: Bool[Tensor, "b n"],
    words: Int[Tensor, "b n"],
    count: Int[Tensor, "b"],
    generator: torch.Generator,
) -> Bool[Tensor, "b n"]:
    """Choose whole words in random order until the next one would not fit into the count; the first is always taken.

    BERT's code goes on to look for shorter words that still fit, which favours them more.

    Args:
        allowed: positions that may be chosen; the allowed tokens of a word are chosen together.
        words: the word each token belongs to, from `word_index`.
        count: most tokens to choose, by row; 0 chooses none.
        generator: randomness.
    """
    noise = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    size = torch.zeros(allowed.shape, dtype=torch.long, device=allowed.device)
    size.scatter_add_(1, words, allowed.long())  # slot w: the number of allowed tokens of word w
    order = noise.masked_fill(size == 0, 2.0).argsort(1)
    total = size.gather(1, order).cumsum(1)
    fits = total <= count[:, None]
    fits[:, 0] = count > 0
    taken = torch.zeros_like(allowed).scatter_(1, order, fits)
    return taken.gather(1, words) & allowed


def corrupt(
    ids: Int[Tensor, "b n"],
    chosen: Bool[Tensor, "b n"],
    mask_id: int,
    generator: torch.Generator,
    *,
    replacements: Int[Tensor, "r"] | None = None,
    kept: float = 0.1,
    random: float = 0.1,
) -> Int[Tensor, "b n"]:
    """What the encoder sees: at chosen positions the mask, the token itself, or a random one.

    Args:
        ids: original ids.
        chosen: positions to hide.
        mask_id: id of [MASK].
        generator: randomness.
        replacements: ids to draw random tokens from; needed if ``random`` is not 0.
        kept: share of chosen positions that keep their token; BERT 0.1, ELECTRA 0.15.
        random: share of chosen positions that get a random token; BERT 0.1, ELECTRA 0.
    """
    if kept < 0 or random < 0 or kept + random > 1:
        raise InputError(
            f"The shares kept and random must be within 0 and 1 together, got {kept} and {random}"
        )
    draw = torch.rand(ids.shape, generator=generator, device=ids.device)
    seen = torch.where(chosen & (draw >= kept + random), mask_id, ids)
    if random:
        if replacements is None or not len(replacements):
            raise InputError("Random tokens were asked for, but there are no ids to draw them from.")
        picks = torch.randint(len(replacements), ids.shape, generator=generator, device=ids.device)
        swapped = chosen & (draw >= kept) & (draw < kept + random)
        seen = torch.where(swapped, replacements.to(ids.device)[picks], seen)
    return seen


def labels(ids: Int[Tensor, "b n"], chosen: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The original ids at chosen positions, -100 elsewhere."""
    return torch.where(chosen, ids, IGNORE)


# ------------------------------------------------------------------------------------------------------- spans


def _parts(
    items: Int[Tensor, "b"], parts: Int[Tensor, "b"], width: int, generator: torch.Generator
) -> Int[Tensor, "b p"]:
    """Cut rows of ``items`` things into ``parts`` non-empty runs, all cuttings equally likely; lengths, 0 beyond."""
    places = torch.arange(width, device=items.device)
    inside = (places >= 1) & (places < items[:, None])
    cuts = choose(inside, parts - 1, generator)
    run = cuts.long().cumsum(1)
    lengths = torch.zeros(len(items), width + 1, dtype=torch.long, device=items.device)
    lengths.scatter_add_(1, run, (places < items[:, None]).long())
    return lengths


def choose_spans(
    allowed: Bool[Tensor, "b n"], rate: float, mean_span: float, generator: torch.Generator
) -> Bool[Tensor, "b n"]:
    """Choose spans as T5 does: ``rate`` of the tokens in spans of ``mean_span`` on average.

    Noise and the text between it are cut into equally many non-empty runs, which alternate, text first. Tokens that may
    not be chosen are passed over, so a span is cut in two where one stands.

    Args:
        allowed: positions that may be chosen.
        rate: share of the allowed tokens (0.15).
        mean_span: 3 tokens in T5, 20 bytes in ByT5.
        generator: randomness.
    """
    check_rate(rate)
    if mean_span < 1:
        raise InputError(f"A span has at least one token on average, got {mean_span}")
    lengths, width = allowed.sum(1), allowed.shape[1]
    noise = (lengths * rate).round().long()
    noise = torch.minimum(noise.clamp(min=1), (lengths - 1).clamp(min=0))  # some text stays, if there is any
    spans = (noise / mean_span).round().long().clamp(min=1)
    spans = torch.minimum(spans, torch.minimum(noise, lengths - noise).clamp(min=1))
    kept_runs = _parts(lengths - noise, spans, width, generator)
    noise_runs = _parts(noise, spans, width, generator)
    ends = torch.stack([kept_runs, noise_runs], dim=2).flatten(1).cumsum(1)
    place = torch.arange(width, device=allowed.device).expand_as(allowed).contiguous()
    run = torch.searchsorted(ends, place, right=True)  # the run each of the allowed tokens lies in
    hidden = (run % 2 == 1) & (place < lengths[:, None])
    ordinal = (allowed.long().cumsum(1) - 1).clamp(min=0)
    return hidden.gather(1, ordinal) & allowed


@dataclass(frozen=True)
class SpanCorruption:
    """Encoder input and decoder target of one text.

    Attributes:
        inputs: the text with every span replaced by a sentinel of its own.
        targets: the sentinels, each followed by its span, then the end-of-text id if there is one.
    """

    inputs: Int[Tensor, "i"]
    targets: Int[Tensor, "t"]


def span_corruption(
    ids: Int[Tensor, "n"], chosen: Bool[Tensor, "n"], sentinels: Sequence[int], eos_id: int | None = None
) -> SpanCorruption:
    """Replace every run of chosen tokens by a sentinel.

    Args:
        ids: one text without padding.
        chosen: its hidden tokens, a row of `choose_spans`.
        sentinels: ids of the sentinels in order (T5: 32099, 32098, ...).
        eos_id: appended to the targets (and, if the text ends with it, already in the inputs).

    Raises:
        InputError: if there are more spans than sentinels.
    """
    before = torch.nn.functional.pad(chosen, (1, 0))[:-1]
    first = chosen & ~before
    needed = int(first.sum())
    if needed > len(sentinels):
        raise InputError(
            f"{needed} spans need as many sentinels, there are {len(sentinels)}: use longer spans."
        )
    named = torch.tensor(list(sentinels), dtype=ids.dtype, device=ids.device)
    span = first.long().cumsum(0) - 1
    inputs = ids.clone()
    inputs[first] = named[span[first]]
    # Each hidden token goes behind the sentinel of its span: place = hidden tokens before it + sentinels so far.
    place = chosen.long().cumsum(0) - 1 + first.long().cumsum(0)
    targets = ids.new_empty(int(chosen.sum()) + needed)
    targets[place[chosen]] = ids[chosen]
    targets[place[first] - 1] = named[span[first]]
    if eos_id is not None:
        targets = torch.cat([targets, targets.new_tensor([eos_id])])
    return SpanCorruption(inputs=inputs[~chosen | first], targets=targets)
