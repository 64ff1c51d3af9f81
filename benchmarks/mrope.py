"""What the embedded model with multi-axis RoPE answers: scenes, clips and pages by kind of question.

``python -m benchmarks.mrope [MODEL [QUESTIONS]]`` asks held-out questions of each sort with all visual tokens, with
grey pictures in place of what is asked about (blind), and with a random quarter of the visual tokens. What share of the
answers is exact is stored as docs/results/tasks-embedded-mrope.json. MODEL is the folder that the recipe writes, or a
name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tokenry as tk
from benchmarks.common import RESULTS, provenance
from tokenry.data import Example, Picture, load_clips, load_pages, load_scenes
from tokenry.data.questions.examples import exact_match
from tokenry.hosts.prompt import question_inputs
from tokenry.tokens.files import whole_file

MODEL: Final = "embedded-mrope"
BUDGET: Final = 0.25
_SORTS: Final[Mapping[str, Callable[..., list[Example]]]] = {
    "scenes": load_scenes,
    "clips": load_clips,
    "pages": load_pages,
}
_BATCH: Final = 16
_LONGEST: Final = 6  # tokens of the longest answer, the end included
_GREY: Final = (128, 128, 128)

Shares = dict[str, float]


def blind(example: Example) -> Example:
    """The same question about grey pictures of the same size."""
    grey = tuple(
        Picture(f"grey-{picture.name}", Image.new("RGB", picture.open().size, _GREY))
        for picture in example.pictures
    )
    return replace(example, pictures=grey)


def answers(model: Any, processor: Any, examples: Sequence[Example]) -> list[str]:
    """What a model answers to questions, greedily."""
    inputs = question_inputs(
        model,
        processor,
        [[picture.open() for picture in example.pictures] for example in examples],
        [example.question for example in examples],
        [example.video for example in examples],
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
    told: list[str] = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return told


def shares(model: Any, processor: Any, examples: Sequence[Example], what: str, console: Console) -> Shares:
    """The share of exact answers of all questions ("all"), and of each kind."""
    right: dict[str, list[bool]] = {}
    for part in track(list(_parts(examples)), what, console=console):
        for example, told in zip(part, answers(model, processor, part), strict=True):
            found = any(exact_match(told, one) for one in example.references)
            for name in ("all", example.kind):
                right.setdefault(name, []).append(found)
    return {name: sum(found) / len(found) for name, found in sorted(right.items())}


def _parts(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), _BATCH):
        yield examples[start : start + _BATCH]


def measured(name: str, questions: int, console: Console) -> dict[str, dict[str, Shares]]:
    """Sort -> arm -> shares of exact answers."""
    model, processor = tk.load(name, dtype=torch.float32)
    found: dict[str, dict[str, Shares]] = {}
    for sort, load in _SORTS.items():
        examples = load("test", questions)
        arms = {
            "full": (examples, False),
            "blind": ([*map(blind, examples)], False),
            "random": (examples, True),
        }
        found[sort] = {}
        for arm, (asked, fewer) in arms.items():
            with tk.reduced(model, "random", budget=BUDGET) if fewer else nullcontext():
                found[sort][arm] = shares(model, processor, asked, f"{sort}, {arm}", console)
    return found


def main() -> None:
    """Measure, print a table, and store it."""
    torch.set_num_threads(1)
    console = Console(width=150)
    name, questions = sys.argv[1] if sys.argv[1:] else MODEL, int(sys.argv[2]) if sys.argv[2:] else 600
    found = measured(name, questions, console)
    table = Table(
        title=f"{MODEL}: exact answers to {questions} held-out questions of each sort", title_justify="left"
    )
    for column in ("sort", "kind", "full", "blind", f"random {BUDGET:.0%}"):
        table.add_column(column)
    for sort, arms in found.items():
        for kind in arms["full"]:
            table.add_row(sort, kind, *(f"{arm[kind]:.1%}" for arm in arms.values()))
    console.print(table)
    document = {
        "what": "Exact answers on the test split: with all visual tokens, of grey pictures, with random ones",
        "questions": questions,
        "budget": BUDGET,
        "sorts": found,
    }
    path = RESULTS / "tasks-embedded-mrope.json"
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(document | provenance(), indent=1) + "\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
