"""What training has put into a model that methods read: a table of signals, to be compared before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tokenry.bench.reproduce.measurement import rounded
from tokenry.bench.testbeds.asking import BedArm, BedLab
from tokenry.bench.testbeds.bed import Bed
from tokenry.bench.testbeds.probing import NAMED, SHARE, AttentionRecall, Naming, reading
from tokenry.hosts.upstream import attention_steps
from tokenry.tokens import ReadAttention


@dataclass(frozen=True)
class Probed:
    """What methods would read of a model, and how far that tells what is asked for.

    Attributes:
        attention: for each decoder layer, recall of the asked patches among the quarter of the tokens that the last
            query looks at most: by the mean over heads, and by the best head. By chance: that quarter.
        naming: share of things' patches whose visual token is nearest to the thing's name among all names; NaN where
            the bed has no names, or asks for none.
        by_chance: the same of tokens without meaning.
        things: how many were looked at.
        lacks: what could not be probed, as sentences.
    """

    attention: tuple[tuple[float, float], ...]
    naming: float
    by_chance: float
    things: int
    lacks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "attention by layer": [
                {"layer": i, "mean of heads": rounded(mean), "best head": rounded(best)}
                for i, (mean, best) in enumerate(self.attention)
            ],
            "attention by chance": SHARE,
            "naming": rounded(self.naming),
            "naming by chance": rounded(self.by_chance),
            "things named": self.things,
            "lacks": list(self.lacks),
        }


def probe_bed(lab: BedLab) -> Probed:
    """Probe a bed on all of its tokens."""
    names, vectors = _names(lab.bed)
    chain: list[Any] = [Naming(names=names, vectors=vectors)] if names else []
    lacks = [] if names else ["The bed has no names for what its pictures show."]
    layers = lab.bed.host.depth.decoder
    if (reason := _why_no_attention(lab.bed)) is not None:
        lacks.append(reason)
    else:
        chain.append(AttentionRecall())
        if attention_steps(lab.bed.host.layers[-1]) is not None:
            chain.append(AttentionRecall(which=ReadAttention.NEXT))
        else:
            lacks.append("The attention of the last layer cannot be read before it runs.")
    found = lab.ask([BedArm("probe", (tuple(chain),))], "probing")["probe"] if chain else None
    readings: Mapping[str, Any] = {} if found is None else found.readings
    attention = tuple(
        _recalls(readings[reading(layer)]) for layer in range(layers) if reading(layer) in readings
    )
    named = readings.get(NAMED, np.array([]))
    things = int(np.isfinite(named).sum())
    share = float(np.nanmean(named)) if things else float("nan")
    chance = float(np.mean([len(own) for _, own in names])) / len(vectors) if names else float("nan")
    return Probed(attention, share, chance, things, tuple(lacks))


def _recalls(values: Float[np.ndarray, "q rankings"]) -> tuple[float, float]:
    """Mean recall by the mean over heads, which stands first, and by the head that finds most."""
    by_ranking = np.nanmean(values, axis=0)
    return float(by_ranking[0]), float(by_ranking[1:].max())


def _why_no_attention(bed: Bed) -> str | None:
    if not bed.knows_places:
        return "It is not known which visual tokens show what is asked for, so recall by attention is not."
    if bed.host.why_no_layer_stage is not None:
        return f"Attention of its layers cannot be read: {bed.host.why_no_layer_stage}."
    return "There is one layer only." if bed.host.depth.decoder < 2 else None


def _names(bed: Bed) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], Float[Tensor, "v d"]]:
    """The first tokens of each name, at the beginning of a text and behind a space, and their embeddings."""
    tokenizer = getattr(bed.processor, "tokenizer", bed.processor)
    columns: dict[int, int] = {}
    found = []
    for name in bed.names:
        starts = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (name, f" {name}")]
        # Where spaces are tokens of their own, they tell nothing of the name.
        own = [token for token in dict.fromkeys(starts) if tokenizer.decode([token]).strip()]
        found.append((name, tuple(columns.setdefault(token, len(columns)) for token in own)))
    weight = bed.model.get_input_embeddings().weight.detach()
    return tuple(found), weight[list(columns)].float()
