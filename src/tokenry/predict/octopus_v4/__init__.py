"""Octopus v4 (arXiv 2404.19296): routing with functional tokens over a graph of models."""

from tokenry.predict.octopus_v4.dispatch import Answer, Hop, Octopus, Worker, WorkerCall, WorkerError
from tokenry.predict.octopus_v4.graph import Edge, Graph, Node
from tokenry.predict.octopus_v4.router import FunctionalRouter, Router, Written
from tokenry.predict.octopus_v4.tokens import FunctionalTokens, add_functional_tokens

__all__ = [
    "Answer",
    "Edge",
    "FunctionalRouter",
    "FunctionalTokens",
    "Graph",
    "Hop",
    "Node",
    "Octopus",
    "Router",
    "Worker",
    "WorkerCall",
    "WorkerError",
    "Written",
    "add_functional_tokens",
]
