"""Self-attention of one layer as nodes: new rows against the past and against each other.

The past is an input and never copied: scores against past and new keys are computed apart, joined
for the softmax, and their values added. Heads that share a key stand as further rows of one
product, so keys and values are not repeated. It knows nothing about norms around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedec.architecture import Attention, Rope
from edgedec.export._graph import MICROSOFT, Graph
from edgedec.export._weights import Weights
from edgedec.manifest import mask_name
from edgedec.rope import cos_sin
from edgedec.rope import rotated as rotary_width


class SelfAttention:
    """Attention nodes of one graph; what layers share (masks, rotary tables) is made once."""

    def __init__(self, graph: Graph, weights: Weights, context: int) -> None:
        self._graph = graph
        self._weights = weights
        self._context = context
        self._shared: dict[tuple[object, ...], str] = {}

    def __call__(self, index: int, spec: Attention, x: str) -> str:
        """x [n, D] to the output projection's result [n, D]; gives new keys and values out."""
        graph, prefix = self._graph, f"decoder.layers.{index}.self_attention"
        heads = self._projected(prefix, spec, x)
        if spec.qk_norm is None:
            heads = self._rotated(heads, spec, spec.heads + spec.kv_heads, spec.kv_heads)
        sizes = graph.constant([spec.heads, spec.kv_heads, spec.kv_heads])
        query, key, value = graph.nodes("Split", [heads, sizes], 3, axis=0)
        if spec.qk_norm is not None:
            query = self._weights.norm(query, f"{prefix}.q_norm", spec.qk_norm)
            query = self._rotated(query, spec, spec.heads)
            key = self._weights.norm(key, f"{prefix}.k_norm", spec.qk_norm)
            key = self._rotated(key, spec, spec.kv_heads)
        for name, tensor in (("key", key), ("value", value)):
            graph.output(tensor, f"new.{index}.{name}", (spec.kv_heads, "n", spec.head_dim))
        mixed = self._attended(index, spec, query, key, value)
        return self._product(mixed, prefix, spec, ["o"])

    def _projected(self, prefix: str, spec: Attention, x: str) -> str:
        """Queries, keys and values of all heads under each other: [H + 2G, n, d]."""
        widths = {"q": spec.heads, "k": spec.kv_heads, "v": spec.kv_heads}
        pieces = []
        for group in self._groups(prefix):
            flat = self._product(x, prefix, spec, group)
            heads = sum(widths[name] for name in group)
            shape = self._graph.constant([0, heads, spec.head_dim])
            rows = self._graph.node("Reshape", [flat, shape])
            pieces.append(self._graph.node("Transpose", [rows], perm=[1, 0, 2]))
        return pieces[0] if len(pieces) == 1 else self._graph.node("Concat", pieces, axis=0)

    def _groups(self, prefix: str) -> list[list[str]]:
        """Neighbours of the same format are one product."""
        groups: list[list[str]] = []
        last = None
        for name in ("q", "k", "v"):
            form = self._weights.form(f"{prefix}.{name}.weight")
            if form == last:
                groups[-1].append(name)
            else:
                groups.append([name])
            last = form
        return groups

    def _product(self, x: str, prefix: str, spec: Attention, group: Sequence[str]) -> str:
        owners = [f"{prefix}.{name}" for name in group]
        bias = self._weights.biases(owners, [f"{prefix}.{name}" for name in spec.biases])
        return self._weights.product(x, [f"{owner}.weight" for owner in owners], bias)

    def _rotated(self, heads: str, spec: Attention, rotated: int, kept: int = 0) -> str:
        """Rotary positions on the first `rotated` heads [., n, d]; the last `kept` stay."""
        if spec.rope is None:
            return heads
        cos, sin = self._rotary_tables(spec.rope, spec.head_dim)
        positions = self._positions(rotated, kept)
        width = rotary_width(spec.rope, spec.head_dim)
        return self._graph.node(
            "RotaryEmbedding",
            [heads, cos, sin, positions],
            num_heads=1,
            rotary_embedding_dim=0 if width == spec.head_dim else width,
            interleaved=int(spec.rope.layout == "interleaved"),
        )

    def _rotary_tables(self, rope: Rope, head_dim: int) -> tuple[str, str]:
        """cos and sin [context + 1, rotated / 2]; the last row turns nothing."""
        if ("cos", rope, head_dim) not in self._shared:
            tables = cos_sin(rope, head_dim, np.arange(self._context))
            index = len(self._shared)
            for name, table, still in zip(("cos", "sin"), tables, (1.0, 0.0), strict=True):
                rows = np.vstack([table, np.full_like(table[:1], still)])
                made = self._weights.table(f"rope.{index}.{name}", (name, rope, head_dim), rows)
                self._shared[name, rope, head_dim] = made
        return self._shared["cos", rope, head_dim], self._shared["sin", rope, head_dim]

    def _positions(self, rotated: int, kept: int) -> str:
        """The rows of the rotary tables for each head and row [rotated + kept, n]."""
        key = ("positions", rotated, kept)
        if key not in self._shared:
            graph = self._graph
            positions = graph.input("positions", np.int64, ("n",))
            row = graph.node("Unsqueeze", [positions, graph.constant([0])])
            tiled = graph.node("Tile", [row, graph.constant([rotated, 1])])
            if kept:
                zeros = graph.node("Mul", [row, graph.constant(0)])
                still = graph.node("Add", [zeros, graph.constant(self._context)])
                rest = graph.node("Tile", [still, graph.constant([kept, 1])])
                tiled = graph.node("Concat", [tiled, rest], axis=0)
            self._shared[key] = tiled
        return self._shared[key]

    def _attended(self, index: int, spec: Attention, query: str, key: str, value: str) -> str:
        """Softmax over past and new keys times their values: [n, H * d]."""
        graph, shared = self._graph, spec.heads // spec.kv_heads
        dims = (spec.kv_heads, "capacity", spec.head_dim)
        past_key = graph.input(f"past.{index}.key", np.float32, dims)
        past_value = graph.input(f"past.{index}.value", np.float32, dims)
        if shared > 1:
            grouped = graph.constant([spec.kv_heads, -1, spec.head_dim])
            query = graph.node("Reshape", [query, grouped])
        scores = [self._scores(spec, query, keys) for keys in (past_key, key)]
        joined = self._capped(spec, graph.node("Concat", scores, axis=2))
        masked = graph.node("Add", [joined, self._mask(spec.window, shared)])
        weights = graph.node("Softmax", [masked], axis=-1)
        old, new = graph.nodes("Split", [weights, self._sizes(past_key, key)], 2, axis=2)
        products = [
            graph.node("MatMul", [old, past_value]),
            graph.node("MatMul", [new, value]),
        ]
        mixed = graph.node("Add", products)
        if shared > 1:
            apart = graph.constant([spec.heads, -1, spec.head_dim])
            mixed = graph.node("Reshape", [mixed, apart])
        rows = graph.node("Transpose", [mixed], perm=[1, 0, 2])
        return graph.node("Reshape", [rows, graph.constant([0, spec.heads * spec.head_dim])])

    def _scores(self, spec: Attention, query: str, keys: str) -> str:
        alpha = spec.scale / (spec.softcap or 1.0)
        return self._graph.node("FusedMatMul", [query, keys], MICROSOFT, alpha=alpha, transB=1)

    def _capped(self, spec: Attention, scores: str) -> str:
        if spec.softcap is None:
            return scores
        bounded = self._graph.node("Tanh", [scores])
        return self._graph.node("Mul", [bounded, self._graph.constant(spec.softcap, np.float32)])

    def _mask(self, window: int | None, shared: int) -> str:
        """Who sees whom, once per head that shares a key: [shared * n, capacity + n]."""
        name = mask_name(window)
        self._graph.input(name, np.float32, ("n", "total"))
        if shared == 1:
            return name
        key = ("mask", window, shared)
        if key not in self._shared:
            repeats = self._graph.constant([shared, 1])
            self._shared[key] = self._graph.node("Tile", [name, repeats])
        return self._shared[key]

    def _sizes(self, past: str, new: str) -> str:
        """The numbers of past and new keys, for taking the weights apart."""
        if ("sizes",) not in self._shared:
            lengths = [self._graph.node("Shape", [x], start=1, end=2) for x in (past, new)]
            self._shared["sizes",] = self._graph.node("Concat", lengths, axis=0)
        return self._shared["sizes",]
