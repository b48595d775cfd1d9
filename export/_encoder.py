"""An encoder as a graph: a source in, keys and values of every layer's cross-attention out.

Knows the architecture and the interface of the graph (see `to_onnx`), not where weights come from.
"""

from __future__ import annotations

import numpy as np

from edgedec.architecture import Conv, Frontend, Stack
from edgedec.export._attention import SourceAttention, SourceSight, give
from edgedec.export._decoder import Plan
from edgedec.export._graph import Graph
from edgedec.export._heads import Heads
from edgedec.export._layers import Layers
from edgedec.export._weights import Weights
from edgedec.runtimes._source import most_rows


class Encoder:
    """Builds the graph."""

    def __init__(self, plan: Plan) -> None:
        self._spec = plan.architecture
        self._graph = graph = Graph(plan.data_name)
        self._weights = weights = Weights(graph, plan.data, plan.formats)
        self._positions_made: str | None = None
        self._rows = ""
        most = most_rows(plan.architecture)
        self._heads = heads = Heads(graph, weights, most, self._positions)
        sight = SourceSight(graph, weights, self._positions, most)
        self._layers = Layers(graph, weights, "encoder", SourceAttention(heads, sight))

    def build(self, stack: Stack) -> Graph:
        """The whole graph."""
        frontend = self._spec.frontend
        self._rows = self._token_rows() if frontend is None else self._sound_rows(frontend)
        self._layers.embed(self._rows, stack, self._positions)
        for index, layer in enumerate(stack.layers):
            self._layers.layer(index, layer)
        memory = self._layers.final(stack)
        for index, layer in enumerate(self._spec.decoder.layers):
            cross = layer.cross_attention
            if cross is not None:
                prefix = f"decoder.layers.{index}.cross_attention"
                pair = self._heads.pair(prefix, cross, memory)
                give(self._graph, f"cross.{index}", cross, pair, "s")
        return self._graph

    def _positions(self) -> str:
        """0 .. s - 1."""
        if self._positions_made is None:
            graph = self._graph
            size = graph.node("Shape", [self._rows], start=0, end=1)
            ends = [graph.constant(0), graph.node("Squeeze", [size]), graph.constant(1)]
            self._positions_made = graph.node("Range", ends)
        return self._positions_made

    def _token_rows(self) -> str:
        ids = self._graph.input("source", np.int64, ("s",))
        own = self._spec.source_embed
        table, embed = (
            ("embed.weight", self._spec.embed) if own is None else ("encoder.embed.weight", own)
        )
        return self._weights.scaled(self._weights.lookup(table, ids), embed.scale)

    # --- sound ---

    def _sound_rows(self, frontend: Frontend) -> str:
        """Features [n, F] through the convolutions: [s, D]."""
        graph = self._graph
        features = graph.input("features", np.float32, ("n", frontend.features))
        turned = graph.node("Transpose", [features], perm=[1, 0])
        x = graph.node("Unsqueeze", [turned, graph.constant([0])])
        for index, conv in enumerate(frontend.convs):
            x = self._convolved(f"frontend.{index}", conv, x)
        return graph.node("Transpose", [graph.node("Squeeze", [x, graph.constant([0])])])

    def _convolved(self, prefix: str, conv: Conv, x: str) -> str:
        """[1, C, n] to [1, C', n']."""
        graph, weights = self._graph, self._weights
        inputs = [x, weights.vector(f"{prefix}.kernel")]
        if conv.bias:
            inputs.append(weights.vector(f"{prefix}.bias"))
        pads = [conv.padding, conv.padding]
        x = graph.node("Conv", inputs, strides=[conv.stride], pads=pads)
        x = graph.node("Tanh" if conv.activation == "tanh" else "Gelu", [x])
        return x if conv.group_norm is None else self._group_normed(prefix, conv, x)

    def _group_normed(self, prefix: str, conv: Conv, x: str) -> str:
        """All channels and times are one group: an instance of one channel to ONNX."""
        graph = self._graph
        flat = graph.node("Reshape", [x, graph.constant([1, 1, -1])])
        one, none = (graph.constant([value], np.float32) for value in (1.0, 0.0))
        flat = graph.node("InstanceNormalization", [flat, one, none], epsilon=conv.group_norm)
        x = graph.node("Reshape", [flat, graph.constant([1, conv.channels, -1])])
        for op, name in (("Mul", "weight"), ("Add", "bias")):
            vector = self._weights.vector(f"{prefix}.norm.{name}")
            x = graph.node(op, [x, graph.node("Unsqueeze", [vector, graph.constant([1])])])
        return x
