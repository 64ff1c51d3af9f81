"""Seven workers for Octopus v4 that need no network once their packages are there, and the graph they make.

Six look something up or compute it: small and exact, and honest where they know nothing. The seventh is SmolLM2, which
answers whatever is left. A graph of your own looks like this file: nodes with descriptions, and a loader for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from reproductions.predict.octopus_lookups import (
    bible_verses,
    bible_worker,
    emoji_worker,
    licence_worker,
    licences,
    manual_pages,
    manual_worker,
    python_docs,
    python_worker,
)
from reproductions.predict.octopus_units import convert
from tokenry.data.scenes.pack import load_pack
from tokenry.embed.chat import ChatModel
from tokenry.predict.octopus_v4 import Graph, Node, Worker

NODES: Final = (
    Node("search_manual_pages", "Linux", "look up a command or system call in the Linux manual pages"),
    Node("look_up_python_docs", "Python", "look up a function of the Python standard library"),
    Node("find_bible_verse", "Bible", "find the Bible verse that contains some words"),
    Node("explain_licence", "law", "say what a software licence is called and what it begins with"),
    Node("convert_units", "measures", "convert a length, mass, volume, time or temperature to another unit"),
    Node("name_emoji", "symbols", "find an emoji by its name, or the name of an emoji"),
    Node("answer_directly", "general", "answer any other question or request in a chat"),
)
GENERAL: Final = "answer_directly"


def octopus_graph() -> Graph:
    """One router, seven workers; `answer_directly` takes what no other one can."""
    return Graph.star(NODES, general=GENERAL)


def octopus_loaders(pages: int | None = None) -> dict[str, Callable[[], Worker]]:
    """Worker -> function that loads it.

    Args:
        pages: Read no more manual pages than this; None reads all.
    """
    return {
        "search_manual_pages": lambda: manual_worker(manual_pages(pages)),
        "look_up_python_docs": lambda: python_worker(python_docs()),
        "find_bible_verse": lambda: bible_worker(bible_verses()),
        "explain_licence": lambda: licence_worker(licences()),
        "convert_units": lambda: convert,
        "name_emoji": lambda: emoji_worker(load_pack().objects),
        GENERAL: chat_worker,
    }


def chat_worker(max_new_tokens: int = 40) -> Worker:
    """SmolLM2 as it is, answering greedily in bfloat16."""
    from tokenry.models.load import load

    model = ChatModel(*load("smollm2", dtype=torch.bfloat16))
    return lambda request: model.complete([request], max_new_tokens)[0].text
