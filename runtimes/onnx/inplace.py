"""A step graph changed at open so that new keys and values go into the session's own buffers.

In a bundle a graph is a pure function: it looks at past rows and new rows apart, joins the scores,
and gives the new rows out (`edgedec.export.to_onnx`). Here both lie in one tensor. `past.{l}.key`
[G, capacity, d] goes into a ScatterND that writes the new rows where `places.{G}` [G, n, 2] says,
and comes out as `present.{l}.key`; a session binds the two to the same memory, so nothing is copied
but the new rows. Masks (and buckets) then are [n, capacity]. Values are treated alike.

It is faster, but that is not why: with past and new apart, softmax and sums over rows are made in
an order that depends on how many rows share the step. In one tensor, with rows in the order of
their path, a row of a chain is computed alike whatever step it is in, and with 8-bit activations
the smallest difference may become a large one a layer later.

It knows no model and no session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from . import wire
from .wire import Field

_GRAPH = 7
_NODE, _INPUT, _OUTPUT = 1, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _OP = 1, 2, 4
_NAME, _TYPE = 1, 2
_INT64 = 7


def places(heads: int) -> str:
    """The input that says where layers with so many key/value heads write: [heads, n, 2]."""
    return f"places.{heads}"


@dataclass(frozen=True, slots=True)
class _Node:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    op: str
    rest: tuple[Field, ...] = ()
    """Name, domain and attributes."""

    @classmethod
    def read(cls, content: bytes) -> _Node:
        fields = wire.read(content)
        return cls(
            tuple(each.text for each in fields if each.number == _NODE_INPUT),
            tuple(each.text for each in fields if each.number == _NODE_OUTPUT),
            next((each.text for each in fields if each.number == _OP), ""),
            tuple(each for each in fields if each.number not in (_NODE_INPUT, _NODE_OUTPUT, _OP)),
        )

    def field(self) -> Field:
        return wire.message(
            _NODE,
            [
                *(wire.text(_NODE_INPUT, name) for name in self.inputs),
                *(wire.text(_NODE_OUTPUT, name) for name in self.outputs),
                wire.text(_OP, self.op),
                *self.rest,
            ],
        )


class _Nodes:
    """The nodes of a graph, in order, and who reads whom."""

    def __init__(self, nodes: Iterable[_Node]) -> None:
        self._nodes = dict(enumerate(nodes))
        self._readers: dict[str, list[int]] = {}
        self._makers: dict[str, int] = {}
        for index, node in self._nodes.items():
            for name in node.inputs:
                self._readers.setdefault(name, []).append(index)
            for name in node.outputs:
                self._makers[name] = index
        self._writers: dict[int, _Node] = {}

    def join(self, past: str, new: str, present: str, where: str) -> None:
        """Let those who look at past and new rows apart look at one tensor of both.

        Keys: Concat(FusedMatMul(query, past), FusedMatMul(query, new)) becomes one product.
        Values: Add(MatMul(w, past), MatMul(v, new)), w and v being Split from the weights, as well.

        Raises:
            ValueError, LookupError: they do not stand like that.
        """
        keys = past.endswith("key")
        product, meets = ("FusedMatMul", "Concat") if keys else ("MatMul", "Add")
        first, last = (self._reader(name, product, 1) for name in (past, new))
        end = self._reader(self._nodes[first].outputs[0], meets, 0)
        if end != self._reader(self._nodes[last].outputs[0], meets, 1):
            raise ValueError(f"{past} and {new} do not meet")
        taken = self._nodes[first].inputs[0]
        if not keys:
            taken = self._nodes[self._makers[taken]].inputs[0]
        ends = self._nodes[end].outputs
        joined = replace(self._nodes[first], inputs=(taken, present), outputs=ends)
        del self._nodes[first], self._nodes[end]
        # At this place the new rows are there, and nobody has read the sum yet.
        self._nodes[last] = joined
        self._writers[last] = _Node((past, where, new), (present,), "ScatterND")

    def _reader(self, name: str, op: str, place: int) -> int:
        """The one node of a kind that reads a tensor as its input number `place`."""
        readers = (index for index in self._readers.get(name, ()) if index in self._nodes)
        found = [index for index in readers if self._nodes[index].op == op]
        if len(found) != 1 or self._nodes[found[0]].inputs[place] != name:
            raise ValueError(f"{name} is not read by one {op}")
        return found[0]

    def needed(self, outputs: Iterable[str]) -> list[_Node]:
        """The nodes, in order, without those whose outputs nobody wants any more."""
        wanted, found = set(outputs), []
        for index in sorted(self._nodes, reverse=True):
            for node in (self._nodes[index], self._writers.get(index)):
                if node is not None and not wanted.isdisjoint(filter(None, node.outputs)):
                    wanted.update(node.inputs)
                    found.append(node)
        return found[::-1]


def in_place(model: bytes, heads: Mapping[str, int]) -> bytes:
    """The model whose new keys and values are written where it is told.

    `heads` are the keys and values it has, by name (`past.{l}.key`), and the heads of each.

    Raises:
        ValueError, LookupError: it is no model, or its attention is not as export writes it.
    """
    whole = wire.read(model)
    graph = [wire.read(each.content) for each in whole if each.number == _GRAPH]
    if len(graph) != 1:
        raise ValueError("it holds no graph")
    changed = wire.message(_GRAPH, _changed(graph[0], heads))
    return wire.written(changed if each.number == _GRAPH else each for each in whole)


def _changed(graph: list[Field], heads: Mapping[str, int]) -> list[Field]:
    nodes = _Nodes(_Node.read(each.content) for each in graph if each.number == _NODE)
    takes = {_name(each): each for each in graph if each.number == _INPUT}
    gives = {_name(each): each for each in graph if each.number == _OUTPUT}
    for past, count in heads.items():
        new, present = (f"{kind}{past.removeprefix('past')}" for kind in ("new", "present"))
        where = places(count)
        nodes.join(past, new, present, where)
        takes.setdefault(where, _whole_numbers(where, 3))
        gives[present] = _renamed(takes[past], present, _OUTPUT)
        gives.pop(new, None)
    kept = (each for each in graph if each.number not in (_NODE, _INPUT, _OUTPUT))
    made = (node.field() for node in nodes.needed(gives))
    return [*made, *kept, *takes.values(), *gives.values()]


def _name(value: Field) -> str:
    return next((each.text for each in wire.read(value.content) if each.number == _NAME), "")


def _renamed(value: Field, name: str, number: int) -> Field:
    rest = (each for each in wire.read(value.content) if each.number != _NAME)
    return wire.message(number, [wire.text(_NAME, name), *rest])


def _whole_numbers(name: str, dimensions: int) -> Field:
    """An input of int64 with so many dimensions of any size."""
    shape = wire.message(2, [wire.message(1, []) for _ in range(dimensions)])
    tensor = wire.message(1, [wire.whole(1, _INT64), shape])
    return wire.message(_INPUT, [wire.text(_NAME, name), wire.message(_TYPE, [tensor])])
