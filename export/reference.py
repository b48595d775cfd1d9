"""The oracle: what a model computes, written as plainly as numpy allows.

Every other form of a model is compared with this one, and this one with transformers. Read it to
understand the spec (`architecture.py`); it is not fast. Layer by layer, so that one layer's
weights are in memory at a time. Knows nothing about files or runtimes.

Shapes: n rows, D width, H query heads, G key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import Architecture, Attention, Layer, Mlp, Norm, Rope
from edgedec.errors import InputError, UnsupportedError
from edgedec.rope import cos_sin
from edgedec.weights import shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.export.checkpoint import WeightSource

    Floats = NDArray[np.float32]
    Layered = dict[str, Floats]

HEAD_ROWS = 8192
"""Placement of the vocabulary in memory at a time."""


class Placement:
    """Where the n rows stand: their positions, and who sees whom.

    `parents[i] < i` is the row that row i follows, -1 where a text begins: a chain is one text, a
    tree its continuations, several roots several texts. Positions default to the parent's + 1. A
    row sees its ancestors and itself.
    """

    def __init__(
        self,
        count: int,
        parents: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        chain = range(-1, count - 1) if parents is None else parents
        self.positions = np.zeros(count, dtype=np.int64)
        self.sees = np.eye(count, dtype=bool)
        for row, parent in enumerate(chain):
            if not -1 <= parent < row:
                raise InputError(f"row {row} has the parent {parent}, must be an earlier row or -1")
            if parent >= 0:
                self.sees[row] |= self.sees[parent]
                self.positions[row] = self.positions[parent] + 1
        if positions is not None:
            self.positions[:] = positions

    def visible(self, window: int | None) -> NDArray[np.bool_]:
        """[n, n]: row i sees row j."""
        if window is None:
            return self.sees
        distance = self.positions[:, None] - self.positions[None, :]
        return self.sees & (distance < window)


def forward(
    architecture: Architecture,
    weights: WeightSource,
    tokens: Sequence[int] | NDArray[np.integer],
    *,
    parents: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Floats:
    """The logits of every row [n, V]; `parents` and `positions` as in `Placement`.

    Raises:
        InputError: no tokens, an id outside the vocabulary, or a parent that is no earlier row.
        UnsupportedError: a model with an encoder.
    """
    rows = Placement(len(tokens), parents, positions)
    for last in states(architecture, weights, tokens, rows):
        x = last
    final = architecture.decoder.final_norm
    if final is not None:
        x = norm(x, final, _load(weights, architecture, "decoder.", "final_norm."), "final_norm")
    return _head(x, architecture, weights)


def states(
    architecture: Architecture,
    weights: WeightSource,
    tokens: Sequence[int] | NDArray[np.integer],
    rows: Placement,
) -> Iterator[Floats]:
    """The hidden states [n, D] before the first layer and after each: L + 1 arrays."""
    if architecture.encoder is not None:
        raise UnsupportedError("the reference runs decoder-only models")
    x = _embed(architecture, weights, tokens, rows)
    yield x
    for index, layer in enumerate(architecture.decoder.layers):
        prefix = f"decoder.layers.{index}."
        x = block(x, layer, _load(weights, architecture, prefix), rows)
        yield x


def block(x: Floats, layer: Layer, w: Layered, rows: Placement) -> Floats:
    """One layer; see `Layer.norm_order`."""

    def attend(x: Floats) -> Floats:
        return attention(x, layer.self_attention, w, rows)

    def feed(x: Floats) -> Floats:
        return mlp(x, layer.mlp, w)

    def normed(x: Floats, name: str) -> Floats:
        return norm(x, layer.norm, w, name)

    if layer.norm_order == "parallel":
        return x + attend(normed(x, "self_attention_norm")) + feed(normed(x, "mlp_norm"))
    for name, part in (("self_attention", attend), ("mlp", feed)):
        if layer.norm_order == "pre":
            x = x + part(normed(x, f"{name}_norm"))
        elif layer.norm_order == "post":
            x = normed(x + part(x), f"{name}_norm")
        else:
            x = x + normed(part(normed(x, f"{name}_norm")), f"{name}_post_norm")
    return x


def attention(x: Floats, spec: Attention, w: Layered, rows: Placement) -> Floats:
    """softmax(scale * q k^T) v, per query head over its key/value head [n, D] -> [n, D]."""
    q = _heads(x, spec.heads, w, "self_attention.q")
    k = _heads(x, spec.kv_heads, w, "self_attention.k")
    v = _heads(x, spec.kv_heads, w, "self_attention.v")
    if spec.qk_norm is not None:
        q = norm(q, spec.qk_norm, w, "self_attention.q_norm")
        k = norm(k, spec.qk_norm, w, "self_attention.k_norm")
    if spec.rope is not None:
        q, k = rotate(q, spec.rope, rows), rotate(k, spec.rope, rows)
    visible = rows.visible(spec.window)
    group = spec.heads // spec.kv_heads
    mixed = np.empty_like(q)
    for head in range(spec.heads):
        scores = spec.scale * (q[head] @ k[head // group].T)
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        mixed[head] = softmax(np.where(visible, scores, -np.inf)) @ v[head // group]
    return linear(mixed.swapaxes(0, 1).reshape(len(x), -1), w, "self_attention.o")


def rotate(x: Floats, rope: Rope, rows: Placement) -> Floats:
    """Turn the pairs of each head [H, n, d] by the angle of the row's position."""
    cos, sin = cos_sin(rope, x.shape[-1], rows.positions)
    half = cos.shape[-1]
    pairs = np.arange(half)
    first, second = (pairs, pairs + half) if rope.layout == "half" else (2 * pairs, 2 * pairs + 1)
    turned = x.copy()
    turned[..., first] = x[..., first] * cos - x[..., second] * sin
    turned[..., second] = x[..., second] * cos + x[..., first] * sin
    return turned


