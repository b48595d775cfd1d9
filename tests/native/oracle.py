"""What the native engine should compute, in numpy: the reference model with the same roundings.

Weights are the packed ones, activations are rounded to 8 bit per row and block before every matrix,
keys and values to half precision before use. Everything else is exact, in float64 where it matters
little and float32 where the reference has it. It shares no code with the engine.

A number that lies between two integers may be rounded either way by two right programs, and what
follows then differs by far more than float32 does. So each layer is also computed from what the
engine gave it (`layer`), and rows are named in which such a number stood (`doubtful`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture, Attention, Mlp, Norm
from edgedec.export import quantise, reference
from edgedec.export.checkpoint import Arrays, WeightSource
from edgedec.export.reference import Placement
from edgedec.manifest import Manifest
from edgedec.weights import role, shapes

Floats = NDArray[np.float32]
Pair = tuple[Floats, Floats]
Linear = Callable[[Floats, str], Floats]


NEAR = 2.5e-4
"""Numbers so near to the middle between two integers may be rounded either way."""


def rounded(x: Floats, block: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Activations [n, K] as 8-bit integers per row and block, and back; which rows are doubtful."""
    count, inputs = x.shape
    padded = np.pad(x, ((0, 0), (0, -inputs % block))).reshape(count, -1, block)
    most = np.abs(padded).max(axis=2, keepdims=True)
    factor = np.where(most > 1e-30, np.float32(127) / np.where(most > 1e-30, most, 1), 0)
    scaled = padded * factor.astype(np.float32)
    integers = np.rint(scaled)
    doubtful: NDArray[np.bool_] = np.abs(np.abs(scaled - integers) - 0.5) < NEAR
    back = integers * (most / np.float32(127))
    result: Floats = back.reshape(count, -1)[:, :inputs].astype(np.float32)
    return result, np.asarray(doubtful.reshape(count, -1).any(axis=1))


def as_packed(manifest: Manifest, source: WeightSource) -> Arrays:
    """A checkpoint's weights as an export rounds them."""

    def one(name: str) -> Floats:
        matrix: Floats = source.load(name)
        if not role(name):
            return matrix
        form = manifest.format_of(name)
        inputs = matrix.shape[1]
        padded = np.pad(matrix, ((0, 0), (0, -inputs % (form.block or 1))))
        return quantise.dequantise(*quantise.quantise(padded, form, name))[:, :inputs]

    spec = manifest.architecture
    return Arrays(spec, {name: one(name) for name in shapes(spec)})


