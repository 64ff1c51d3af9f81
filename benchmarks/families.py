"""``python -m benchmarks.families``: run `tk.check` on a tiny model of every family and store what holds.

Every family is checked with eager and sdpa attention and with every batch shape its tests use; what is stored as
``docs/results/families.json`` is the worst of them. Weights are random, so a family passes by its mechanics alone.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tokenry as tk
from benchmarks.common import RESULTS, provenance
from tests.hosts.families import FAMILIES, Family

STAGES = ("input", "layer")


def checked(family: Family) -> dict[str, Any]:
    """What holds for a family, over all attention implementations and batch shapes."""
    passed = dict.fromkeys(STAGES, True)
    gaps, logits, broken, attentions = [0.0], [0.0], set(), []
    refused: dict[str, set[str]] = {}
    for attn in ("sdpa", "eager"):
        try:
            model = family.build(attn)
        except ValueError as error:  # transformers itself has no such kernel for this family
            refused.setdefault(_short(str(error), family), set()).add(attn)
            continue
        attentions.append(attn)
        for shape in family.shapes:
            inputs = family.batch(model, shape)
            report = tk.check(model, inputs, tokens=family.tokens)
            with torch.no_grad():
                logits.append(float(model(**inputs).logits.abs().max()))
            for stage in STAGES:
                passed[stage] &= report.stages.get(stage, False)
            for law in report.laws:
                if law.holds is None:
                    refused.setdefault(_short(law.detail, family), set()).add(law.name.split(" (")[0])
                elif law.holds is False:
                    broken.add(f"{attn}, {shape}: {law.name}: {law.detail}")
                elif law.detail:
                    gaps.append(float(law.detail))
    return {
        "family": family.name,
        "model": family.model.__name__,
        "attention": attentions,
        "shapes": list(family.shapes),
        "stages": [stage for stage in STAGES if passed[stage]],
        "largest_gap": max(gaps),
        "largest_logit": float(f"{max(logits):.2g}"),
        "not_supported": [f"{', '.join(sorted(what))}: {why}" for why, what in refused.items()],
    } | ({"broken": sorted(broken)} if broken else {})


def _short(reason: str, family: Family) -> str:
    """The first sentence of a reason, without the name that stands beside it in the table."""
    return reason.split(". ")[0].removesuffix(".").removeprefix(f"{family.model.__name__} ")


def main() -> None:
    """Check every family, print the table, store it."""
    torch.set_num_threads(1)
    console = Console(width=150)
    rows = [checked(family) for family in track(FAMILIES.values(), "families", console=console)]
    table = Table(title="tk.check on every family", title_justify="left")
    for column in ("family", "attention", "batches", "stages", "largest gap", "not supported"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["family"],
            " ".join(row["attention"]),
            " ".join(row["shapes"]),
            " ".join(row["stages"]) + "".join(f"\nBROKEN {law}" for law in row.get("broken", [])),
            f"{row['largest_gap']:.1e}",
            "\n".join(row["not_supported"]),
        )
    console.print(table)
    target = RESULTS / "families.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    document = {
        "what": "Largest difference of any logit between running reduced and the full sequence with the dropped tokens "
        "masked out, over prefill and six decoding steps, in float32",
        "families": rows,
    } | provenance()
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(temporary, target)
    console.print(f"Written to {target}")
    if any("broken" in row for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
