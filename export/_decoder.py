"""One segment of a decoder as a graph: embedding, layers, head.

Knows the architecture and the interface of a step graph (see `to_onnx`), not where weights come
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedec.architecture import Architecture
from edgedec.export._attention import StepAttention, StepSight
from edgedec.export._data import DataFile
from edgedec.export._graph import Graph
from edgedec.export._heads import Heads
from edgedec.export._layers import Layers
from edgedec.export._weights import Weights
from edgedec.manifest import Format, Segment


@dataclass(frozen=True, slots=True)
class Plan:
    """What all graphs of a model have in common."""

    architecture: Architecture
    formats: Mapping[str, Format]
    hidden: frozenset[int]
    data: DataFile
    data_name: str


class Decoder:
    """Builds the graph of one segment."""

    def __init__(self, plan: Plan, segment: Segment) -> None:
        self._plan = plan
        self._spec = plan.architecture
        self._segment = segment
        self._graph = graph = Graph(plan.data_name)
        self._weights = weights = Weights(graph, plan.data, plan.formats)
        heads = Heads(graph, weights, plan.architecture.limits.context, self._positions)
        attention = StepAttention(graph, heads, StepSight(graph, weights))
        self._layers = Layers(graph, weights, "decoder", attention)

    def build(self) -> Graph:
        """The whole graph of the segment."""
        segment, width = self._segment, self._spec.embed.dim
        if segment.embed:
            x = self._token_rows(self._spec.embed.vocab, width)
            x = self._weights.scaled(x, self._spec.embed.scale)
            self._layers.embed(x, self._spec.decoder, self._positions)
            self._show(0)
        else:
            self._layers.start(self._graph.input("hidden", np.float32, ("n", width)))
        for index in range(segment.first, segment.last):
            self._layers.layer(index, self._spec.decoder.layers[index])
            self._show(index + 1)
        if segment.head:
            self._graph.output(self._logits(), "logits", ("m", self._spec.vocab))
        return self._graph

    def _positions(self) -> str:
        return self._graph.input("positions", np.int64, ("n",))

    def _show(self, layer: int) -> None:
        leaves = layer == self._segment.last and not self._segment.head
        if leaves or layer in self._plan.hidden:
            width = self._spec.embed.dim
            self._graph.output(self._layers.sum(), f"hidden.{layer}", ("n", width))

    def _token_rows(self, vocab: int, width: int) -> str:
        """Rows of the embedding table, or learned rows for ids of V and above."""
        graph = self._graph
        ids = graph.input("ids", np.int64, ("n",))
        learned = graph.input("learned", np.float32, ("c", width))
        first, zero = graph.constant(vocab), graph.constant(0)
        is_learned = graph.node("GreaterOrEqual", [ids, first])
        token = graph.node("Where", [is_learned, zero, ids])
        index = graph.node("Where", [is_learned, graph.node("Sub", [ids, first]), zero])
        rows = graph.node("Unsqueeze", [is_learned, graph.constant([1])])
        return graph.node(
            "Where",
            [
                rows,
                graph.node("Gather", [learned, index]),
                self._weights.lookup("embed.weight", token),
            ],
        )

    def _logits(self) -> str:
        graph, head, norm = self._graph, self._spec.head, self._spec.decoder.final_norm
        rows = graph.input("head_rows", np.int64, ("m",))
        x = graph.node("Gather", [self._layers.sum(), rows])
        if norm is not None:
            x = self._weights.norm(x, "decoder.final_norm", norm)
        bias = self._weights.vector("head.bias") if head.bias else None
        table = "embed.weight" if head.tied else "head.weight"
        logits = self._weights.product(x, [table], bias)
        if head.softcap is None:
            return self._weights.scaled(logits, head.scale)
        bounded = graph.node("Tanh", [self._weights.scaled(logits, head.scale / head.softcap)])
        return self._weights.scaled(bounded, head.softcap)
