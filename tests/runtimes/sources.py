"""Small random encoder-decoder models of every kind, and what they must answer by the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    BiasTable,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Positions,
    Rope,
    Stack,
    Tokens,
)

VOCAB, DIM, CONTEXT, SOURCE = 50, 32, 48, 24

RMS = Norm(kind="rms", eps=1e-6)
LAYER_NORM = Norm(kind="layer", eps=1e-5, bias=True)
OFFSET = Norm(kind="rms", eps=1e-6, offset=1.0)
ALL = ("q", "k", "v", "o")
FOUR = Attention(heads=4, kv_heads=4, head_dim=8, scale=8**-0.5)
GATED = Mlp(width=64, activation="silu", gated=True)
PLAIN = Mlp(width=64, activation="gelu", gated=False, bias=True)


def model(encoder: Stack, decoder: Stack, **changes: Any) -> Architecture:
    base = Architecture(
        family="test",
        embed=Embedding(vocab=VOCAB, dim=DIM),
        encoder=encoder,
        decoder=decoder,
        head=Head(tied=True),
        tokens=Tokens(eos=(0,), decoder_start=0),
        limits=Limits(context=CONTEXT, source=SOURCE),
    )
    return replace(base, **changes)


def sides(layer: Layer, cross: Attention, counts: tuple[int, int] = (2, 2)) -> tuple[Any, Any]:
    """Layers of the encoder and of the decoder that differ in what they look at only."""
    attention = layer.self_attention
    source = replace(layer, self_attention=replace(attention, causal=False))
    target = replace(layer, cross_attention=replace(cross, causal=False))
    return (source,) * counts[0], (target,) * counts[1]


def mu() -> Architecture:
    plain = Attention(heads=4, kv_heads=2, head_dim=8, scale=8**-0.5, biases=ALL)
    layer = Layer(self_attention=replace(plain, rope=Rope(theta=10000.0)), mlp=GATED, norm=RMS)
    source, target = sides(layer, plain, (4, 3))
    centred = Rope(theta=10000.0, positions="centred")
    source = tuple(
        replace(x, self_attention=replace(x.self_attention, rope=centred)) for x in source
    )
    return model(Stack(layers=source, final_norm=RMS), Stack(layers=target, final_norm=RMS))


def t5(heads: int = 4) -> Architecture:
    plain = Attention(heads=heads, kv_heads=4, head_dim=8, scale=1.0)
    layer = Layer(self_attention=plain, mlp=Mlp(width=64, activation="relu", gated=False), norm=RMS)
    source, target = sides(layer, plain)

    def biased(layers: Sequence[Layer], both: bool) -> tuple[Layer, ...]:
        table = BiasTable(buckets=8, max_distance=16, bidirectional=both)
        return tuple(
            replace(x, self_attention=replace(x.self_attention, bias_table=table)) for x in layers
        )

    return model(
        Stack(layers=biased(source, True), final_norm=RMS),
        Stack(layers=biased(target, False), final_norm=RMS),
        head=Head(tied=True, scale=DIM**-0.5),
    )


def bart(order: Any = "post") -> Architecture:
    plain = replace(FOUR, biases=ALL)
    layer = Layer(self_attention=plain, mlp=PLAIN, norm=LAYER_NORM, norm_order=order)
    source, target = sides(layer, plain)
    outer = {"embed_norm": LAYER_NORM}
    return model(
        Stack(layers=source, positions=Positions(kind="learned", count=SOURCE, offset=2), **outer),
        Stack(layers=target, positions=Positions(kind="learned", count=CONTEXT, offset=2), **outer),
        head=Head(tied=True, bias=True),
    )


def marian() -> Architecture:
    """Sinusoidal positions, scaled embeddings, and a vocabulary of the source's own."""
    base = bart()
    wave = Positions(kind="sinusoidal", count=CONTEXT)
    encoder, decoder = (
        replace(stack, positions=wave, embed_norm=None)
        for stack in (base.encoder, base.decoder)
        if stack is not None
    )
    scale = DIM**0.5
    return replace(
        base,
        encoder=encoder,
        decoder=decoder,
        embed=Embedding(vocab=VOCAB, dim=DIM, scale=scale),
        source_embed=Embedding(vocab=VOCAB + 13, dim=DIM, scale=scale),
    )


