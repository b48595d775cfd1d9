"""What the native engine should compute, in numpy: the reference model with the same roundings.

Weights are the packed ones, activations are rounded to 8 bit per row and block before every matrix,
keys and values to half precision before use. Everything else is exact, in float64 where it matters
little and float32 where the reference has it. It shares no code with the engine.

A number that lies between two integers may be rounded either way by two right programs, and what
follows then differs by far more than float32 does. So each layer is also computed from what the
engine gave it (`Side.layer`), and rows are named in which such a number stood (`doubtful`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec.architecture import Architecture, Attention, Mlp, Norm, Stack
from edgedec.distance import buckets
from edgedec.export import _blocks, quantise
from edgedec.export._blocks import Placement
from edgedec.export.checkpoint import Arrays, WeightSource
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


def halved(pair: Pair) -> Pair:
    """Keys and values as they are stored."""
    k, v = (t.astype(np.float16).astype(np.float32) for t in pair)
    return k, v


class Side:
    """The layers of a stack; `activations` and `halves` False leave out those roundings."""

    def __init__(
        self,
        manifest: Manifest,
        weights: Arrays,
        prefix: str = "decoder",
        *,
        activations: bool = True,
        halves: bool = True,
    ) -> None:
        self.architecture: Architecture = manifest.architecture
        stack = getattr(self.architecture, prefix)
        assert stack is not None
        self.stack: Stack = stack
        self.weights, self._prefix = weights, prefix
        self._format = manifest.format_of
        self._activations, self._halves = activations, halves
        self.doubtful: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.stored: Pair | None = None
        """What the latest layer would store as keys and values [G, n, d], not yet rounded."""

    def embed(self, tokens: Sequence[int], rows: Placement) -> Floats:
        """What enters the first layer [n, D]."""
        spec, name = self.architecture.embed, "embed.weight"
        if self._prefix == "encoder" and self.architecture.source_embed is not None:
            spec, name = self.architecture.source_embed, "encoder.embed.weight"
        found: Floats = self.weights.load(name)[np.array(tokens)]
        return self.enter(found * np.float32(spec.scale), rows)

    def enter(self, x: Floats, rows: Placement) -> Floats:
        """The same of vectors [n, D]."""
        table, norm = self.stack.positions, self.stack.embed_norm
        if table is not None:
            x = x + self.weights.load(f"{self._prefix}.positions")[rows.positions + table.offset]
        return x if norm is None else self._normed(x, norm, "embed_norm")

    def after(self, x: Floats) -> Floats:
        """The final norm."""
        norm = self.stack.final_norm
        return x if norm is None else self._normed(x, norm, "final_norm")

    def _normed(self, x: Floats, norm: Norm, name: str) -> Floats:
        return _blocks.norm(x, norm, self._load(f"{self._prefix}.", f"{name}."), name)

    def _load(self, prefix: str, module: str = "") -> dict[str, Floats]:
        names = [name for name in shapes(self.architecture) if name.startswith(prefix + module)]
        return {name.removeprefix(prefix): self.weights.load(name) for name in names}

    def input(self, x: Floats, name: str) -> Floats:
        """Rows as a matrix reads them."""
        if not self._activations:
            return x
        x, doubtful = rounded(x, self._format(name).block or 0)
        self.doubtful = self.doubtful | doubtful
        return x

    def _linear(self, prefix: str, w: dict[str, Floats]) -> Linear:
        def linear(x: Floats, name: str) -> Floats:
            y = times(self.input(x, f"{prefix}{name}.weight"), w[f"{name}.weight"].T)
            return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

        return linear

    def layer(
        self,
        x: Floats,
        index: int,
        rows: Placement,
        kept: Pair | None = None,
        source: Pair | None = None,
    ) -> Floats:
        """One layer [n, D]; it attends to `kept` keys and values where they are given.

        `source` [G, s, d] is what cross-attention reads.
        """
        self.doubtful = np.zeros(len(x), np.bool_)
        layer = self.stack.layers[index]
        prefix = f"{self._prefix}.layers.{index}."
        w = self._load(prefix)
        linear = self._linear(prefix, w)

        def attend(x: Floats) -> Floats:
            q, k, v = self._projected(x, layer.self_attention, w, rows, linear)
            if kept is not None:
                k, v = kept
            own = layer.self_attention
            mixed = _attention(q, k, v, own, rows.visible(own.window), self._bias(own, rows))
            return linear(mixed, "self_attention.o")

        def cross(x: Floats) -> Floats:
            spec = layer.cross_attention
            assert spec is not None and source is not None
            q = _heads(linear(x, "cross_attention.q"), spec.heads)
            if spec.qk_norm:
                q = _blocks.norm(q, spec.qk_norm, w, "cross_attention.q_norm")
            everyone = np.ones((len(x), source[0].shape[1]), np.bool_)
            return linear(_attention(q, *source, spec, everyone), "cross_attention.o")

        def normed(x: Floats, name: str) -> Floats:
            return _blocks.norm(x, layer.norm, w, name)

        parts: list[tuple[str, Callable[[Floats], Floats]]] = [("self_attention", attend)]
        parts += [("cross_attention", cross)] if layer.cross_attention else []
        parts += [("mlp", lambda x: _mlp(x, layer.mlp, linear))]
        if layer.norm_order == "parallel":
            return x + sum(part(normed(x, f"{name}_norm")) for name, part in parts)
        for name, part in parts:
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
            found = _heads(linear(x, f"self_attention.{name}"), count)
            return _blocks.norm(found, norm, w, f"self_attention.{name}_norm") if norm else found

        q = heads("q", spec.heads, spec.qk_norm)
        k, v = heads("k", spec.kv_heads, spec.qk_norm), heads("v", spec.kv_heads, None)
        if spec.rope is not None:
            rope = replace(spec.rope, positions="absolute")  # the engine counts all from 0
            q, k = _blocks.rotate(q, rope, rows), _blocks.rotate(k, rope, rows)
        self.stored = k, v
        if self._halves:
            k, v = halved((k, v))
        return q, k, v

    def _bias(self, spec: Attention, rows: Placement) -> Floats | None:
        if spec.bias_table is None:
            return None
        table = self.weights.load(f"{self._prefix}.bias_table")
        bias: Floats = table[buckets(spec.bias_table, rows.distances)].transpose(2, 0, 1)
        return bias


class Oracle(Side):
    """The logits of packed weights."""

    def __init__(
        self, manifest: Manifest, weights: Arrays, *, activations: bool = True, halves: bool = True
    ) -> None:
        super().__init__(manifest, weights, activations=activations, halves=halves)
        self.encoder = None
        if self.architecture.encoder is not None:
            self.encoder = Side(
                manifest, weights, "encoder", activations=activations, halves=halves
            )

    def logits(
        self,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        source: Floats | None = None,
    ) -> Floats:
        """The logits of every row [n, V]; `source` [s, D] is what enters the encoder."""
        rows = Placement(len(tokens), parents)
        pairs = [None] * self.architecture.layers if source is None else self.heard(source)
        x = self.embed(tokens, rows)
        for index in range(self.architecture.layers):
            x = self.layer(x, index, rows, source=pairs[index])
        return self.head(x)

    def heard(self, x: Floats) -> list[Pair | None]:
        """What the decoder's layers read of a source that enters the encoder as x."""
        assert self.encoder is not None
        rows = Placement.source(len(x))
        for index in range(len(self.encoder.stack.layers)):
            x = self.encoder.layer(x, index, rows)
        pairs = self.read(x)
        return [pair and (halved(pair) if self._halves else pair) for pair in pairs]

    def read(self, states: Floats) -> list[Pair | None]:
        """Keys and values [G, s, d] of each layer, not yet rounded, of an encoder's last states."""
        assert self.encoder is not None
        self.doubtful = np.zeros(len(states), np.bool_)
        states = self.encoder.after(states)
        return [self._read_layer(states, index) for index in range(self.architecture.layers)]

    def _read_layer(self, states: Floats, index: int) -> Pair | None:
        prefix = f"decoder.layers.{index}."
        spec, w = self.stack.layers[index].cross_attention, self._load(prefix)
        if spec is None:
            return None
        linear = self._linear(prefix, w)
        k, v = (_heads(linear(states, f"cross_attention.{part}"), spec.kv_heads) for part in "kv")
        if spec.qk_norm:
            k = _blocks.norm(k, spec.qk_norm, w, "cross_attention.k_norm")
        return k, v

    def head(self, x: Floats) -> Floats:
        """Logits [n, V] of the last layer's output."""
        self.doubtful = np.zeros(len(x), np.bool_)
        spec, x = self.architecture.head, self.after(x)
        name = "embed.weight" if spec.tied else "head.weight"
        logits = times(self.input(x, name), self.weights.load(name).T)
        if spec.bias:
            logits += self.weights.load("head.bias")
        logits *= np.float32(spec.scale)
        return logits if spec.softcap is None else spec.softcap * np.tanh(logits / spec.softcap)


def times(a: Floats, b: Floats) -> Floats:
    """a @ b, the same on every machine: how libraries add up in fp32 depends on the processor, and
    where numbers are rounded to 8 bit the last digit is felt some layers later."""
    product: Floats = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    return product


def _heads(x: Floats, count: int) -> Floats:
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def _mlp(x: Floats, spec: Mlp, linear: Linear) -> Floats:
    up = linear(x, "mlp.up")
    if spec.gated:
        up = _blocks.activate(linear(x, "mlp.gate"), spec.activation) * up
    else:
        up = _blocks.activate(up, spec.activation)
    return linear(up, "mlp.down")


def _attention(
    q: Floats,
    k: Floats,
    v: Floats,
    spec: Attention,
    visible: NDArray[np.bool_],
    bias: Floats | None = None,
) -> Floats:
    group = spec.heads // spec.kv_heads
    mixed = np.empty_like(q)
    for head in range(spec.heads):
        scores = spec.scale * times(q[head], k[head // group].T)
        if bias is not None:
            scores = scores + bias[head]
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        weights = _blocks.softmax(np.where(visible, scores, -np.inf))
        mixed[head] = times(weights, v[head // group])
    return mixed.swapaxes(0, 1).reshape(q.shape[1], -1)
