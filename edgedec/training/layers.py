"""Layers in PyTorch for training: a spec's block with any weights, frozen or learned.

The torch twin of `edgedec.export._blocks`, for batches. `w` maps the names of one layer's tensors,
without the layer's prefix, to them. Knows nothing about bundles or texts.

Shapes: b texts, n rows, m keys, D width, H query heads, G key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedec.distance import buckets
from edgedec.rope import cos_sin, rotated
from edgedec.weights import layer_shapes

if TYPE_CHECKING:
    from edgedec.architecture import Attention, BiasTable, Layer, Mlp, Norm, Rope

Weights = Mapping[str, Tensor]
Pair = tuple[Tensor, Tensor]
"""Keys and values [b, G, m, d], turned and normed as the scores want them."""

Crossed = tuple[Tensor, Tensor, Tensor | None]
"""A source's keys and values [b, G, s, d], and what is added to its scores [b, 1, 1, s]."""

PAGE = 512
"""Angles are made for so many positions at a time."""


class Sight:
    """Where rows stand and what they see.

    `positions` [b, n] of the rows; `seen` bool [b or 1, n, m]: row i sees key j; `key_positions`
    [b, m] where the keys are not the rows themselves. Without `seen` the rows are a chain.
    """

    def __init__(
        self, positions: Tensor, seen: Tensor | None = None, key_positions: Tensor | None = None
    ) -> None:
        self.positions = positions
        self.keys = positions if key_positions is None else key_positions
        self.seen = seen
        self._masks: dict[int | None, Tensor] = {}
        self._turns: dict[tuple[Rope, int], Pair] = {}
        self._bias: Tensor | None = None

    def mask(self, window: int | None) -> Tensor | None:
        """What is added to the scores [b or 1, 1, n, m]; None: a plain chain."""
        if self.seen is None and window is None:
            return None
        if window not in self._masks:
            seen = self._chain() if self.seen is None else self.seen
            if window is not None:
                seen = seen & (self._distances().abs() < window)
            bias = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
            self._masks[window] = bias[:, None]
        return self._masks[window]

    def bias(self, spec: BiasTable, table: Tensor) -> Tensor:
        """T5's bias of the distances [b, H, n, m]; a stack's layers share it."""
        if self._bias is None:
            found = buckets(spec, self._distances().cpu().numpy())
            places = torch.from_numpy(found).to(table.device).long()
            self._bias = table[places].permute(0, 3, 1, 2)
        return self._bias

    def turns(self, rope: Rope, width: int) -> Pair:
        """The cosines and sines of the rows' angles [b, 1, n, r / 2] in heads so wide; a stack's
        layers share them."""
        if (rope, width) not in self._turns:
            pages = int(self.positions.max()) // PAGE + 1
            cos, sin = _angles(rope, width, pages, self.positions.device)
            self._turns[rope, width] = cos[self.positions][:, None], sin[self.positions][:, None]
        return self._turns[rope, width]

    def chained(self) -> Sight:
        """The same with what is seen written out."""
        return self if self.seen is not None else Sight(self.positions, self._chain(), self.keys)

    def _chain(self) -> Tensor:
        count = self.positions.shape[1]
        return torch.ones(1, count, count, dtype=torch.bool, device=self.positions.device).tril()

    def _distances(self) -> Tensor:
        return self.keys[:, None, :] - self.positions[:, :, None]


def block(
    x: Tensor,
    layer: Layer,
    w: Weights,
    sight: Sight,
    past: Pair | None = None,
    crossed: Crossed | None = None,
) -> tuple[Tensor, Pair]:
    """One layer [b, n, D] and its rows' own keys and values.

    `past` are keys and values that stand before the rows' own; `crossed` what cross-attention
    reads, with its mask [b, 1, 1, s].
    """
    kept: list[Pair] = []

    def attend(x: Tensor) -> Tensor:
        mixed, pair = _attention(x, layer.self_attention, w, sight, past)
        kept.append(pair)
        return mixed

    parts: list[tuple[str, Callable[[Tensor], Tensor]]] = [("self_attention", attend)]
    if layer.cross_attention is not None:
        spec = layer.cross_attention
        assert crossed is not None
        parts.append(("cross_attention", lambda x: _across(x, crossed, spec, w)))
    parts.append(("mlp", lambda x: mlp(x, layer.mlp, w)))
    return _joined(x, layer, w, parts), kept[0]