def mlp(x: Floats, spec: Mlp, w: Layered) -> Floats:
    """down(act(gate(x)) * up(x)), or down(act(up(x)))."""
    up = linear(x, w, "mlp.up")
    if spec.gated:
        up = activate(linear(x, w, "mlp.gate"), spec.activation) * up
    else:
        up = activate(up, spec.activation)
    return linear(up, w, "mlp.down")


def activate(x: Floats, kind: str) -> Floats:
    """The activation functions of `Mlp.activation`."""
    result: Floats
    match kind:
        case "silu":
            result = x / (1 + np.exp(-np.maximum(x, -80)))
        case "relu":
            result = np.maximum(x, 0)
        case "gelu_tanh":
            result = 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
        case _:
            result = (0.5 * x * (1 + _erf(x / np.sqrt(2.0)))).astype(np.float32)
    return result


def norm(x: Floats, spec: Norm, w: Layered, name: str) -> Floats:
    """RMSNorm (1910.07467) or LayerNorm (1607.06450) over the last axis."""
    if spec.kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(spec.eps))
    x = x * (w[f"{name}.weight"] + np.float32(spec.offset))
    return x + w[f"{name}.bias"] if spec.bias else x


def linear(x: Floats, w: Layered, name: str) -> Floats:
    """X W^T, plus the bias if there is one."""
    y: Floats = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def softmax(scores: Floats) -> Floats:
    """Along the last axis; -inf gets nothing."""
    raised: Floats = np.exp(scores - scores.max(-1, keepdims=True))
    raised /= raised.sum(-1, keepdims=True)
    return raised


def _embed(
    architecture: Architecture, weights: WeightSource, tokens: object, rows: Placement
) -> Floats:
    ids = np.asarray(tokens)
    if not ids.size or ids.min() < 0 or ids.max() >= architecture.vocab:
        raise InputError(f"the tokens must be one or more ids from 0 to {architecture.vocab - 1}")
    kinds, place = np.unique(ids, return_inverse=True)
    vectors = [weights.load("embed.weight", slice(int(k), int(k) + 1))[0] for k in kinds]
    x = np.stack(vectors)[place] * np.float32(architecture.embed.scale)
    stack = architecture.decoder
    if stack.positions is not None:
        x = x + weights.load("decoder.positions")[rows.positions + stack.positions.offset]
    if stack.embed_norm is not None:
        w = _load(weights, architecture, "decoder.", "embed_norm.")
        x = norm(x, stack.embed_norm, w, "embed_norm")
    return x


def _heads(x: Floats, count: int, w: Layered, name: str) -> Floats:
    """A projection, one head after the other [count, n, d]."""
    return linear(x, w, name).reshape(len(x), count, -1).swapaxes(0, 1)


def _head(x: Floats, architecture: Architecture, weights: WeightSource) -> Floats:
    spec, vocab = architecture.head, architecture.vocab
    name = "embed.weight" if spec.tied else "head.weight"
    logits = np.empty((len(x), vocab), dtype=np.float32)
    for first in range(0, vocab, HEAD_ROWS):
        rows = slice(first, min(first + HEAD_ROWS, vocab))
        logits[:, rows] = x @ weights.load(name, rows).T
    if spec.bias:
        logits += weights.load("head.bias")
    logits *= np.float32(spec.scale)
    return logits if spec.softcap is None else spec.softcap * np.tanh(logits / spec.softcap)


def _load(
    weights: WeightSource, architecture: Architecture, prefix: str, module: str = ""
) -> Layered:
    """The tensors of a module, their names without the prefix."""
    names = [name for name in shapes(architecture) if name.startswith(prefix + module)]
    return {name.removeprefix(prefix): weights.load(name) for name in names}


def _erf(x: Floats) -> NDArray[np.float64]:
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x, dtype=np.float64))
    series = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    total = t * np.polynomial.polynomial.polyval(t, series)
    return np.sign(x) * (1 - total * np.exp(-np.square(x, dtype=np.float64)))