def whisper() -> Architecture:
    plain = replace(FOUR, biases=("q", "v", "o"))
    layer = Layer(self_attention=plain, mlp=PLAIN, norm=LAYER_NORM)
    source, target = sides(layer, plain)
    convs = (
        Conv(channels=DIM, kernel=3, padding=1),
        Conv(channels=DIM, kernel=3, stride=2, padding=1),
    )
    return model(
        Stack(
            layers=source,
            positions=Positions(kind="sinusoidal", count=20),
            final_norm=LAYER_NORM,
        ),
        Stack(
            layers=target,
            positions=Positions(kind="learned", count=CONTEXT),
            final_norm=LAYER_NORM,
        ),
        frontend=Frontend(kind="mel", features=8, convs=convs, length=40),
        limits=Limits(context=CONTEXT, source=40),
    )


def moonshine() -> Architecture:
    norm = Norm(kind="layer", eps=1e-5)
    rope = Rope(theta=10000.0, fraction=0.5, layout="interleaved")
    layer = Layer(
        self_attention=replace(FOUR, rope=rope),
        mlp=Mlp(width=64, activation="gelu", gated=False, bias=True),
        norm=norm,
    )
    source, target = sides(layer, FOUR)
    gated = Mlp(width=64, activation="silu", gated=True, bias=True)
    convs = (
        Conv(channels=DIM, kernel=7, stride=4, bias=False, activation="tanh", group_norm=1e-5),
        Conv(channels=2 * DIM, kernel=5, stride=3),
        Conv(channels=DIM, kernel=3, stride=2),
    )
    return model(
        Stack(layers=source, final_norm=norm),
        Stack(layers=tuple(replace(x, mlp=gated) for x in target), final_norm=norm),
        frontend=Frontend(kind="waveform", features=1, convs=convs),
        limits=Limits(context=CONTEXT, source=1000),
    )


def sandwich() -> Architecture:
    """T5Gemma's: soft caps, windows both ways in the encoder, norms before and after."""
    plain = Attention(heads=4, kv_heads=2, head_dim=8, scale=0.3, softcap=4.0)
    layer = Layer(
        self_attention=replace(plain, rope=Rope(theta=10000.0)),
        mlp=replace(GATED, activation="gelu_tanh"),
        norm=OFFSET,
        norm_order="sandwich",
    )
    near = replace(layer, self_attention=replace(layer.self_attention, window=4))
    (far_source, near_source), (far, close) = (
        (one[0], other[0])
        for one, other in zip(sides(layer, plain), sides(near, plain), strict=True)
    )
    return model(
        Stack(layers=(near_source, far_source), final_norm=OFFSET),
        Stack(layers=(close, far), final_norm=OFFSET),
        embed=Embedding(vocab=VOCAB, dim=DIM, scale=DIM**0.5),
        head=Head(tied=False, softcap=10.0),
    )


def normed() -> Architecture:
    """Norms of queries and keys everywhere, and one layer that looks at the source not at all."""
    plain = Attention(heads=4, kv_heads=1, head_dim=8, scale=0.4, qk_norm=RMS)
    layer = Layer(self_attention=replace(plain, rope=Rope(theta=100.0)), mlp=GATED, norm=RMS)
    source, target = sides(layer, plain, (1, 3))
    without = replace(target[1], cross_attention=None)
    wide = replace(target[2], cross_attention=replace(plain, kv_heads=2, head_dim=16, causal=False))
    return model(
        Stack(layers=source, final_norm=RMS),
        Stack(layers=(target[0], without, wide), final_norm=RMS),
    )


MODELS = {
    "mu": mu(),
    "t5": t5(),
    "grouped t5": t5(heads=8),
    "bart": bart(),
    "mbart": bart("pre"),
    "parallel": bart("parallel"),
    "marian": marian(),
    "whisper": whisper(),
    "moonshine": moonshine(),
    "sandwich": sandwich(),
    "normed": normed(),
}


def a_source(architecture: Architecture, count: int, seed: int = 0) -> np.ndarray:
    """Random ids or features, `count` tokens or frames."""
    random = np.random.default_rng(seed)
    frontend = architecture.frontend
    if frontend is not None:
        return random.standard_normal((count, frontend.features)).astype(np.float32)
    vocab = (architecture.source_embed or architecture.embed).vocab
    return random.integers(0, vocab, count).astype(np.int32)


def lengths(architecture: Architecture) -> tuple[int, ...]:
    """Lengths of sources from the shortest to the longest."""
    frontend, longest = architecture.frontend, architecture.limits.source
    assert longest is not None
    if frontend is None:
        return (1, 7, longest)
    if frontend.length is not None:
        return (frontend.length,)
    shortest = next(count for count in range(1, longest) if frontend.rows(count) > 0)
    return (shortest, 200, longest)
