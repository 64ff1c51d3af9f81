"""Octopus v4: a query goes through the graph, from router to worker, and comes back answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from tokenry.predict.octopus_v4.graph import Graph
from tokenry.predict.octopus_v4.router import Router, Written
from tokenry.tokens.errors import InputError, TokenryError

Worker = Callable[[str], str]


@dataclass(frozen=True)
class WorkerCall:
    """Who is asked, and what.

    Attributes:
        worker: Id of the node.
        argument: The query, reworded for it.
        confidence: Probability of its functional token among those allowed.
        fallback: "" if this is what the router wrote; else why not: "unparsed" (no call could be read), "unsure"
            (below the threshold) or "unanswered" (only routers were met), for which `general` gets the query as it
            was; "empty" (an empty argument: the chosen worker gets the query as it was).
    """

    worker: str
    argument: str
    confidence: float
    fallback: Literal["", "unparsed", "unsure", "unanswered", "empty"] = ""


@dataclass(frozen=True)
class Hop:
    """One hand-off.

    Attributes:
        call: Who was asked, and what.
        output: What a worker said; None for a router.
        cost: Of the edge.
    """

    call: WorkerCall
    output: str | None
    cost: float


@dataclass(frozen=True)
class Answer:
    """What came of a query.

    Attributes:
        text: What the last worker said.
        hops: How the query went.
        stopped: Why it went no further: "sink" (a worker without neighbours), "max_hops", "revisit" (the next node had
            been asked before), "unsure" (the router was not sure whom to hand the output to).
    """

    text: str
    hops: tuple[Hop, ...]
    stopped: Literal["sink", "max_hops", "revisit", "unsure"]

    @property
    def cost(self) -> float:
        """Sum over the hops."""
        return sum(hop.cost for hop in self.hops)


class WorkerError(TokenryError):
    """A node could not be loaded, or failed.

    Attributes:
        node: Its id.
        query: What the user asked.
        argument: What the node was asked.
        hops: How far the query had come.
    """

    def __init__(self, message: str, *, node: str, query: str, argument: str, hops: tuple[Hop, ...]) -> None:
        super().__init__(message)
        self.node, self.query, self.argument, self.hops = node, query, argument, hops


class Octopus:
    """Routing with functional tokens over a graph of models (Octopus v4, arXiv 2404.19296).

    A router chooses one of its neighbours and words the request for it. A worker's output is the answer, or, where the
    worker has neighbours itself, goes on to one of them, which the router that called the worker chooses.

    The reference loads workers by module names, several of which it does not have; here a graph with a node that
    nothing loads is refused at once.

    Args:
        graph: Nodes and hand-offs.
        loaders: `Node.loader` -> function that loads the node: a worker is a function of the prompt that returns text,
            a router is a `Router`. Called when the node is first needed.
        threshold: Least confidence of a call; below it `general` gets the query, and a worker's output goes no further.
        keep: Nodes that stay loaded; the one that was used longest ago goes.

    Raises:
        InputError: If a node has no loader, a loader no node, or a setting makes no sense.
    """

    def __init__(
        self,
        graph: Graph,
        loaders: Mapping[str, Callable[[], Any]],
        *,
        threshold: float = 0.0,
        keep: int = 4,
    ) -> None:
        if not 0 <= threshold <= 1 or keep < 1:
            raise InputError(
                f"Threshold is a probability and keep at least 1, got threshold {threshold}, keep {keep}"
            )
        wanted = {node.loader: node.id for node in graph.nodes}
        if missing := [f"{wanted[name]!r} (as {name!r})" for name in wanted if name not in loaders]:
            raise InputError(
                f"Nothing loads {', '.join(missing)}: hand in a loader for each, or leave the node out."
            )
        if unknown := [repr(name) for name in loaders if name not in wanted]:
            raise InputError(f"The graph has no node that {', '.join(unknown)} would load: is it misspelt?")
        self.graph, self.threshold = graph, threshold
        self._loaders = dict(loaders)
        self._loaded = lru_cache(maxsize=keep)(lambda name: self._loaders[name]())

    def route(self, query: str) -> WorkerCall:
        """Choose who is to answer a query, from the start of the graph, and word it for them.

        Raises:
            InputError: If the query is empty or too long for the router.
            WorkerError: If the router cannot be loaded, or fails.
        """
        return self.route_many([query])[0]

    def route_many(self, queries: Sequence[str]) -> list[WorkerCall]:
        """Route several queries at once; see `route`."""
        return self._choose(self.graph.start, self.graph.start, queries, (), "\n".join(queries))

    def answer(self, query: str, *, max_hops: int = 3, revisit: bool = False) -> Answer:
        """Answer a query, through as many nodes as it takes.

        Args:
            query: What is asked.
            max_hops: Most hand-offs. If they brought the query only to routers, `general` answers it as it was.
            revisit: Whether a node may be asked twice; if not, the query stops where that would happen.

        Raises:
            InputError: If the query is empty or too long for the router, or `max_hops` is below 1.
            WorkerError: If a node cannot be loaded, or fails. It holds the query and how far it had come.
        """
        if max_hops < 1:
            raise InputError(f"A query needs at least one hand-off, got max_hops {max_hops}")
        router = at = self.graph.start
        text, said = query, None
        hops: list[Hop] = []
        visited = {at}
        stopped: Literal["sink", "max_hops", "revisit", "unsure"] = "max_hops"
        for _ in range(max_hops):
            (call,) = self._choose(router, at, [text], tuple(hops), query)
            if call.fallback in ("unparsed", "unsure"):
                if said is not None:
                    stopped = "unsure"
                    break
                call = replace(call, argument=query)  # as it was, whatever routers on the way made of it
            if call.worker in visited and not revisit:
                stopped = "revisit"
                break
            cost, at = self.graph.cost(at, call.worker), call.worker
            visited.add(at)
            if self.graph.node(at).kind == "router":
                router, text = at, call.argument
                hops.append(Hop(call, None, cost))
                continue
            text = said = self._ask(call, query, tuple(hops))
            hops.append(Hop(call, said, cost))
            if not self.graph.neighbours(at):
                stopped = "sink"
                break
        if said is None:
            call = WorkerCall(self.graph.general, query, 0.0, "unanswered")
            said = self._ask(call, query, tuple(hops))
            hops.append(Hop(call, said, self.graph.cost(at, call.worker)))
        return Answer(said, tuple(hops), stopped)

    def _choose(
        self, router: str, at: str, texts: Sequence[str], hops: tuple[Hop, ...], query: str
    ) -> list[WorkerCall]:
        """Let a router choose among the neighbours of a node."""
        asked = "\n".join(texts)
        node: Any = self._load(router, query, asked, hops)
        if not isinstance(node, Router):
            raise self._error(router, "is no router: it has no method write", query, asked, hops)
        allowed = self.graph.neighbours(at)
        try:
            written = node.write(texts, allowed)
        except Exception as error:
            if isinstance(error, TokenryError) and not hops:
                raise  # says itself what was wrong with the user's query
            raise self._error(router, f"failed with {error!r}", query, asked, hops) from error
        if len(written) != len(texts):
            reason = f"wrote {len(written)} calls for {len(texts)} queries"
            raise self._error(router, reason, query, asked, hops)
        for one in written:
            if one.worker is not None and one.worker not in allowed:
                reason = f"calls {one.worker!r}, but {at!r} may hand on to {', '.join(allowed)} only"
                raise self._error(router, reason, query, asked, hops)
        return [self._call(text, one) for text, one in zip(texts, written, strict=True)]

    def _call(self, query: str, written: Written) -> WorkerCall:
        if written.worker is None:
            return WorkerCall(self.graph.general, query, written.confidence, "unparsed")
        if written.confidence < self.threshold:
            return WorkerCall(self.graph.general, query, written.confidence, "unsure")
        if not written.argument.strip():
            return WorkerCall(written.worker, query, written.confidence, "empty")
        return WorkerCall(written.worker, written.argument, written.confidence)

    def _ask(self, call: WorkerCall, query: str, hops: tuple[Hop, ...]) -> str:
        worker: Any = self._load(call.worker, query, call.argument, hops)
        try:
            said = worker(self.graph.node(call.worker).fill(call.argument))
        except Exception as error:
            raise self._error(call.worker, f"failed with {error!r}", query, call.argument, hops) from error
        if not isinstance(said, str):
            reason = f"returned {type(said).__name__} instead of text"
            raise self._error(call.worker, reason, query, call.argument, hops)
        return said

    def _load(self, name: str, query: str, argument: str, hops: tuple[Hop, ...]) -> Any:
        try:
            return self._loaded(self.graph.node(name).loader)
        except Exception as error:
            reason = f"could not be loaded: {error!r}"
            raise self._error(name, reason, query, argument, hops) from error

    @staticmethod
    def _error(name: str, reason: str, query: str, argument: str, hops: tuple[Hop, ...]) -> WorkerError:
        return WorkerError(
            f"The node {name!r} {reason}. The query was {query!r}; it is kept in the error, with what was done so far.",
            node=name,
            query=query,
            argument=argument,
            hops=hops,
        )
