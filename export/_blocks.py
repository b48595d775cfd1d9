"""What one layer computes, written as plainly as numpy allows. `reference.py` puts it together.

Knows nothing about files or runtimes. `w` holds the tensors of one layer, their names without the
layer's prefix, and the stack's `bias_table` if there is one. Shapes: n rows, s source rows, D
width, H query heads, G key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import Attention, Layer, Mlp, Norm, Rope
from edgedec.distance import buckets
from edgedec.errors import InputError
from edgedec.gelu import gelu
from edgedec.rope import cos_sin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Layered = dict[str, Floats]


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

    @classmethod
    def source(cls, count: int) -> Placement:
        """The rows of an encoder: every row sees every row."""
        rows = cls(count)
        rows.sees[:] = True
        return rows

    def visible(self, window: int | None) -> NDArray[np.bool_]:
        """[n, n]: row i sees row j."""
        return self.sees if window is None else self.sees & (np.abs(self.distances) < window)

    @property
    def distances(self) -> NDArray[np.int64]:
        """[n, n]: the position of row j - that of row i."""
        return self.positions[None, :] - self.positions[:, None]


def block(x: Floats, layer: Layer, w: Layered, rows: Placement, memory: Floats | None) -> Floats:
    """One layer; see `Layer.norm_order`. `memory` [s, D] is what the encoder gave, if any."""

    def attend(x: Floats) -> Floats:
        return attention(x, layer.self_attention, w, rows)

    def feed(x: Floats) -> Floats:
        return mlp(x, layer.mlp, w)

    def normed(x: Floats, name: str) -> Floats:
        return norm(x, layer.norm, w, name)

    parts: list[tuple[str, Callable[[Floats], Floats]]] = [("self_attention", attend)]
    if layer.cross_attention is not None and memory is not None:
        spec = layer.cross_attention
        parts.append(("cross_attention", lambda x: cross_attention(x, memory, spec, w)))
    parts.append(("mlp", feed))
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


def attention(x: Floats, spec: Attention, w: Layered, rows: Placement) -> Floats:
    """softmax(scale * q k^T + bias) v, per query head over its key/value head [n, D] -> [n, D]."""
    q, k, v = _projected(x, x, spec, w, "self_attention")
    if spec.rope is not None:
        q, k = rotate(q, spec.rope, rows), rotate(k, spec.rope, rows)
    bias = None
    if spec.bias_table is not None:
        bias = w["bias_table"][buckets(spec.bias_table, rows.distances)].transpose(2, 0, 1)
    mixed = _mixed(q, k, v, spec, rows.visible(spec.window), bias)
    return linear(mixed, w, "self_attention.o")


def cross_attention(x: Floats, memory: Floats, spec: Attention, w: Layered) -> Floats:
    """The same over the encoder's rows [s, D]: all of them seen, none of them placed."""
    q, k, v = _projected(x, memory, spec, w, "cross_attention")
    everyone = np.ones((len(x), len(memory)), dtype=bool)
    return linear(_mixed(q, k, v, spec, everyone), w, "cross_attention.o")


def rotate(x: Floats, rope: Rope, rows: Placement) -> Floats:
    """Turn the pairs of each head [H, n, d] by the angle of the row's position."""
    positions = rows.positions
    if rope.positions == "centred":
        positions = positions - (len(positions) - 1) // 2
    cos, sin = cos_sin(rope, x.shape[-1], positions)
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
            result = gelu(x)
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


def _projected(
    x: Floats, memory: Floats, spec: Attention, w: Layered, name: str
) -> tuple[Floats, Floats, Floats]:
    """Queries of the rows [H, n, d], keys and values of the memory [G, s, d]."""
    q = _heads(x, spec.heads, w, f"{name}.q")
    k = _heads(memory, spec.kv_heads, w, f"{name}.k")
    v = _heads(memory, spec.kv_heads, w, f"{name}.v")
    if spec.qk_norm is not None:
        q = norm(q, spec.qk_norm, w, f"{name}.q_norm")
        k = norm(k, spec.qk_norm, w, f"{name}.k_norm")
    return q, k, v


def _mixed(
    q: Floats,
    k: Floats,
    v: Floats,
    spec: Attention,
    visible: NDArray[np.bool_],
    bias: Floats | None = None,
) -> Floats:
    """The heads' mixtures of values side by side [n, H d]."""
    group = spec.heads // spec.kv_heads
    mixed = np.empty_like(q)
    for head in range(spec.heads):
        scores = spec.scale * (q[head] @ k[head // group].T)
        if bias is not None:
            scores = scores + bias[head]
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        mixed[head] = softmax(np.where(visible, scores, -np.inf)) @ v[head // group]
    return mixed.swapaxes(0, 1).reshape(q.shape[1], -1)


def _heads(x: Floats, count: int, w: Layered, name: str) -> Floats:
    """A projection, one head after the other [count, n, d]."""
    return linear(x, w, name).reshape(len(x), count, -1).swapaxes(0, 1)