def _joined(
    x: Tensor,
    layer: Layer,
    w: Weights,
    parts: Sequence[tuple[str, Callable[[Tensor], Tensor]]],
) -> Tensor:
    """A layer's parts put together as its norms stand."""

    def normed(x: Tensor, name: str) -> Tensor:
        return norm(x, layer.norm, w, name)

    if layer.norm_order == "parallel":
        return sum((part(normed(x, f"{name}_norm")) for name, part in parts), x)
    for name, part in parts:
        if layer.norm_order == "pre":
            x = x + part(normed(x, f"{name}_norm"))
        elif layer.norm_order == "post":
            x = normed(x + part(x), f"{name}_norm")
        else:
            x = x + normed(part(normed(x, f"{name}_norm")), f"{name}_post_norm")
    return x


def _across(x: Tensor, crossed: Crossed, spec: Attention, w: Weights) -> Tensor:
    """Attention over the source's rows: all of them seen, none of them placed."""
    q = _heads(x, spec.heads, w, "cross_attention.q")
    if spec.qk_norm is not None:
        q = norm(q, spec.qk_norm, w, "cross_attention.q_norm")
    mixed = _mixed(q, crossed[0], crossed[1], spec, (crossed[2], None), chain=False)
    return linear(mixed, w, "cross_attention.o")


def read_source(memory: Tensor, spec: Attention, w: Weights) -> Pair:
    """The keys and values that a layer's cross-attention makes of the encoder's rows [b, s, D]."""
    k = _heads(memory, spec.kv_heads, w, "cross_attention.k")
    if spec.qk_norm is not None:
        k = norm(k, spec.qk_norm, w, "cross_attention.k_norm")
    return k, _heads(memory, spec.kv_heads, w, "cross_attention.v")


def norm(x: Tensor, spec: Norm, w: Weights, name: str) -> Tensor:
    """RMSNorm (1910.07467) or LayerNorm (1607.06450) over the last axis."""
    weight = w[f"{name}.weight"]
    if spec.offset:
        weight = weight + spec.offset
    if spec.kind == "layer":
        bias = w[f"{name}.bias"] if spec.bias else None
        return F.layer_norm(x, weight.shape, weight, bias, spec.eps)
    x = F.rms_norm(x, weight.shape, weight, spec.eps)
    return x + w[f"{name}.bias"] if spec.bias else x


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """X W^T, plus the bias if there is one."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def mlp(x: Tensor, spec: Mlp, w: Weights) -> Tensor:
    """down(act(gate(x)) * up(x)), or down(act(up(x)))."""
    up = linear(x, w, "mlp.up")
    if spec.gated:
        up = activate(linear(x, w, "mlp.gate"), spec.activation) * up
    else:
        up = activate(up, spec.activation)
    return linear(up, w, "mlp.down")


def activate(x: Tensor, kind: str) -> Tensor:
    """The activation functions of `Mlp.activation`."""
    match kind:
        case "silu":
            return F.silu(x)
        case "relu":
            return F.relu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case _:
            return F.gelu(x)


def rotate(x: Tensor, rope: Rope, sight: Sight) -> Tensor:
    """Turn the pairs of each head [b, H, n, d] by the angle of the row's position."""
    cos, sin = sight.turns(rope, x.shape[-1])
    half = rotated(rope, x.shape[-1]) // 2
    if rope.layout == "half":
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat((*turned, rest), -1)
    first, second = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
    pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((pairs.flatten(-2), x[..., 2 * half :]), -1)


@lru_cache(maxsize=64)
def _angles(rope: Rope, head_dim: int, pages: int, device: torch.device) -> Pair:
    cos, sin = cos_sin(rope, head_dim, range(pages * PAGE))
    return torch.from_numpy(cos).to(device), torch.from_numpy(sin).to(device)


