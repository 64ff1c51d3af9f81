"""What importing costs, in fresh interpreters."""

from __future__ import annotations

import statistics
import subprocess
import sys

from rich.console import Console

from benchmarks.common import write

_BASE = "import torch, transformers; from transformers import PreTrainedModel"


def run(console: Console, rounds: int) -> None:
    """`import tokenry`, and using it, on top of importing torch and transformers' base."""
    what = {
        "import tokenry": "import tokenry",
        "import tokenry, reduced": "import tokenry; tokenry.reduced",
        "import tokenry, compare": "import tokenry; tokenry.compare",
    }
    rows = []
    for name, code in what.items():
        added = [_seconds(code) for _ in range(max(3, rounds // 3))]
        rows.append({"what": name, "s beyond torch and transformers": statistics.median(added)})
    write("startup", rows, {"import tokenry": "<= 1.0 s"}, console)


def _seconds(code: str) -> float:
    program = f"{_BASE}; import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    return float(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
