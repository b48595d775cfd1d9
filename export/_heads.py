"""Queries, keys and values as nodes: rows to heads, heads to rows.

It knows the weights and shapes of one attention, not whom its queries look at.

Shapes: n rows, D width, H query heads, G key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgedec.architecture import Attention, Rope
from edgedec.export._graph import MICROSOFT, Graph
from edgedec.export._weights import Weights
from edgedec.rope import cos_sin
from edgedec.rope import rotated as rotary_width

Pair = tuple[str, str]
"""Keys and values [G, m, d]."""


class Heads:
    """The nodes of one graph; what layers share (rotary tables, places in them) is made once.

    `positions` gives the positions [n] of the rows, all of them below `count`.
    """

    def __init__(
        self, graph: Graph, weights: Weights, count: int, positions: Callable[[], str]
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._count = count
        self._positions = positions
        self._shared: dict[tuple[object, ...], str] = {}

    # --- rows to heads ---

    def all(self, prefix: str, spec: Attention, x: str) -> tuple[str, str, str]:
        """Queries [H, n, d], keys and values [G, n, d] of rows [n, D], normed and rotated."""
        heads = self._projected(prefix, spec, x, ("q", "k", "v"))
        if spec.qk_norm is None:
            heads = self._rotated(heads, spec, spec.heads + spec.kv_heads, spec.kv_heads)
        sizes = self._graph.constant([spec.heads, spec.kv_heads, spec.kv_heads])
        query, key, value = self._graph.nodes("Split", [heads, sizes], 3, axis=0)
        if spec.qk_norm is not None:
            query = self._rotated(self._normed(prefix, spec, "q", query), spec, spec.heads)
            key = self._rotated(self._normed(prefix, spec, "k", key), spec, spec.kv_heads)
        return query, key, value

    def queries(self, prefix: str, spec: Attention, x: str) -> str:
        """Queries [H, n, d] without a position."""
        return self._normed(prefix, spec, "q", self._projected(prefix, spec, x, ("q",)))

    def pair(self, prefix: str, spec: Attention, x: str) -> Pair:
        """Keys and values [G, n, d] without a position."""
        heads = self._projected(prefix, spec, x, ("k", "v"))
        sizes = self._graph.constant([spec.kv_heads, spec.kv_heads])
        key, value = self._graph.nodes("Split", [heads, sizes], 2, axis=0)
        return self._normed(prefix, spec, "k", key), value

    def _projected(self, prefix: str, spec: Attention, x: str, names: Sequence[str]) -> str:
        """What was asked for under each other: [heads, n, d]."""
        widths = {"q": spec.heads, "k": spec.kv_heads, "v": spec.kv_heads}
        pieces = []
        for group in self._groups(prefix, names):
            flat = self._product(x, prefix, spec, group)
            heads = sum(widths[name] for name in group)
            shape = self._graph.constant([0, heads, spec.head_dim])
            rows = self._graph.node("Reshape", [flat, shape])
            pieces.append(self._graph.node("Transpose", [rows], perm=[1, 0, 2]))
        return pieces[0] if len(pieces) == 1 else self._graph.node("Concat", pieces, axis=0)

    def _groups(self, prefix: str, names: Sequence[str]) -> list[list[str]]:
        """Neighbours of the same format are one product."""
        groups: list[list[str]] = []
        last = None
        for name in names:
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

    def _normed(self, prefix: str, spec: Attention, name: str, heads: str) -> str:
        if spec.qk_norm is None:
            return heads
        return self._weights.norm(heads, f"{prefix}.{name}_norm", spec.qk_norm)

    # --- rotary positions ---

    def _rotated(self, heads: str, spec: Attention, rotated: int, kept: int = 0) -> str:
        """Rotary positions on the first `rotated` heads [., n, d]; the last `kept` stay."""
        if spec.rope is None:
            return heads
        cos, sin = self._rotary_tables(spec.rope, spec.head_dim)
        width = rotary_width(spec.rope, spec.head_dim)
        return self._graph.node(
            "RotaryEmbedding",
            [heads, cos, sin, self._places(rotated, kept)],
            num_heads=1,
            rotary_embedding_dim=0 if width == spec.head_dim else width,
            interleaved=int(spec.rope.layout == "interleaved"),
        )

    def _rotary_tables(self, rope: Rope, head_dim: int) -> tuple[str, str]:
        """cos and sin [count + 1, rotated / 2]; the last row turns nothing."""
        if ("cos", rope, head_dim) not in self._shared:
            tables = cos_sin(rope, head_dim, np.arange(self._count))
            index = len(self._shared)
            for name, table, still in zip(("cos", "sin"), tables, (1.0, 0.0), strict=True):
                rows = np.vstack([table, np.full_like(table[:1], still)])
                key = (name, rope, head_dim, self._count)
                made = self._weights.table(f"rope.{index}.{name}", key, rows)
                self._shared[name, rope, head_dim] = made
        return self._shared["cos", rope, head_dim], self._shared["sin", rope, head_dim]

    def _places(self, rotated: int, kept: int) -> str:
        """The rows of the rotary tables for each head and row [rotated + kept, n]."""
        key = ("places", rotated, kept)
        if key not in self._shared:
            graph = self._graph
            row = graph.node("Unsqueeze", [self._positions(), graph.constant([0])])
            tiled = graph.node("Tile", [row, graph.constant([rotated, 1])])
            if kept:
                zeros = graph.node("Mul", [row, graph.constant(0)])
                still = graph.node("Add", [zeros, graph.constant(self._count)])
                rest = graph.node("Tile", [still, graph.constant([kept, 1])])
                tiled = graph.node("Concat", [tiled, rest], axis=0)
            self._shared[key] = tiled
        return self._shared[key]

    # --- heads to rows ---

    def attended(
        self, prefix: str, spec: Attention, query: str, pairs: Sequence[Pair], added: str | None
    ) -> str:
        """Softmax over the keys of all pairs times their values, then the output matrix: [n, D].

        Heads that share a key stand as further rows of one product, so that keys and values are
        not repeated; nor are pairs joined: scores are, for the softmax. `added` goes to the scores.
        """
        graph, shared = self._graph, spec.heads // spec.kv_heads
        if shared > 1:
            grouped = graph.constant([spec.kv_heads, -1, spec.head_dim])
            query = graph.node("Reshape", [query, grouped])
        scores = [self._scores(spec, query, key) for key, _ in pairs]
        joined = scores[0] if len(pairs) == 1 else graph.node("Concat", scores, axis=2)
        if spec.softcap is not None:
            bounded = graph.node("Tanh", [joined])
            joined = graph.node("Mul", [bounded, graph.constant(spec.softcap, np.float32)])
        if added is not None:
            joined = graph.node("Add", [joined, added])
        weights = graph.node("Softmax", [joined], axis=-1)
        mixed = self._mixed(weights, pairs)
        if shared > 1:
            mixed = graph.node("Reshape", [mixed, graph.constant([spec.heads, -1, spec.head_dim])])
        return self._product(self._rows(mixed, spec, [0]), prefix, spec, ["o"])

    def fused(self, prefix: str, spec: Attention, query: str, pair: Pair) -> str:
        """The same for one pair, nothing added and no soft cap: scores are never whole in memory.

        2048 rows and 16 heads take 60 MB so, and 290 MB with scores, in the same time.
        """
        graph, shared = self._graph, spec.heads // spec.kv_heads
        heads = [query, *pair]
        if shared > 1:
            heads[1:] = (self._repeated(tensor, spec, shared) for tensor in pair)
        mixed = graph.node(
            "MultiHeadAttention",
            [self._rows(tensor, spec, [1, -1]) for tensor in heads],
            MICROSOFT,
            num_heads=spec.heads,
            scale=spec.scale,
        )
        flat = graph.node("Squeeze", [mixed, graph.constant([0])])
        return self._product(flat, prefix, spec, ["o"])

    def _rows(self, heads: str, spec: Attention, start: list[int]) -> str:
        """Heads [H, n, d] side by side: [*start, H * d]."""
        graph = self._graph
        rows = graph.node("Transpose", [heads], perm=[1, 0, 2])
        shape = graph.constant([*start, spec.heads * spec.head_dim])
        return graph.node("Reshape", [rows, shape])

    def _repeated(self, tensor: str, spec: Attention, shared: int) -> str:
        """Keys or values [G, m, d] for every query head: [H, m, d]."""
        graph = self._graph
        apart = graph.node("Unsqueeze", [tensor, graph.constant([1])])
        repeated = graph.node("Expand", [apart, graph.constant([1, shared, 1, 1])])
        return graph.node("Reshape", [repeated, graph.constant([spec.heads, -1, spec.head_dim])])

    def _scores(self, spec: Attention, query: str, keys: str) -> str:
        alpha = spec.scale / (spec.softcap or 1.0)
        return self._graph.node("FusedMatMul", [query, keys], MICROSOFT, alpha=alpha, transB=1)

    def _mixed(self, weights: str, pairs: Sequence[Pair]) -> str:
        graph = self._graph
        if len(pairs) == 1:
            return graph.node("MatMul", [weights, pairs[0][1]])
        parts = graph.nodes("Split", [weights, self._sizes(pairs)], len(pairs), axis=2)
        products = [
            graph.node("MatMul", [part, value])
            for part, (_, value) in zip(parts, pairs, strict=True)
        ]
        return graph.node("Add", products)

    def _sizes(self, pairs: Sequence[Pair]) -> str:
        """The numbers of past and new keys, for taking the weights apart."""
        if ("sizes",) not in self._shared:
            lengths = [self._graph.node("Shape", [key], start=1, end=2) for key, _ in pairs]
            self._shared["sizes",] = self._graph.node("Concat", lengths, axis=0)
        return self._shared["sizes",]
