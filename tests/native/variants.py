"""Small models in native form whose every bit is the same on every machine (`counted.py`).

One model for each thing that the engine can do, and one for each family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec import rooms
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
    LongRopeScaling,
    Mlp,
    Norm,
    Positions,
    Rope,
    Stack,
    Tokens,
)
from edgedec.bundle import Bundle, open_bundle, write_bundle
from edgedec.devices import EngineOptions
from edgedec.export import quantise
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format, Forms, Manifest, NativeForm, Provenance, format_of
from edgedec.models import describe, families
from edgedec.runtimes import native
from edgedec.runtimes.native import packed
from edgedec.runtimes.native.engine import Native
from edgedec.weights import ROLES

from .counted import numbers, put, without_offsets

Floats = NDArray[np.float32]
Formats = Mapping[str, Format]

CONTEXT = 1200
RMS, LAYER_NORM = Norm(kind="rms", eps=1e-5), Norm(kind="layer", eps=1e-5, bias=True)
ROPE = Rope(theta=10000.0)
ALL_BIASES: Any = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Model:
    """A bundle and the numbers in it, as an oracle reads them."""

    bundle: Bundle
    weights: Arrays

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def architecture(self) -> Architecture:
        return self.manifest.architecture

    def open(self, threads: int = 1, kv_type: str | None = None) -> Native:
        return native.open(self.bundle, EngineOptions(threads=threads, kv_type=kv_type))


# --- the models --------------------------------------------------------------------------------


def attention(heads: int, kv_heads: int, width: int, **more: Any) -> Attention:
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        **{"scale": width**-0.5, "rope": ROPE, **more},
    )


def stack(*layers: Layer, **more: Any) -> Stack:
    return Stack(layers=layers, **{"final_norm": RMS, **more})


def architecture(dim: int, decoder: Stack, vocab: int = 99, **more: Any) -> Architecture:
    parts: dict[str, Any] = {
        "family": "llama",
        "embed": Embedding(vocab=vocab, dim=dim),
        "head": Head(tied=True),
        "tokens": Tokens(eos=(0,)),
        "limits": Limits(context=CONTEXT),
    }
    return Architecture(decoder=decoder, **{**parts, **more})


def _plain() -> Architecture:
    mlp = Mlp(width=96, activation="silu", gated=True)
    layer = Layer(self_attention=attention(4, 2, 16), mlp=mlp, norm=RMS)
    return architecture(48, stack(layer, layer, layer), vocab=300)


def _windows() -> Architecture:
    mlp = Mlp(width=112, activation="silu", gated=True, bias=True)
    layers = [
        Layer(self_attention=attention(6, 2, 8, window=window, biases=("q", "k", "v")), mlp=mlp,
              norm=RMS)
        for window in (6, None, 70)
    ]  # fmt: skip
    return architecture(64, stack(*layers), head=Head(tied=False, bias=True))


def _gemma() -> Architecture:
    norm = Norm(kind="rms", eps=1e-6, offset=1.0)
    mlp = Mlp(width=80, activation="gelu_tanh", gated=True)
    layers = [
        Layer(self_attention=attention(2, 1, 256, qk_norm=norm, softcap=20.0, window=window),
              mlp=mlp, norm=norm, norm_order="sandwich")
        for window in (None, 20)
    ]  # fmt: skip
    head = Head(tied=True, scale=0.5, softcap=8.0)
    embed = Embedding(vocab=99, dim=48, scale=6.75)
    return architecture(48, stack(*layers, final_norm=norm), head=head, embed=embed)


def _gpt2() -> Architecture:
    own = attention(3, 3, 80, rope=None, biases=ALL_BIASES)
    mlp = Mlp(width=100, activation="gelu_tanh", gated=False, bias=True)
    layer = Layer(self_attention=own, mlp=mlp, norm=LAYER_NORM)
    places = Positions(kind="learned", count=CONTEXT, offset=2)
    return architecture(32, stack(layer, layer, positions=places, final_norm=LAYER_NORM))


def _neox() -> Architecture:
    own = attention(2, 2, 96, rope=Rope(theta=5000.0, fraction=0.25), biases=ALL_BIASES)
    mlp = Mlp(width=64, activation="gelu", gated=False, bias=True)
    layer = Layer(self_attention=own, mlp=mlp, norm=LAYER_NORM, norm_order="parallel")
    head = Head(tied=False, bias=True, scale=2.0)
    return architecture(48, stack(layer, layer, final_norm=LAYER_NORM), head=head)


def _post() -> Architecture:
    own = attention(4, 1, 32, rope=None, softcap=5.0)
    mlp = Mlp(width=64, activation="relu", gated=False)
    layer = Layer(self_attention=own, mlp=mlp, norm=LAYER_NORM, norm_order="post")
    places = Positions(kind="learned", count=CONTEXT)
    return architecture(
        32, stack(layer, layer, positions=places, embed_norm=LAYER_NORM, final_norm=None)
    )


def _interleaved() -> Architecture:
    turned = Rope(theta=10000.0, fraction=0.5, layout="interleaved")
    qk = Norm(kind="layer", eps=1e-5)
    mlp = Mlp(width=72, activation="gelu", gated=True)
    layers = [
        Layer(self_attention=attention(2, 1, 80, rope=rope, qk_norm=qk), mlp=mlp, norm=RMS)
        for rope in (turned, replace(turned, theta=500.0, fraction=0.2, layout="half"))
    ]
    return architecture(48, stack(*layers))


def _groups() -> Architecture:
    mlp = Mlp(width=64, activation="relu", gated=True)
    layer = Layer(self_attention=attention(9, 1, 8, qk_norm=RMS), mlp=mlp, norm=RMS)
    return architecture(48, stack(layer, layer), vocab=1040)


# --- models that read a source -------------------------------------------------------------------


def reading(
    dim: int, encoder: Layer, decoder: Layer, sides: tuple[Any, Any] = ({}, {}), **more: Any
) -> Architecture:
    """Three encoder layers, two decoder layers with cross-attention; `sides` are their `stack`s."""
    limits = Limits(context=CONTEXT, source=CONTEXT)
    encoders = stack(encoder, encoder, encoder, **sides[0])
    decoders = stack(decoder, decoder, **sides[1])
    return architecture(dim, decoders, encoder=encoders, **{"limits": limits, **more})


def read_by(layer: Layer, **cross: Any) -> Layer:
    """The layer with cross-attention like its own attention, but for `cross`."""
    own = {"rope": None, "bias_table": None, "window": None, "causal": False}
    return replace(layer, cross_attention=replace(layer.self_attention, **own, **cross))


def _mu() -> Architecture:
    centred = replace(ROPE, positions="centred")
    own = attention(4, 2, 64, rope=centred, biases=ALL_BIASES, causal=False)
    mlp = Mlp(width=160, activation="silu", gated=True)
    encoder = Layer(self_attention=own, mlp=mlp, norm=RMS)
    decoder = replace(encoder, self_attention=replace(own, rope=ROPE, causal=True))
    return reading(64, encoder, read_by(decoder))


def _t5() -> Architecture:
    near = BiasTable(buckets=12, max_distance=37, bidirectional=True)
    own = attention(5, 5, 24, rope=None, scale=1.0, bias_table=near, causal=False)
    encoder = Layer(self_attention=own, mlp=Mlp(width=64, activation="relu", gated=False), norm=RMS)
    table = BiasTable(buckets=10, max_distance=150, bidirectional=False)
    causal = replace(own, bias_table=table, causal=True)
    decoder = replace(encoder, self_attention=causal)
    head, embed = Head(tied=True, scale=0.25), Embedding(vocab=77, dim=48)
    return reading(48, encoder, read_by(decoder), head=head, source_embed=embed)


def _whisper() -> Architecture:
    own = attention(2, 2, 32, rope=None, biases=("q", "v", "o"), causal=False)
    mlp = Mlp(width=128, activation="gelu", gated=False, bias=True)
    encoder = Layer(self_attention=own, mlp=mlp, norm=LAYER_NORM)
    decoder = replace(encoder, self_attention=replace(own, causal=True))
    convs = (
        Conv(channels=48, kernel=3, padding=1),
        Conv(channels=48, kernel=3, stride=2, padding=1),
    )
    waves = Positions(kind="sinusoidal", count=CONTEXT // 2)
    places = Positions(kind="learned", count=CONTEXT)
    ends = [{"positions": table, "final_norm": LAYER_NORM} for table in (waves, places)]
    frontend = Frontend(kind="mel", features=5, convs=convs)
    return reading(48, encoder, read_by(decoder), (ends[0], ends[1]), frontend=frontend)


def _bart() -> Architecture:
    own = attention(3, 3, 16, rope=None, biases=ALL_BIASES, causal=False)
    mlp = Mlp(width=72, activation="gelu", gated=False, bias=True)
    encoder = Layer(self_attention=own, mlp=mlp, norm=LAYER_NORM, norm_order="post")
    decoder = replace(encoder, self_attention=replace(own, causal=True))
    side = {
        "positions": Positions(kind="learned", count=CONTEXT, offset=2),
        "embed_norm": LAYER_NORM,
        "final_norm": None,
    }
    embed = Embedding(vocab=99, dim=48, scale=7.0)
    return reading(
        48, encoder, read_by(decoder), (side, side), head=Head(tied=True, bias=True), embed=embed
    )


def _t5gemma() -> Architecture:
    norm = Norm(kind="rms", eps=1e-6, offset=1.0)
    mlp = Mlp(width=80, activation="gelu_tanh", gated=True)
    own = attention(4, 2, 80, softcap=20.0, window=9, causal=False)
    encoder = Layer(self_attention=own, mlp=mlp, norm=norm, norm_order="sandwich")
    decoder = replace(encoder, self_attention=replace(own, window=20, causal=True))
    across = read_by(decoder, heads=6, kv_heads=3, head_dim=16, qk_norm=norm)
    return reading(64, encoder, across, ({"final_norm": norm}, {"final_norm": norm}))


def _beside() -> Architecture:
    own = attention(2, 1, 96, rope=replace(ROPE, fraction=0.25), causal=False)
    mlp = Mlp(width=64, activation="gelu", gated=False)
    encoder = Layer(self_attention=own, mlp=mlp, norm=RMS, norm_order="parallel")
    decoder = replace(encoder, self_attention=replace(own, causal=True))
    return reading(48, encoder, read_by(decoder, kv_heads=2, biases=("k", "v")))


def _all(kind: Any, block: int) -> dict[str, Format]:
    return {str(name): Format(kind=kind, block=block) for name in ROLES}


MIXED = {
    **_all("int4", 128),
    "v": Format(kind="int8", block=128),
    "up": Format(kind="int8", block=64),
    "gate": Format(kind="int4", block=64),
    "embed": Format(kind="int8", block=32),
}

VARIANTS = {
    "plain": (_plain, _all("int8", 32)),
    "plain4": (_plain, _all("int4", 32)),
    "windows": (_windows, _all("int4", 64)),
    "gemma": (_gemma, _all("int8", 128)),
    "gpt2-like": (_gpt2, _all("int8", 64)),
    "neox-like": (_neox, MIXED),
    "post": (_post, _all("int4", 32)),
    "interleaved": (_interleaved, MIXED),
    "groups": (_groups, _all("int4", 128)),
}

ACROSS = {
    f"decoder.layers.{layer}.cross_attention.{part}.weight": Format(kind="int8", block=block)
    for layer in (0, 1)
    for part, block in (("q", 64), ("k", 32 << layer), ("v", 32 << layer))
}
"""Cross-attention in blocks of its own, which differ between layers."""

READERS = {
    "mu-like": (_mu, _all("int8", 64)),
    "t5-like": (_t5, _all("int4", 32)),
    "whisper-like": (_whisper, _all("int8", 32)),
    "bart-like": (_bart, _all("int4", 128)),
    "t5gemma-like": (_t5gemma, {**MIXED, **ACROSS}),
    "beside-like": (_beside, MIXED),
}
"""Models with an encoder."""

VARIANTS |= READERS


TIES = "ties"
"""A cap so low that many logits are the same number."""


def names() -> list[str]:
    """The models of this file, then the families."""
    return [*VARIANTS, *families()]


def described(name: str) -> tuple[Architecture, dict[str, Format]]:
    if name in VARIANTS:
        make, formats = VARIANTS[name]
        return make(), formats
    if name == TIES:
        return replace(_plain(), head=Head(tied=True, softcap=0.25)), _all("int8", 32)
    spec, _ = describe(rooms.load("edgedec.models", name).TINY)
    return without_last_bits(spec), quantise.plan(spec, "int8", 32, pad=True)


def without_last_bits(spec: Architecture) -> Architecture:
    """Logarithms and powers may differ by an ulp among machines: only what float32 has of them."""

    def layer(old: Layer) -> Layer:
        rope = old.self_attention.rope
        if rope is None or not isinstance(rope.scaling, LongRopeScaling):
            return old
        scaling = replace(rope.scaling, magnitude=float(np.float32(rope.scaling.magnitude)))
        rope = replace(rope, scaling=scaling)
        return replace(old, self_attention=replace(old.self_attention, rope=rope))

    layers = tuple(map(layer, spec.decoder.layers))
    return replace(spec, decoder=replace(spec.decoder, layers=layers))


# --- as bundles --------------------------------------------------------------------------------


def finish(writer: Any, name: str, spec: Architecture, formats: Formats) -> None:
    writer.finish(
        Manifest(
            name=name,
            architecture=spec,
            quantisation=dict(formats),
            forms=Forms(native=NativeForm(layout=packed.LAYOUT)),
            files={},
            provenance=Provenance(source="counted", created="2026-11-20", exporter="test"),
        )
    )


def write(folder: Path, name: str) -> Model:
    """One of the models, as a bundle of its own."""
    spec, formats = described(name)
    stored, meant = numbers(spec, formats)
    target = folder / name
    with write_bundle(target) as writer:
        tensors = packed.tensors(spec, partial(format_of, formats))
        put(writer.path / "native.safetensors", tensors, stored)
        finish(writer, name, spec, formats)
    return Model(open_bundle(target), Arrays(spec, without_offsets(spec, meant)))