def _attention(
    x: Tensor, spec: Attention, w: Weights, sight: Sight, past: Pair | None
) -> tuple[Tensor, Pair]:
    q = _heads(x, spec.heads, w, "self_attention.q")
    k = _heads(x, spec.kv_heads, w, "self_attention.k")
    v = _heads(x, spec.kv_heads, w, "self_attention.v")
    if spec.qk_norm is not None:
        q = norm(q, spec.qk_norm, w, "self_attention.q_norm")
        k = norm(k, spec.qk_norm, w, "self_attention.k_norm")
    if spec.rope is not None:
        q, k = rotate(q, spec.rope, sight), rotate(k, spec.rope, sight)
    own, chain = (k, v), sight.seen is None and past is None
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    near = None if spec.bias_table is None else sight.bias(spec.bias_table, w["bias_table"])
    mixed = _mixed(q, k, v, spec, (sight.mask(spec.window), near), chain=chain)
    return linear(mixed, w, "self_attention.o"), own


def _mixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: Attention,
    added: tuple[Tensor | None, Tensor | None],
    *,
    chain: bool,
) -> Tensor:
    """The heads' mixtures of values side by side [b, n, H d]; `added`: a mask, and a bias."""
    mask, near = added
    batch, heads, count, width = q.shape
    if chain and mask is None:
        mask = _causal(q) if near is not None or spec.softcap is not None else None
    if not torch.is_grad_enabled() and near is None and spec.softcap is None:
        # Without a gradient torch's fused kernel is the fastest there is.
        fused = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=chain and mask is None, scale=spec.scale, enable_gqa=True
        )
        return fused.transpose(1, 2).reshape(batch, count, -1)
    if chain and mask is None:
        mask = _causal(q)
    groups = heads // k.shape[1]
    # The query heads of a key/value head become rows of one product: nothing is copied.
    rows = (q * spec.scale).reshape(batch, k.shape[1], groups * count, width)
    scores = (rows @ k.transpose(2, 3)).view(batch, heads, count, -1)
    if near is not None:
        scores = scores + near
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if mask is not None:
        scores = scores + mask
    chances = scores.softmax(-1).view(batch, k.shape[1], groups * count, -1)
    mixed = (chances @ v).view(batch, heads, count, width)
    return mixed.transpose(1, 2).reshape(batch, count, -1)


def _causal(q: Tensor) -> Tensor:
    count = q.shape[2]
    return torch.full((1, 1, count, count), -torch.inf, device=q.device).triu(1)


def _heads(x: Tensor, count: int, w: Weights, name: str) -> Tensor:
    """A projection, one head after the other [b, count, n, d]."""
    found = linear(x, w, name)
    heads: Tensor = found.view(*found.shape[:2], count, -1).transpose(1, 2)
    return heads


class Own(nn.Module):
    """Layers that are learned: the same block with weights that are parameters.

    They begin at small random values, norms at 1, or as `start` says (names such as
    `layers.0.mlp.up.weight`). The names of their tensors in a file are those of a decoder.
    """

    def __init__(
        self, layers: Sequence[Layer], dim: int, start: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self._names: dict[str, str] = {}
        for index, layer in enumerate(self.layers):
            for name, shape in layer_shapes(f"layers.{index}", layer, dim):
                given = None if start is None else start.get(name)
                value = _start(name, shape, layer.norm.offset) if given is None else given.clone()
                self._names[name] = name.replace(".", "_")
                self.register_parameter(self._names[name], nn.Parameter(value))

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """The last layer's output [b, n, D]."""
        for index, layer in enumerate(self.layers):
            x, _ = block(x, layer, self.of(index), sight)
        return x

    def of(self, index: int) -> dict[str, Tensor]:
        """The tensors of a layer, for `block`."""
        prefix = f"layers.{index}."
        return {
            name.removeprefix(prefix): getattr(self, own)
            for name, own in self._names.items()
            if name.startswith(prefix)
        }

    def weights(self) -> dict[str, np.ndarray]:
        """All tensors by the names they have in a decoder."""
        return dict(self._arrays())

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, own in self._names.items():
            yield f"decoder.{name}", getattr(self, own).detach().cpu().numpy().copy()


def _start(name: str, shape: tuple[int, ...], offset: float) -> Tensor:
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.full(shape, 1.0 - offset)
    # What is added to the stream begins at nothing: the layer begins as the identity.
    if name.endswith((".o.weight", ".down.weight")):
        return torch.zeros(shape)
    small: Tensor = torch.randn(shape) * shape[1] ** -0.5
    return small
