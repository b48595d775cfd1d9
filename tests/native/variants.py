"""Small models in native form whose every bit is the same on every machine.

Their weights are integers and dyadic fractions from a counter, written straight into the packed
file: no quantisation and no floating-point library has a part in them. One model for each thing
that the engine can do, and one for each family.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec import rooms
from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
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
from edgedec.export import _tiles, quantise
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format, Forms, Manifest, NativeForm, Provenance, format_of
from edgedec.models import describe, families
from edgedec.rope import inverse_frequencies
from edgedec.runtimes import native
from edgedec.runtimes.native import packed
from edgedec.runtimes.native.engine import Native
from edgedec.weights import ROLES, role, shapes

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


# --- their numbers -----------------------------------------------------------------------------


def counted(name: str, count: int) -> NDArray[np.int64]:
    """`count` numbers of 0..65535 that depend on the name only (splitmix64 of a counter)."""
    start = np.uint64(zlib.crc32(name.encode()) << 32)
    x = np.arange(count, dtype=np.uint64) + start
    with np.errstate(over="ignore"):
        x *= np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(48)).astype(np.int64)


def _integers(name: str, shape: tuple[int, ...], form: Format) -> NDArray[np.int8]:
    low, high = quantise.RANGES[form.kind]
    numbers = counted(name, math.prod(shape)) % (high - low + 1) + low
    return numbers.astype(np.int8).reshape(shape)


def _scales(name: str, shape: tuple[int, ...], form: Format) -> NDArray[np.float16]:
    """Products of about unit size, of tables larger ones, whose logits then spread."""
    high, table = quantise.RANGES[form.kind][1], role(name) in ("embed", "head")
    exponent = math.floor(math.log2(high * math.sqrt(shape[1]))) - (2 if table else 0)
    sixteenths = counted(f"{name} scales", shape[0] * -(-shape[1] // (form.block or 1))) % 16 + 16
    return (sixteenths / 16 * 2.0**-exponent).astype(np.float16).reshape(shape[0], -1)


def _vector(name: str, shape: tuple[int, ...]) -> Floats:
    centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    noise = (counted(name, math.prod(shape)) % 65 - 32) / 128
    return (centre + noise).astype(np.float32).reshape(shape)


def _numbers(
    spec: Architecture, formats: Formats
) -> tuple[dict[str, NDArray[Any]], dict[str, Floats]]:
    """The tensors of the file, not yet filled up, and the matrices and vectors they stand for."""
    stored: dict[str, NDArray[Any]] = {}
    meant: dict[str, Floats] = {}
    for name, shape in shapes(spec).items():
        if not role(name):
            stored[name] = meant[name] = _vector(name, shape)
            continue
        form = format_of(formats, name)
        integers = _tiles.filled(_integers(name, shape, form), form)
        scales = np.pad(_scales(name, shape, form), ((0, -shape[0] % _tiles.TILE), (0, 0)))
        stored[name] = _tiles.pack(integers, form)
        stored[packed.scales_of(name)] = _tiles.pack_scales(scales)
        meant[name] = quantise.dequantise(integers, scales)[: shape[0], : shape[1]]
    for (rope, width), index in packed.ropes(spec).items():
        frequencies, _ = inverse_frequencies(rope, width)
        stored[f"rope.{index}"] = np.rint(frequencies * 2.0**36) / 2.0**36
    return stored, meant


def _put(path: Path, tensors: Mapping[str, packed.Tensor], stored: Mapping[str, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"layout": "1"}}
    data = b""
    for name, tensor in tensors.items():
        values = stored[name]
        more = [(0, wanted - have) for wanted, have in zip(tensor.shape, values.shape, strict=True)]
        raw = np.pad(values, more).astype(values.dtype.newbyteorder("<")).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        data += raw
    text = msgspec.json.encode(header)
    text += b" " * (-(8 + len(text)) % packed.LINE)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


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
    stored, meant = _numbers(spec, formats)
    target = folder / name
    with write_bundle(target) as writer:
        tensors = packed.tensors(spec, partial(format_of, formats))
        _put(writer.path / "native.safetensors", tensors, stored)
        finish(writer, name, spec, formats)
    return Model(open_bundle(target), Arrays(spec, without_offsets(spec, meant)))


def without_offsets(spec: Architecture, meant: dict[str, Floats]) -> dict[str, Floats]:
    """The file has what the architecture adds to norms; a checkpoint has not."""
    norms: dict[str, Norm | None] = {
        "decoder.embed_norm": spec.decoder.embed_norm,
        "decoder.final_norm": spec.decoder.final_norm,
    }
    for index, layer in enumerate(spec.decoder.layers):
        for part in ("self_attention_norm", "mlp_norm"):
            norms[f"decoder.layers.{index}.{part}"] = layer.norm
            norms[f"decoder.layers.{index}.{part.replace('norm', 'post_norm')}"] = layer.norm
        for part in ("q_norm", "k_norm"):
            norms[f"decoder.layers.{index}.self_attention.{part}"] = layer.self_attention.qk_norm
    offsets = {f"{n}.weight": np.float32(norm.offset) for n, norm in norms.items() if norm}
    return {name: values - offsets.get(name, np.float32(0)) for name, values in meant.items()}
