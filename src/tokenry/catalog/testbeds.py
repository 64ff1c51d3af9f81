"""The tables of docs/testbeds.md, of what `python -m benchmarks.testbeds` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenry.catalog import results
from tokenry.catalog.markdown import escape, table
from tokenry.tokens.errors import TokenryError

_MISSED = "missed"
_PROVENANCE = ("machine", "load", "versions", "date")
_NEEDED = ("bed", "model", "scenes", "lines", "methods", "left out", "probes", *_PROVENANCE)


def testbed_tables(folder: Path) -> str:
    """Acceptance of all beds, what misses block, methods by kind of question, agreement of rankings, and probes.

    Args:
        folder: with ``testbed-NAME.json`` of each bed, and ``testbeds.json`` of how far they agree.

    Raises:
        TokenryError: a file that is none of these.
    """
    beds = [_load(path, _NEEDED) for path in sorted(folder.glob("testbed-*.json"))]
    if not beds:
        return "No test bed has been measured yet."
    ranks = _load(folder / "testbeds.json", ("ranks",))["ranks"]
    parts = ["## Acceptance", _acceptance(beds), *_blocked(beds), "## Methods by kind of question"]
    for bed in beds:
        parts += [f"### {escape(bed['bed'])}", _facts(bed), _methods(bed), *_left_out(bed)]
    parts += ["## Do beds rank methods alike?", *_ranks(ranks), "## What training put in"]
    for bed in beds:
        parts += _probes(bed)
    return "\n\n".join(parts)


def _acceptance(beds: Sequence[Mapping[str, Any]]) -> str:
    """A row for each line, a column for each bed."""
    lines: dict[str, dict[str, Any]] = {}
    for bed in beds:
        for line in bed["lines"]:
            lines.setdefault(line["line"], {"of": line})[bed["bed"]] = line
    rows = [
        (
            escape(name),
            escape(told["of"]["asks"]),
            told["of"]["bound"],
            *(_cell(told.get(bed["bed"])) for bed in beds),
        )
        for name, told in lines.items()
    ]
    return table(("line", "asks", "bound", *(escape(bed["bed"]) for bed in beds)), rows)


def _cell(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return ""
    word = f"**{_MISSED}**" if line["verdict"] == _MISSED else line["verdict"]
    return f"{word}: {_measured(line)}" if "value" in line else word


def _measured(line: Mapping[str, Any]) -> str:
    low, high = (results.text(v) for v in line["interval"])
    return f"{results.text(line['value'])} ({low} to {high})"


def _blocked(beds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each missed line blocks, and what was said of the others."""
    for bed in beds:
        told = [said for line in bed["lines"] if (said := _said(line)) is not None]
        missed = [line for line in bed["lines"] if line["verdict"] == _MISSED]
        yield f"### What {escape(bed['bed'])} cannot show" if missed else f"### {escape(bed['bed'])}"
        yield "\n".join(told) if told else "Every line is passed: nothing is blocked."


def _said(line: Mapping[str, Any]) -> str | None:
    """One line of a list; None for a line that is passed without a note."""
    parts = [escape(line[key]) for key in ("lacks", "note") if key in line]
    if line["verdict"] == _MISSED:
        methods = f" Of methods: {', '.join(map(escape, line['methods']))}." if line.get("methods") else ""
        parts.insert(
            0, f"is missed, which blocks claims {escape(line['blocks'])}{methods} Accuracy: {_arms(line)}."
        )
    return f"- *{escape(line['line'])}*: {' '.join(parts)}" if parts else None


def _arms(line: Mapping[str, Any]) -> str:
    return escape("; ".join(f"{name} {results.text(value)}" for name, value in line["arms"].items()))


def _facts(bed: Mapping[str, Any]) -> str:
    model = bed["model"]
    facts = (
        f"{model['class']}, {model['parameters'] / 1e6:.1f} M parameters, fingerprint {model['fingerprint']}",
        f"{bed['scenes']}: {bed['questions']} questions about {bed['pictures']} pictures of "
        f"{bed['visual tokens']} visual tokens",
        *(f"{key} {results.text(bed[key])}" for key in _PROVENANCE),
    )
    return escape("; ".join(facts)) + ". Accuracy in %:"


def _methods(bed: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(kind for row in bed["methods"] for kind in row["by kind"])
    rows = [
        (
            escape(row["method"]),
            row["budget"],
            f"{results.text(row['accuracy'])} ({' to '.join(map(results.text, row['interval']))})",
            *(results.text(row["by kind"].get(kind, "")) for kind in kinds),
            results.text(row["visual tokens a layer"]),
        )
        for row in bed["methods"]
    ]
    return table(("method", "budget", "all", *map(escape, kinds), "visual tokens a layer"), rows)


def _left_out(bed: Mapping[str, Any]) -> Iterator[str]:
    if bed["left out"]:
        yield "\n".join(
            f"- {escape(name)} was left out: {escape(why)}" for name, why in bed["left out"].items()
        )


def _ranks(ranks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each pair of beds, a column for each budget."""
    if not ranks:
        yield "Two beds are needed to compare."
        return
    budgets = dict.fromkeys(rank["budget"] for rank in ranks)
    pairs: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for rank in ranks:
        pairs.setdefault((rank["bed"], rank["beside"]), {})[rank["budget"]] = rank
    rows = [
        (*map(escape, pair), *(_tau(found.get(budget)) for budget in budgets))
        for pair, found in pairs.items()
    ]
    yield "Kendall's tau-b of the accuracies of the methods that both have measured, baselines among them:"
    yield table(("bed", "beside", *budgets), rows)


def _tau(rank: Mapping[str, Any] | None) -> str:
    if rank is None:
        return ""
    tau = "undecided" if rank["tau"] is None else f"{rank['tau']:.2f}"
    return f"{tau} ({rank['methods']} methods)"


def _probes(bed: Mapping[str, Any]) -> Iterator[str]:
    """A column for each checkpoint, a row for each layer, and one for names."""
    yield f"### {escape(bed['bed'])}"
    probes = bed["probes"]
    layers = dict.fromkeys(row["layer"] for probe in probes for row in probe["attention by layer"])
    rows = [
        (
            f"attention of layer {layer}",
            *(_attention(probe, layer) for probe in probes),
            _share(probes[-1], "attention"),
        )
        for layer in layers
    ]
    rows.append(("nearest name", *(results.text(p["naming"]) for p in probes), _share(probes[-1], "naming")))
    yield table(("", *(escape(probe["checkpoint"]) for probe in probes), "by chance"), rows)
    if lacks := list(dict.fromkeys(said for probe in probes for said in probe["lacks"])):
        yield "\n".join(f"- {escape(said)}" for said in lacks)


def _attention(probe: Mapping[str, Any], layer: int) -> str:
    row = next((row for row in probe["attention by layer"] if row["layer"] == layer), None)
    return "" if row is None else f"{results.text(row['mean of heads'])} / {results.text(row['best head'])}"


def _share(probe: Mapping[str, Any], what: str) -> str:
    return results.text(probe[f"{what} by chance"])


def _load(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenryError(
            f"{path} cannot be read ({error}): let `python -m benchmarks.testbeds` write it again."
        ) from error
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        raise TokenryError(
            f"{path} is no object with {', '.join(keys)}: let `python -m benchmarks.testbeds` write it again."
        )
    return values
