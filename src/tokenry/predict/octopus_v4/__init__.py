"""Octopus v4 (arXiv 2404.19296): routing with functional tokens over a graph of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.predict.octopus_v4.dispatch import Answer as Answer
    from tokenry.predict.octopus_v4.dispatch import Hop as Hop
    from tokenry.predict.octopus_v4.dispatch import Octopus as Octopus
    from tokenry.predict.octopus_v4.dispatch import Worker as Worker
    from tokenry.predict.octopus_v4.dispatch import WorkerCall as WorkerCall
    from tokenry.predict.octopus_v4.dispatch import WorkerError as WorkerError
    from tokenry.predict.octopus_v4.graph import Edge as Edge
    from tokenry.predict.octopus_v4.graph import Graph as Graph
    from tokenry.predict.octopus_v4.graph import Node as Node
    from tokenry.predict.octopus_v4.router import FunctionalRouter as FunctionalRouter
    from tokenry.predict.octopus_v4.router import Router as Router
    from tokenry.predict.octopus_v4.router import Written as Written
    from tokenry.predict.octopus_v4.tokens import FunctionalTokens as FunctionalTokens
    from tokenry.predict.octopus_v4.tokens import add_functional_tokens as add_functional_tokens

__getattr__, __dir__, __all__ = face(__name__, moved={"Call": "predict.octopus_v4.WorkerCall"})