class Oracle:
    """The logits of packed weights; `activations` and `halves` False leave out those roundings."""

    def __init__(
        self, manifest: Manifest, weights: Arrays, *, activations: bool = True, halves: bool = True
    ) -> None:
        self.architecture: Architecture = manifest.architecture
        self._format = manifest.format_of
        self._activations, self._halves = activations, halves
        self.weights = weights
        self.doubtful: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.stored: Pair | None = None
        """What the latest layer would store as keys and values [G, n, d], not yet rounded."""

    def logits(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> Floats:
        """The logits of every row [n, V]."""
        rows = Placement(len(tokens), parents)
        x = self.embed(tokens, rows)
        for index in range(self.architecture.layers):
            x = self.layer(x, index, rows)
        return self.head(x)

    def embed(self, tokens: Sequence[int], rows: Placement) -> Floats:
        """What enters the first layer [n, D]."""
        return reference._embed(self.architecture, self.weights, tokens, rows)

    def _input(self, x: Floats, name: str) -> Floats:
        if not self._activations:
            return x
        x, doubtful = rounded(x, self._format(name).block or 0)
        self.doubtful = self.doubtful | doubtful
        return x

    def _linear(self, prefix: str, w: dict[str, Floats]) -> Linear:
        def linear(x: Floats, name: str) -> Floats:
            y: Floats = self._input(x, f"{prefix}{name}.weight") @ w[f"{name}.weight"].T
            return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

        return linear

    def layer(self, x: Floats, index: int, rows: Placement, kept: Pair | None = None) -> Floats:
        """One layer [n, D]; it attends to `kept` keys and values where they are given."""
        self.doubtful = np.zeros(len(x), np.bool_)
        layer = self.architecture.decoder.layers[index]
        prefix = f"decoder.layers.{index}."
        w = reference._load(self.weights, self.architecture, prefix)
        linear = self._linear(prefix, w)

        def attend(x: Floats) -> Floats:
            q, k, v = self._projected(x, layer.self_attention, w, rows, linear)
            if kept is not None:
                k, v = kept
            mixed = _attention(q, k, v, layer.self_attention, rows)
            return linear(mixed, "self_attention.o")

        def feed(x: Floats) -> Floats:
            return _mlp(x, layer.mlp, linear)

        def normed(x: Floats, name: str) -> Floats:
            return reference.norm(x, layer.norm, w, name)

        if layer.norm_order == "parallel":
            seen, fed = normed(x, "self_attention_norm"), normed(x, "mlp_norm")
            return x + attend(seen) + feed(fed)
        for name, part in (("self_attention", attend), ("mlp", feed)):
            if layer.norm_order == "pre":
                x = x + part(normed(x, f"{name}_norm"))
            elif layer.norm_order == "post":
                x = normed(x + part(x), f"{name}_norm")
            else:
                x = x + normed(part(normed(x, f"{name}_norm")), f"{name}_post_norm")
        return x

    def _projected(
        self, x: Floats, spec: Attention, w: dict[str, Floats], rows: Placement, linear: Linear
    ) -> tuple[Floats, Floats, Floats]:
        def heads(name: str, count: int, norm: Norm | None) -> Floats:
            found: Floats = linear(x, f"self_attention.{name}")
            found = found.reshape(len(x), count, -1).swapaxes(0, 1)
            return reference.norm(found, norm, w, f"self_attention.{name}_norm") if norm else found

        q = heads("q", spec.heads, spec.qk_norm)
        k, v = heads("k", spec.kv_heads, spec.qk_norm), heads("v", spec.kv_heads, None)
        if spec.rope is not None:
            q, k = reference.rotate(q, spec.rope, rows), reference.rotate(k, spec.rope, rows)
        self.stored = k, v
        if self._halves:
            k, v = (t.astype(np.float16).astype(np.float32) for t in (k, v))
        return q, k, v

    def head(self, x: Floats) -> Floats:
        """Logits [n, V] of the last layer's output."""
        self.doubtful = np.zeros(len(x), np.bool_)
        spec, final = self.architecture.head, self.architecture.decoder.final_norm
        if final is not None:
            w = reference._load(self.weights, self.architecture, "decoder.", "final_norm.")
            x = reference.norm(x, final, w, "final_norm")
        name = "embed.weight" if spec.tied else "head.weight"
        logits: Floats = self._input(x, name) @ self.weights.load(name).T
        if spec.bias:
            logits += self.weights.load("head.bias")
        logits *= np.float32(spec.scale)
        return logits if spec.softcap is None else spec.softcap * np.tanh(logits / spec.softcap)


def _mlp(x: Floats, spec: Mlp, linear: Linear) -> Floats:
    up = linear(x, "mlp.up")
    if spec.gated:
        up = reference.activate(linear(x, "mlp.gate"), spec.activation) * up
    else:
        up = reference.activate(up, spec.activation)
    return linear(up, "mlp.down")


def _attention(q: Floats, k: Floats, v: Floats, spec: Attention, rows: Placement) -> Floats:
    visible, group = rows.visible(spec.window), spec.heads // spec.kv_heads
    mixed = np.empty_like(q)
    for head in range(spec.heads):
        scores = spec.scale * (q[head] @ k[head // group].T)
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        mixed[head] = reference.softmax(np.where(visible, scores, -np.inf)) @ v[head // group]
    return mixed.swapaxes(0, 1).reshape(q.shape[1], -1)
