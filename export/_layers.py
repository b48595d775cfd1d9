"""The layers of a stack as nodes: what enters them, norms, attention, mlp.

Knows the order of things in a layer; whom an attention looks at is its caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable

from edgedec.architecture import Attention, Layer, Mlp, Norm, Stack
from edgedec.export._graph import MICROSOFT, Graph
from edgedec.export._weights import Weights

Attend = Callable[[str, int, Attention, str], str]
"""Called with "self_attention" or "cross_attention", the layer's index, the spec and x."""


class Layers:
    """The residual stream through a stack, whose weights are named `prefix`.

    It is `_x`, to which `_pending` is still to be added: the next norm does both in one node.
    """

    def __init__(self, graph: Graph, weights: Weights, prefix: str, attend: Attend) -> None:
        self._graph = graph
        self._weights = weights
        self._prefix = prefix
        self._attend = attend
        self._x = ""
        self._pending: str | None = None

    def start(self, x: str) -> None:
        """Begin with rows [n, D]."""
        self._x = x

    def embed(self, x: str, stack: Stack, positions: Callable[[], str]) -> None:
        """Begin with embedded rows [n, D]: their positions and the norm are still to come."""
        graph = self._graph
        if stack.positions is not None:
            places = positions()
            if stack.positions.offset:
                places = graph.node("Add", [places, graph.constant(stack.positions.offset)])
            table = self._weights.vector(f"{self._prefix}.positions")
            x = graph.node("Add", [x, graph.node("Gather", [table, places])])
        if stack.embed_norm is not None:
            x = self._weights.norm(x, f"{self._prefix}.embed_norm", stack.embed_norm)
        self._x = x

    def sum(self) -> str:
        """The stream [n, D] as it is now."""
        if self._pending is not None:
            self._x = self._graph.node("Add", [self._x, self._pending])
            self._pending = None
        return self._x

    def final(self, stack: Stack) -> str:
        """The stream [n, D] behind the last layer, normed."""
        if stack.final_norm is None:
            return self.sum()
        return self._normed(f"{self._prefix}.final_norm", stack.final_norm)

    def _add(self, delta: str) -> None:
        self.sum()
        self._pending = delta

    def _normed(self, name: str, norm: Norm) -> str:
        """The norm of the stream; what was pending is added on the way."""
        if self._pending is None:
            return self._weights.norm(self._x, name, norm)
        both = (self._x, self._pending)
        self._pending = None
        normed, self._x = self._weights.add_norm(both, name, norm)
        return normed

    def layer(self, index: int, layer: Layer) -> None:
        """Send the stream through a layer."""
        prefix = f"{self._prefix}.layers.{index}"
        if layer.norm_order == "parallel":
            self._parallel(prefix, index, layer)
            return
        for name in _parts(layer):
            x = (
                self.sum()
                if layer.norm_order == "post"
                else self._normed(f"{prefix}.{name}_norm", layer.norm)
            )
            y = self._part(name, index, layer, x)
            if layer.norm_order == "sandwich":
                y = self._weights.norm(y, f"{prefix}.{name}_post_norm", layer.norm)
            self._add(y)
            if layer.norm_order == "post":
                self._x = self._normed(f"{prefix}.{name}_norm", layer.norm)

    def _parallel(self, prefix: str, index: int, layer: Layer) -> None:
        names = _parts(layer)
        normed = [self._normed(f"{prefix}.{name}_norm", layer.norm) for name in names]
        total, *others = (
            self._part(name, index, layer, x) for name, x in zip(names, normed, strict=True)
        )
        for other in others:
            total = self._graph.node("Add", [total, other])
        self._add(total)

    def _part(self, name: str, index: int, layer: Layer, x: str) -> str:
        if name == "mlp":
            return self._mlp(f"{self._prefix}.layers.{index}.mlp", layer.mlp, x)
        spec = layer.cross_attention if name == "cross_attention" else layer.self_attention
        assert spec is not None
        return self._attend(name, index, spec, x)

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


def _parts(layer: Layer) -> list[str]:
    """The names of what a layer is made of, in order."""
    cross = ["cross_attention"] if layer.cross_attention is not None else []
    return ["self_attention", *cross, "mlp"]
