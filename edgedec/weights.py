"""The name, shape and role of every tensor of an architecture.

The one vocabulary shared by families (which map a checkpoint onto it), exporters and runtimes.
It knows nothing about where the numbers are. A matrix is [outputs, inputs].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from edgedec.architecture import Architecture, Attention, Frontend, Layer, Mlp, Norm, Stack

Role = Literal["embed", "head", "q", "k", "v", "o", "gate", "up", "down"]
ROLES: tuple[Role, ...] = get_args(Role)

Shapes = dict[str, tuple[int, ...]]


def shapes(architecture: Architecture) -> Shapes:
    """Every tensor of the model, name -> shape, in the order in which a step reads them."""
    dim, vocab = architecture.embed.dim, architecture.embed.vocab
    named: Shapes = {"embed.weight": (vocab, dim)}
    if architecture.source_embed is not None:
        named["encoder.embed.weight"] = (architecture.source_embed.vocab, dim)
    if architecture.frontend is not None:
        named.update(_frontend(architecture.frontend))
    for prefix, stack in (("encoder", architecture.encoder), ("decoder", architecture.decoder)):
        if stack is not None:
            named.update(_stack(prefix, stack, dim))
    if not architecture.head.tied:
        named["head.weight"] = (vocab, dim)
    if architecture.head.bias:
        named["head.bias"] = (vocab,)
    return named


def role(name: str) -> Role | None:
    """What kind of matrix a tensor is, or None for norms, biases and position tables."""
    owner, _, leaf = name.rpartition(".")
    last = owner.rpartition(".")[2]
    return last if leaf == "weight" and last in ROLES else None


def _frontend(frontend: Frontend) -> Iterator[tuple[str, tuple[int, ...]]]:
    inputs = frontend.features
    for index, conv in enumerate(frontend.convs):
        prefix = f"frontend.{index}"
        yield f"{prefix}.kernel", (conv.channels, inputs, conv.kernel)
        if conv.bias:
            yield f"{prefix}.bias", (conv.channels,)
        if conv.group_norm is not None:
            yield f"{prefix}.norm.weight", (conv.channels,)
            yield f"{prefix}.norm.bias", (conv.channels,)
        inputs = conv.channels


def _stack(prefix: str, stack: Stack, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if stack.positions is not None:
        yield f"{prefix}.positions", (stack.positions.count + stack.positions.offset, dim)
    yield from _norm(f"{prefix}.embed_norm", stack.embed_norm, dim)
    for index, layer in enumerate(stack.layers):
        yield from layer_shapes(f"{prefix}.layers.{index}", layer, dim)
    yield from _norm(f"{prefix}.final_norm", stack.final_norm, dim)
    table = stack.layers[0].self_attention.bias_table
    if table is not None:
        yield f"{prefix}.bias_table", (table.buckets, stack.layers[0].self_attention.heads)


def layer_shapes(prefix: str, layer: Layer, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of one layer, name -> shape; `prefix` such as `decoder.layers.0`."""
    post = layer.norm if layer.norm_order == "sandwich" else None
    for name, attention in (
        ("self_attention", layer.self_attention),
        ("cross_attention", layer.cross_attention),
    ):
        if attention is None:
            continue
        yield from _norm(f"{prefix}.{name}_norm", layer.norm, dim)
        yield from _attention(f"{prefix}.{name}", attention, dim)
        yield from _norm(f"{prefix}.{name}_post_norm", post, dim)
    yield from _norm(f"{prefix}.mlp_norm", layer.norm, dim)
    yield from _mlp(f"{prefix}.mlp", layer.mlp, dim)
    yield from _norm(f"{prefix}.mlp_post_norm", post, dim)


def _attention(prefix: str, spec: Attention, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    for name, shape in {
        "q": (queries, dim),
        "k": (keys, dim),
        "v": (keys, dim),
        "o": (dim, queries),
    }.items():
        yield f"{prefix}.{name}.weight", shape
        if name in spec.biases:
            yield f"{prefix}.{name}.bias", shape[:1]
    yield from _norm(f"{prefix}.q_norm", spec.qk_norm, spec.head_dim)
    yield from _norm(f"{prefix}.k_norm", spec.qk_norm, spec.head_dim)


def _mlp(prefix: str, spec: Mlp, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    matrices = {"up": (spec.width, dim), "down": (dim, spec.width)}
    if spec.gated:
        matrices = {"gate": (spec.width, dim), **matrices}
    for name, shape in matrices.items():
        yield f"{prefix}.{name}.weight", shape
        if spec.bias:
            yield f"{prefix}.{name}.bias", shape[:1]


def _norm(prefix: str, spec: Norm | None, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if spec is None:
        return
    yield f"{prefix}.weight", (dim,)
    if spec.bias:
        yield f"{prefix}.bias", (dim,)
