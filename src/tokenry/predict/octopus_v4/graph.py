"""The graph of Octopus v4: who can be asked, what they know, and who may hand on to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal

from tokenry.tokens.errors import InputError, UnknownNameError

QUERY: Final = "{query}"
"""Where a node's prompt template takes what it is asked."""


@dataclass(frozen=True)
class Node:
    """A router or a worker.

    Attributes:
        id: Its name.
        domain: What it is about, in a word or two.
        description: What it does, in a few words: its functional token starts from them.
        kind: "worker" answers; "router" chooses among its neighbours.
        prompt: What a worker is handed; ``{query}`` stands for the argument of the call.
        callable: Under which name `Octopus` finds what loads it; "" is its id.
    """

    id: str
    domain: str = ""
    description: str = ""
    kind: Literal["worker", "router"] = "worker"
    prompt: str = QUERY
    callable: str = ""

    @property
    def loader(self) -> str:
        """Name under which `Octopus` finds what loads it."""
        return self.callable or self.id

    def fill(self, argument: str) -> str:
        """Put an argument into the prompt template."""
        return self.prompt.replace(QUERY, argument)


@dataclass(frozen=True)
class Edge:
    """A hand-off that is allowed.

    Attributes:
        source, target: Ids of nodes.
        cost: Of asking the target, in a unit of the user's; `Answer.cost` adds them up.
    """

    source: str
    target: str
    cost: float = 1.0


@dataclass(frozen=True)
class Graph:
    """Nodes and the hand-offs between them; checked when it is made, every fault named at once.

    Attributes:
        nodes: Routers and workers.
        edges: Allowed hand-offs. A worker without any is a sink: what it says is the answer.
        start: The router that sees a query first.
        general: The worker that answers what no other one can; reachable from everywhere without an edge.

    Raises:
        InputError: If an id is empty or there twice, an edge ends nowhere, is there twice or costs less than nothing,
            a node cannot be reached, a router has no neighbour, `start` is no router, `general` no worker, or a prompt
            template has no place for the query.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    start: str = "router"
    general: str = "general"

    def __post_init__(self) -> None:
        if faults := [*self._node_faults(), *self._edge_faults(), *self._reach_faults()]:
            raise InputError("The graph cannot be used: " + "; ".join(faults))

    @classmethod
    def star(cls, workers: Iterable[Node], *, general: str = "general", router: str = "router") -> Graph:
        """One router that may hand a query to every worker."""
        nodes = tuple(workers)
        edges = tuple(Edge(router, node.id) for node in nodes)
        return cls((Node(router, kind="router"), *nodes), edges, router, general)

    def node(self, name: str) -> Node:
        """Return the node of that id.

        Raises:
            UnknownNameError: If there is none.
        """
        if name not in self._by_id:
            raise UnknownNameError(f"The graph has no node {name!r}; there are: {', '.join(self._by_id)}")
        return self._by_id[name]

    def neighbours(self, name: str) -> tuple[str, ...]:
        """Ids of the nodes that a node may hand on to."""
        return tuple(self._after.get(name, ()))

    def cost(self, source: str, target: str) -> float:
        """Cost of a hand-off; that to `general` is 0 where no edge says otherwise."""
        return self._costs.get((source, target), 0.0)

    def callees(self) -> dict[str, str]:
        """Id -> description of every node that can be handed to: those that need a functional token."""
        return {node.id: node.description for node in self.nodes if node.id != self.start}

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _after(self) -> dict[str, list[str]]:
        after: dict[str, list[str]] = {}
        for edge in self.edges:
            after.setdefault(edge.source, []).append(edge.target)
        return after

    @cached_property
    def _costs(self) -> dict[tuple[str, str], float]:
        return {(edge.source, edge.target): edge.cost for edge in self.edges}

    def _node_faults(self) -> Iterable[str]:
        for name, count in Counter(node.id for node in self.nodes).items():
            if count > 1:
                yield f"{count} nodes have the id {name!r}"
        for node in self.nodes:
            if not node.id.strip():
                yield "a node has no id"
            if node.kind not in ("worker", "router"):
                yield f"{node.id!r} is of kind {node.kind!r}, which is neither worker nor router"
            if QUERY not in node.prompt:
                yield f"the prompt of {node.id!r} has no {QUERY}"
            if node.kind == "router" and not self.neighbours(node.id):
                yield f"the router {node.id!r} has no neighbour to choose"
        for role, name, kind in (("start", self.start, "router"), ("general", self.general, "worker")):
            if name not in self._by_id:
                yield f"{role} is {name!r}, which is no node"
            elif self._by_id[name].kind != kind:
                yield f"{role} is {name!r}, which is no {kind}"

    def _edge_faults(self) -> Iterable[str]:
        for edge in self.edges:
            for end in (edge.source, edge.target):
                if end not in self._by_id:
                    yield f"an edge goes from {edge.source!r} to {edge.target!r}, and {end!r} is no node"
            if not edge.cost >= 0:
                yield f"the edge from {edge.source!r} to {edge.target!r} costs {edge.cost}"
        for (source, target), count in Counter((e.source, e.target) for e in self.edges).items():
            if count > 1:
                yield f"{count} edges go from {source!r} to {target!r}"

    def _reach_faults(self) -> Iterable[str]:
        seen, ahead = {self.general}, [self.start, self.general]
        while ahead:
            name = ahead.pop()
            seen.add(name)
            ahead += [target for target in self.neighbours(name) if target not in seen]
        for node in self.nodes:
            if node.id not in seen:
                yield f"{node.id!r} cannot be reached from {self.start!r}"

    def to_json(self) -> dict[str, Any]:
        """The graph as JSON values."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "start": self.start,
            "general": self.general,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Graph:
        """Read what `to_json` wrote.

        Raises:
            InputError: If it is something else, or the graph cannot be used.
        """
        try:
            nodes = tuple(Node(**node) for node in values["nodes"])
            edges = tuple(Edge(**edge) for edge in values["edges"])
            return cls(nodes, edges, str(values["start"]), str(values["general"]))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is no description of a graph: {error!r}") from error
