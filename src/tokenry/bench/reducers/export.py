"""A comparison for programs: its rows as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tokenry.bench.reducers.arms import BASELINES
from tokenry.bench.reducers.headline import headline
from tokenry.bench.reducers.results import Results
from tokenry.bench.reducers.summary import Row, failed, nothing_ran, same_choice, summarise, warnings

_FIGURES = (
    "examples", "failed", "seeds", "scored", "score", "agreement", "recall", "tokens", "tokens_mean", "full_tokens",
    "prefill_flops", "kv_bytes", "encoder_ms", "selection_ms", "prefill_ms", "decode_ms", "memory_bytes",
)  # fmt: skip


def as_json(results: Results, **more: Any) -> str:
    """All there is to know of a comparison but its single answers, as one JSON object.

    Args:
        results: what was measured.
        more: further JSON values by name.
    """
    rows = summarise(results)
    content = {
        "facts": results.runs[-1].facts,
        "rows": [asdict(row) for row in rows],
        "warnings": [*warnings(results, rows), *same_choice(results)],
        "left_out": results.runs[-1].plan.get("left_out", []),
        "failed": [asdict(one) for one in failed(results)],
        "failure": nothing_ran(rows),
        "verdict": headline(rows),
    }
    return json.dumps(_finite(content | more), indent=1) + "\n"


def as_csv(results: Results) -> str:
    """One line for each row, intervals in columns of their own; shares and differences of shares as fractions."""
    lines = [_line(row) for row in summarise(results)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(row: Row) -> dict[str, Any]:
    intervals = {"change": row.change, "change_all_rows": row.sure}
    for name in BASELINES:
        rivalry = row.versus(name)
        intervals[f"vs_{name}"] = None if rivalry is None else rivalry.change
        intervals[f"vs_{name}_all_rows"] = None if rivalry is None else rivalry.sure
    line: dict[str, Any] = {"method": row.method, "budget": row.budget}
    line |= {name: getattr(row, name) for name in _FIGURES}
    line |= {name: getattr(row.outcomes, name, None) for name in ("lost", "gained")}
    for name, interval in intervals.items():
        line |= {f"{name}_{end}": getattr(interval, end, None) for end in ("mean", "low", "high")}
    return {name: _finite(value) for name, value in line.items()} | {"refusal": row.refusal}


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
