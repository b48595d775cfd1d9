"""Whom the queries of a layer look at, as nodes.

In the decoder new rows look at the past and at each other, then at what the encoder gave; in the
encoder all rows look at each other. The past is an input and never copied: scores against past and
new keys are computed apart. It knows nothing about the norms around an attention.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from edgedec.architecture import Attention, BiasTable
from edgedec.distance import buckets
from edgedec.export._graph import Graph
from edgedec.export._heads import Heads, Pair
from edgedec.export._weights import Weights
from edgedec.manifest import mask_name
from edgedec.runtimes.onnx.masks import reach

UNSEEN = -3e38


class Sight(ABC):
    """What is added to the scores of a stack's layers: who is not seen, and T5's bias.

    Columns are all keys, `total` of them. What layers share is made once.
    """

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights
        self._shared: dict[tuple[object, ...], str | None] = {}

    def __call__(self, spec: Attention) -> str | None:
        """[n, total], or as many times below each other as heads share a key; or [G, ., total]."""
        shared = spec.heads // spec.kv_heads
        groups = spec.kv_heads if spec.bias_table else None
        key = (spec.window, spec.bias_table, shared, groups)
        if key not in self._shared:
            self._shared[key] = self._made(spec, shared)
        return self._shared[key]

    def _made(self, spec: Attention, shared: int) -> str | None:
        graph, mask = self._graph, self._mask(spec.window)
        if spec.bias_table is None:
            if mask is None or shared == 1:
                return mask
            return graph.node("Tile", [mask, graph.constant([shared, 1])])
        both = self._bias(spec.bias_table)
        if mask is not None:
            both = graph.node("Add", [both, mask])
        if shared == 1:
            return both
        return graph.node("Reshape", [both, graph.constant([spec.kv_heads, -1, 0])])

    @abstractmethod
    def _mask(self, window: int | None) -> str | None:
        """[n, total]: 0 where a key is seen, else a very negative number; None: all are."""

    @abstractmethod
    def _bias(self, table: BiasTable) -> str:
        """[H, n, total]."""

    def _table(self, prefix: str) -> str:
        """The bias table, a row for each head: [H, buckets]."""
        return self._graph.node("Transpose", [self._weights.vector(f"{prefix}.bias_table")])


class StepSight(Sight):
    """In the decoder: masks and buckets are inputs, for they follow the session's tree."""

    def _mask(self, window: int | None) -> str:
        return self._graph.input(mask_name(window), np.float32, ("n", "total"))

    def _bias(self, table: BiasTable) -> str:
        places = self._graph.input("buckets", np.int64, ("n", "total"))
        return self._graph.node("Gather", [self._table("decoder"), places], axis=1)


class SourceSight(Sight):
    """In the encoder: all rows see each other, both ways as far as a window reaches.

    `positions` gives 0 .. s - 1, and `most` is the largest s.
    """

    def __init__(
        self, graph: Graph, weights: Weights, positions: Callable[[], str], most: int
    ) -> None:
        super().__init__(graph, weights)
        self._positions = positions
        self._most = most
        self._apart: str | None = None

    def _mask(self, window: int | None) -> str | None:
        if window is None or window >= self._most:
            return None
        graph = self._graph
        distance = graph.node("Abs", [self._distances()])
        seen = graph.node("Less", [distance, graph.constant(window)])
        values = [graph.constant(value, np.float32) for value in (0.0, UNSEEN)]
        return graph.node("Where", [seen, *values])

    def _bias(self, table: BiasTable) -> str:
        """The table is first read by distance, as far as buckets differ: exact and small."""
        graph = self._graph
        far = min(self._most - 1, reach(table))
        by_distance = graph.constant(buckets(table, np.arange(-far, far + 1)))
        biases = graph.node("Gather", [self._table("encoder"), by_distance], axis=1)
        ends = [graph.constant(end) for end in (-far, far)]
        near = graph.node("Clip", [self._distances(), *ends])
        return graph.node(
            "Gather", [biases, graph.node("Add", [near, graph.constant(far)])], axis=1
        )

    def _distances(self) -> str:
        """The key's position - the query's [s, s]."""
        if self._apart is None:
            graph, positions = self._graph, self._positions()
            keys = graph.node("Unsqueeze", [positions, graph.constant([0])])
            queries = graph.node("Unsqueeze", [positions, graph.constant([1])])
            self._apart = graph.node("Sub", [keys, queries])
        return self._apart


class StepAttention:
    """The attentions of a decoder's layers."""

    def __init__(self, graph: Graph, heads: Heads, sight: Sight) -> None:
        self._graph = graph
        self._heads = heads
        self._sight = sight

    def __call__(self, part: str, index: int, spec: Attention, x: str) -> str:
        """Rows [n, D] to what the layer's self-attention or cross-attention makes of them."""
        prefix = f"decoder.layers.{index}.{part}"
        if part == "cross_attention":
            query = self._heads.queries(prefix, spec, x)
            pair = self._given("cross", index, spec, "s")
            return self._heads.attended(prefix, spec, query, [pair], None)
        query, key, value = self._heads.all(prefix, spec, x)
        give(self._graph, f"new.{index}", spec, (key, value), "n")
        pairs = [self._given("past", index, spec, "capacity"), (key, value)]
        return self._heads.attended(prefix, spec, query, pairs, self._sight(spec))

    def _given(self, kind: str, index: int, spec: Attention, rows: str) -> Pair:
        dims = (spec.kv_heads, rows, spec.head_dim)
        key, value = (
            self._graph.input(f"{kind}.{index}.{part}", np.float32, dims)
            for part in ("key", "value")
        )
        return key, value


class SourceAttention:
    """The attention of an encoder's layers."""

    def __init__(self, heads: Heads, sight: Sight) -> None:
        self._heads = heads
        self._sight = sight

    def __call__(self, part: str, index: int, spec: Attention, x: str) -> str:
        """Rows [s, D] to what the layer's self-attention makes of them."""
        prefix = f"encoder.layers.{index}.{part}"
        query, key, value = self._heads.all(prefix, spec, x)
        added = self._sight(spec)
        if added is None and spec.softcap is None:
            return self._heads.fused(prefix, spec, query, (key, value))
        return self._heads.attended(prefix, spec, query, [(key, value)], added)


def give(graph: Graph, name: str, spec: Attention, pair: Pair, rows: str) -> None:
    """Give keys and values out of the graph as `name`.key and `name`.value."""
    for part, tensor in zip(("key", "value"), pair, strict=True):
        graph.output(tensor, f"{name}.{part}", (spec.kv_heads, rows, spec.head_dim))
