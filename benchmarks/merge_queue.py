"""Merging frequent neighbours in a batch: the queue, against counting every pair again after each merge."""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

from rich.console import Console

from benchmarks.common import interleave, write
from tokenry.data.text.corpora import load_corpus
from tokenry.text.dynamic_tokenization.merge_queue import MergeQueue, naive_merges

SHAPES = ((16, 128), (64, 256), (64, 512))  # samples, tokens a sample
MERGES = 300


def run(console: Console, rounds: int) -> None:
    """300 merges inside words of English manual pages, at three batch sizes; both ways must agree on every merge."""
    rows = []
    tokens = _tokens(load_corpus("manpages/en", limit=2_000_000).text(), max(a * b for a, b in SHAPES))
    for samples, length in SHAPES:
        batch = [tokens[i * length : (i + 1) * length] for i in range(samples)]
        queue = MergeQueue(batch, _inside_a_word)
        if (queue.run(MERGES), queue.sequences) != naive_merges(batch, MERGES, _inside_a_word)[::-1]:
            raise RuntimeError("the queue and the naive recount differ")
        ways = {
            "queue": partial(_queue, batch),
            "naive": partial(naive_merges, batch, MERGES, _inside_a_word),
        }
        timed = interleave(ways, max(3, rounds // 3), warm_up=1)
        rows.append(
            {
                "batch": f"{samples} x {length}",
                "merges": MERGES,
                "tokens before": samples * length,
                "tokens after": len(queue),
                "naive ms": 1e3 * timed["naive"].median,
                "queue ms": 1e3 * timed["queue"].median,
                "times faster": timed["naive"].over(timed["queue"]),
            }
        )
    write("merge-queue", rows, {"times faster at 64 x 256": ">= 10"}, console)


def _queue(batch: list[list[bytes]]) -> Any:
    queue = MergeQueue(batch, _inside_a_word)
    queue.run(MERGES)
    return queue.sequences


def _tokens(text: str, number: int) -> list[bytes]:
    """Words cut into random pieces of one to four characters, which is about what a small vocabulary does to them."""
    draw = random.Random(0)
    tokens: list[bytes] = []
    for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text):
        at = 0
        while at < len(word):
            size = draw.randint(1, 4)
            tokens.append(word[at : at + size].encode())
            at += size
        if len(tokens) >= number:
            return tokens[:number]
    raise RuntimeError(f"the text has only {len(tokens)} tokens of {number}")


def _inside_a_word(left: bytes, right: bytes) -> bool:
    return not any(space in (left + right)[1:] for space in b" \t\n")
