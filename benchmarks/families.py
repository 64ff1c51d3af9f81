"""``python -m benchmarks.families``: run `tk.check` on tiny models of every family and store what holds.

Two sweeps. The families of the test suite are checked with eager and sdpa attention and with every batch shape their
tests use; what is stored as ``docs/results/families.json`` is the worst of them. Then every class that the installed
transformers calls "image, text -> text" is built as small as it goes (`tests.hosts.zoo`) and checked on two ragged
rows; ``docs/results/families-mapping.json``. Weights are random, so a family passes by its mechanics alone. Each class
of the mapping runs in a process of its own with a time limit: one that crashes or hangs costs its own row.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import tokenry as tk
from benchmarks.common import RESULTS, provenance
from tests.hosts.families import FAMILIES, Family
from tests.hosts.zoo import specimen
from tokenry.tokens.files import whole_file

STAGES = ("input", "layer")
LIMIT_S = 120
"""Seconds that a class of the mapping may take."""
EQUALS = "equals"
"""What a law is called that compares with an independently made truth."""


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


# --- every class of the mapping ----------------------------------------------------------------------------------


def surveyed(model_type: str) -> dict[str, Any]:
    """What holds for a class of the mapping: per stage "exact", or why not."""
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]
    row: dict[str, Any] = {"model_type": model_type, "model": name, "built": False}
    try:
        family = specimen(model_type)
        model = _built(family)
        inputs = family.batch(model, "ragged")
    except Exception as error:
        return row | {"input": "not built", "layer": "not built", "why_not": _said(error)}
    row["built"] = True
    try:
        report = tk.check(model, inputs, steps=4)
    except Exception as error:
        return row | {"input": "refused", "layer": "refused", "why_not": _said(error)}
    reasons: dict[str, None] = {}
    for stage in STAGES:
        laws = [law for law in report.laws if law.stage == stage]
        row[stage] = _verdict(laws)
        reasons |= dict.fromkeys(_short(law.detail, family) for law in laws if _tells(law, row[stage]))
    gaps = [float(law.detail) for law in report.laws if law.holds and law.detail]
    return row | {"largest_gap": max(gaps, default=None), "why_not": "; ".join(reasons)}


def _built(family: Family) -> Any:
    try:
        return family.build("sdpa")
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        return family.build("eager")  # transformers itself has no such kernel for this class


def _verdict(laws: list[Any]) -> str:
    """One word for a stage: "exact" where every law that applies holds and a truth was compared with."""
    if any(law.holds is False for law in laws):
        return "broken"
    return "exact" if any(law.holds and EQUALS in law.name for law in laws) else "refused"


def _tells(law: Any, verdict: str) -> bool:
    """Whether a law's detail says why a stage is not exact."""
    return law.holds is False if verdict == "broken" else law.holds is None and verdict == "refused"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def alone(model_type: str) -> dict[str, Any]:
    """`surveyed` in a process of its own."""
    context = multiprocessing.get_context("fork")  # imports are paid for once
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        with contextlib.redirect_stderr(Path(os.devnull).open("w")):
            sender.send(surveyed(model_type))

    process = context.Process(target=work)
    process.start()
    lost = "no answer"
    try:
        if receiver.poll(LIMIT_S):
            return receiver.recv()  # type: ignore[no-any-return]
        lost = f"not done after {LIMIT_S} s"
    except EOFError:
        lost = "its process died"
    finally:
        process.kill()
        process.join()
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]
    return {"model_type": model_type, "model": name, "built": False} | {
        "input": "not built",
        "layer": "not built",
        "why_not": lost,
    }


def totals(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many classes there are, how many were built, and on how many of these each stage is exact."""
    rows = list(rows)
    counts = {"classes": len(rows), "built": sum(row["built"] for row in rows)}
    for stage in STAGES:
        for verdict in ("exact", "refused", "broken"):
            counts[f"{stage}_{verdict}"] = sum(row[stage] == verdict for row in rows)
    return counts


def _write(name: str, document: dict[str, Any], console: Console) -> None:
    target = RESULTS / name
    with whole_file(target) as scratch:
        scratch.write_text(json.dumps(document | provenance(), indent=2) + "\n")
    console.print(f"Written to {target}")


def _what(counts: dict[str, int]) -> str:
    return (
        f"Every class that transformers' image-text-to-text mapping names ({counts['classes']}, of which "
        f"{counts['built']} build as tiny models with random weights), on two rows of different length with a picture "
        f"each. At the input {counts['input_exact']} are exact, at a layer {counts['layer_exact']}; the others are "
        "refused with the reason given. Exact: equal to the full sequence with the dropped tokens masked out or, with "
        "recurrent layers, to a sequence cut by hand, over prefill and four decoding steps, in float32"
    )


def _survey(console: Console) -> bool:
    only = sys.argv[1:] or list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    rows = [alone(model_type) for model_type in track(only, "mapping", console=console)]
    table = Table(title="tk.check on every class of the mapping", title_justify="left")
    for column in ("class", "input", "layer", "gap", "why not"):
        table.add_column(column)
    for row in rows:
        gap = row.get("largest_gap")
        shown = "" if gap is None else f"{gap:.0e}"
        table.add_row(row["model_type"], row["input"], row["layer"], shown, row["why_not"])
    console.print(table)
    console.print(totals(rows))
    if not sys.argv[1:]:
        told = [{k: v for k, v in row.items() if k != "built"} for row in rows]
        document = {"what": _what(totals(rows)), "totals": totals(rows), "classes": told}
        _write("families-mapping.json", document, console)
    return any("broken" in (row["input"], row["layer"]) for row in rows)


def _families(console: Console) -> bool:
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
    what = (
        "Largest difference of any logit between running reduced and the full sequence with the dropped tokens masked "
        "out, over prefill and six decoding steps, in float32"
    )
    _write("families.json", {"what": what, "families": rows}, console)
    return any("broken" in row for row in rows)


def main() -> None:
    """Check every family and every class of the mapping (or only the classes named), print the tables, store them."""
    torch.set_num_threads(1)
    console = Console(width=150)
    broken = False if sys.argv[1:] else _families(console)
    if _survey(console) or broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
