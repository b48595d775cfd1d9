"""One segment of a decoder as a graph: embedding, layers, head.

Knows the architecture and the interface of a step graph (see `to_onnx`), not where weights come
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedec.architecture import Architecture, Layer, Mlp, Norm
from edgedec.export._attention import SelfAttention
from edgedec.export._data import DataFile
from edgedec.export._graph import MICROSOFT, Graph
from edgedec.export._weights import Weights
from edgedec.manifest import Format, Segment


@dataclass(frozen=True, slots=True)
class Plan:
    """What the graphs of all segments have in common."""

    architecture: Architecture
    formats: Mapping[str, Format]
    hidden: frozenset[int]
    data: DataFile
    data_name: str


class Decoder:
    """Builds the graph of one segment.

    The residual stream is `_x`, to which `_pending` is still to be added: the next norm does both
    in one node.
    """

    def __init__(self, plan: Plan, segment: Segment) -> None:
        self._plan = plan
        self._spec = plan.architecture
        self._segment = segment
        self._graph = Graph(plan.data_name)
        self._weights = Weights(self._graph, plan.data, plan.formats)
        limits = plan.architecture.limits
        self._attention = SelfAttention(self._graph, self._weights, limits.context)
        self._x = ""
        self._pending: str | None = None

    def build(self) -> Graph:
        """The whole graph of the segment."""
        segment, width = self._segment, self._spec.embed.dim
        if segment.embed:
            self._x = self._embedded()
            self._show(0)
        else:
            self._x = self._graph.input("hidden", np.float32, ("n", width))
        for index in range(segment.first, segment.last):
            self._layer(index, self._spec.decoder.layers[index])
            self._show(index + 1)
        if segment.head:
            self._graph.output(self._logits(), "logits", ("m", self._spec.vocab))
        return self._graph

    def _show(self, layer: int) -> None:
        leaves = layer == self._segment.last and not self._segment.head
        if leaves or layer in self._plan.hidden:
            self._graph.output(self._sum(), f"hidden.{layer}", ("n", self._spec.embed.dim))

    # --- the residual stream ---

    def _sum(self) -> str:
        if self._pending is not None:
            self._x = self._graph.node("Add", [self._x, self._pending])
            self._pending = None
        return self._x

    def _add(self, delta: str) -> None:
        self._sum()
        self._pending = delta

    def _normed(self, name: str, norm: Norm) -> str:
        """The norm of the stream; what was pending is added on the way."""
        if self._pending is None:
            return self._weights.norm(self._x, name, norm)
        both = (self._x, self._pending)
        self._pending = None
        normed, self._x = self._weights.add_norm(both, name, norm)
        return normed

    # --- embedding ---

    def _embedded(self) -> str:
        graph, embed, stack = self._graph, self._spec.embed, self._spec.decoder
        x = self._token_rows(embed.vocab, embed.dim)
        if embed.scale != 1.0:
            x = graph.node("Mul", [x, graph.constant(embed.scale, np.float32)])
        if stack.positions is not None:
            positions = graph.input("positions", np.int64, ("n",))
            if stack.positions.offset:
                positions = graph.node("Add", [positions, graph.constant(stack.positions.offset)])
            table = self._weights.vector("decoder.positions")
            x = graph.node("Add", [x, graph.node("Gather", [table, positions])])
        if stack.embed_norm is not None:
            x = self._weights.norm(x, "decoder.embed_norm", stack.embed_norm)
        return x

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

    # --- layers ---

    def _layer(self, index: int, layer: Layer) -> None:
        prefix = f"decoder.layers.{index}"
        if layer.norm_order == "parallel":
            self._parallel(index, layer)
            return
        for name, norm in (("self_attention", layer.norm), ("mlp", layer.norm)):
            x = (
                self._sum()
                if layer.norm_order == "post"
                else self._normed(f"{prefix}.{name}_norm", norm)
            )
            y = self._part(name, index, layer, x)
            if layer.norm_order == "sandwich":
                y = self._weights.norm(y, f"{prefix}.{name}_post_norm", norm)
            self._add(y)
            if layer.norm_order == "post":
                self._x = self._normed(f"{prefix}.{name}_norm", norm)

    def _parallel(self, index: int, layer: Layer) -> None:
        prefix = f"decoder.layers.{index}"
        first = self._normed(f"{prefix}.self_attention_norm", layer.norm)
        second = self._normed(f"{prefix}.mlp_norm", layer.norm)
        attended = self._part("self_attention", index, layer, first)
        self._add(self._graph.node("Add", [attended, self._part("mlp", index, layer, second)]))

    def _part(self, name: str, index: int, layer: Layer, x: str) -> str:
        if name == "mlp":
            return self._mlp(f"decoder.layers.{index}.mlp", layer.mlp, x)
        return self._attention(index, layer.self_attention, x)

    def _mlp(self, prefix: str, mlp: Mlp, x: str) -> str:
        def product(x: str, *names: str) -> str:
            owners = [f"{prefix}.{name}" for name in names]
            bias = self._weights.biases(owners, owners if mlp.bias else ())
            return self._weights.product(x, [f"{o}.weight" for o in owners], bias)

        if not mlp.gated:
            return product(self._activated(mlp, product(x, "up")), "down")
        forms = [self._weights.form(f"{prefix}.{name}.weight") for name in ("gate", "up")]
        if forms[0] == forms[1]:
            both = product(x, "gate", "up")
            gate, up = self._graph.nodes("Split", [both], 2, axis=1, num_outputs=2)
        else:
            gate, up = product(x, "gate"), product(x, "up")
        return product(self._graph.node("Mul", [self._activated(mlp, gate), up]), "down")

    def _activated(self, mlp: Mlp, x: str) -> str:
        if mlp.activation == "silu":
            return self._graph.node("QuickGelu", [x], MICROSOFT, alpha=1.0)
        if mlp.activation == "relu":
            return self._graph.node("Relu", [x])
        form = "tanh" if mlp.activation == "gelu_tanh" else "none"
        return self._graph.node("Gelu", [x], approximate=form)

    # --- head ---

    def _logits(self) -> str:
        graph, head, norm = self._graph, self._spec.head, self._spec.decoder.final_norm
        rows = graph.input("head_rows", np.int64, ("m",))
        x = graph.node("Gather", [self._sum(), rows])
        if norm is not None:
            x = self._weights.norm(x, "decoder.final_norm", norm)
        bias = self._weights.vector("head.bias") if head.bias else None
        table = "embed.weight" if head.tied else "head.weight"
        logits = self._weights.product(x, [table], bias)
        if head.softcap is None:
            return self._scaled(logits, head.scale)
        bounded = graph.node("Tanh", [self._scaled(logits, head.scale / head.softcap)])
        return self._scaled(bounded, head.softcap)

    def _scaled(self, x: str, scale: float) -> str:
        if scale == 1.0:
            return x
        return self._graph.node("Mul", [x, self._graph.constant(scale, np.float32)])
