"""What a user's own folder costs before the first question is put, in fresh interpreters."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.common import write

_PROGRAM = """
import sys, time, torch
from tokenry import bench
from tokenry.bench.environment import PeakMemory
bench.load_data("scenes", 1)  # imports are startup's to measure
with PeakMemory(torch.device("cpu")) as before:
    pass
with PeakMemory(torch.device("cpu")) as peak:
    started = time.process_time()
    data = bench.load_data(sys.argv[1], *map(int, sys.argv[2:]))
    seconds = time.process_time() - started
print(len(data.examples), seconds, ((peak.bytes or 0) - (before.bytes or 0)) / 2**20)
"""


def run(console: Console, rounds: int) -> None:
    """`bench.load_data` on 5,000 small pictures, 60 photos of 12 megapixels, and ten of a million questions."""
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name, folder, limit in (
            ("5,000 pictures, a question each", _folder(Path(root, "small"), 5000, (64, 48), 5000), ()),
            ("60 photos of 12 megapixels", _folder(Path(root, "photos"), 60, (4000, 3000), 60), ()),
            ("1,000,000 questions, --limit 10", _folder(Path(root, "long"), 10, (64, 48), 1_000_000), (10,)),
        ):
            runs = [_measured(folder, *limit) for _ in range(max(3, rounds // 3))]
            count, seconds, mebibytes = (statistics.median(values) for values in zip(*runs, strict=True))
            rows.append({"what": name, "examples": count, "s": seconds, "MiB": mebibytes})
    write("folders", rows, {"s, 5,000 pictures": "<= 2", "MiB, 60 photos": "<= 50"}, console)


def _folder(folder: Path, pictures: int, size: tuple[int, int], questions: int) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(folder / "0.jpg")
    data = (folder / "0.jpg").read_bytes()
    for number in range(1, pictures):
        (folder / f"{number}.jpg").write_bytes(data)
    with (folder / "questions.jsonl").open("w") as file:
        for number in range(questions):
            row = {
                "image": f"{number % pictures}.jpg",
                "question": f"what is number {number}?",
                "answer": "noise",
            }
            file.write(json.dumps(row) + "\n")
    return folder


def _measured(folder: Path, *limit: int) -> tuple[float, ...]:
    """Examples, process seconds, MiB by which the process grew."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), *map(str, limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(float, done.stdout.split()))
