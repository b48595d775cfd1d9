"""Shapes that are measured, and bundles of random weights of those shapes.

Time does not depend on the values of the weights, so random ones of the real shape will do.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
    Tokens,
)
from edgedec.bundle import Bundle, cache_folder, open_bundle, write_bundle
from edgedec.manifest import Format, Forms, Manifest, Provenance, format_of
from edgedec.weights import ROLES, role, shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedec.contracts import Engine, Floats
    from edgedec.export.checkpoint import WeightSource

FormName = Literal["onnx", "native"]
INT4 = {str(what): Format(kind="int4", block=64) for what in ROLES}
"""4 bit in every matrix, embedding and head included, as in the peer's files."""


@dataclass(frozen=True)
class Shape:
    """A Llama: width, layers, query and key/value heads of 64, mlp width, vocabulary."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool


SHAPES = {
    "135m": Shape(576, 30, 9, 3, 1536, 49152, tied=True),
    "1b": Shape(2048, 22, 32, 4, 5632, 32000, tied=False),
}
CONTEXT = 4096


def architecture(name: str) -> Architecture:
    """The architecture of a shape of `SHAPES`."""
    shape = SHAPES[name]
    norm = Norm(kind="rms", eps=1e-5)
    attention = Attention(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=64,
        scale=64**-0.5,
        rope=Rope(theta=10000.0),
    )
    mlp = Mlp(width=shape.mlp, activation="silu", gated=True)
    layer = Layer(self_attention=attention, mlp=mlp, norm=norm)
    return Architecture(
        family="llama",
        embed=Embedding(vocab=shape.vocab, dim=shape.dim),
        decoder=Stack(layers=(layer,) * shape.layers, final_norm=norm),
        head=Head(tied=shape.tied),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=CONTEXT),
    )


class RandomWeights:
    """Weights that are made when asked for, the same each time."""

    def __init__(self, model: Architecture) -> None:
        self._shapes = shapes(model)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def load(self, name: str, rows: slice | None = None) -> Floats:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)[rows or slice(None)]
        start, stop, _ = (rows or slice(None)).indices(shape[0])
        random = np.random.default_rng([zlib.crc32(name.encode()), start])
        return random.standard_normal((stop - start, shape[1]), np.float32) * np.float32(0.04)


def random_bundle(name: str, form: FormName) -> Bundle:
    """The int4 bundle of a shape, from the cache or made now (the large one takes minutes)."""
    path = cache_folder() / "bench" / f"{name}-int4-{form}"
    if not path.exists():
        model = architecture(name)
        make_bundle(path, model, RandomWeights(model), INT4, form)
    return open_bundle(path)


def make_bundle(
    target: Path,
    model: Architecture,
    weights: WeightSource,
    formats: Mapping[str, Format],
    form: FormName,
) -> None:
    """Write a bundle without a tokenizer."""
    from edgedec.export import to_native, to_onnx

    with write_bundle(target) as writer:
        if form == "native":
            forms = Forms(native=to_native.write(writer.path, model, weights, formats))
        else:
            forms = Forms(onnx=to_onnx.write(writer.path, model, weights, formats))
        writer.finish(
            Manifest(
                name=target.name,
                architecture=model,
                quantisation=dict(formats),
                forms=forms,
                files={},
                provenance=Provenance(source="weights of a bench", created="", exporter="bench"),
            )
        )


def open_engine(bundle: Bundle, threads: int, kv_type: str | None = None) -> Engine:
    """The engine that runs the bundle's form."""
    from edgedec import rooms
    from edgedec.contracts import EngineOptions

    runtime = "native" if bundle.manifest.forms.native else "onnx"
    kind: dict[str, Any] = {} if kv_type is None else {"kv_type": kv_type}
    options = EngineOptions(threads=threads, **kind)
    engine: Engine = rooms.load("edgedec.runtimes", runtime).open(bundle, options)
    return engine


# --- sizes ---------------------------------------------------------------------------------------


def matrices(model: Architecture, formats: Mapping[str, Format]) -> dict[str, tuple[int, int]]:
    """The numbers and bytes (scales included) of every matrix that a step multiplies with."""
    found = {}
    for name, shape in shapes(model).items():
        if role(name) is None or (name == "embed.weight" and not model.head.tied):
            continue
        form, numbers = format_of(formats, name), math.prod(shape)
        scales = 2 * numbers // form.block if form.block else 0
        found[name] = numbers, numbers * form.bits // 8 + scales
    return found


def kv_bytes(model: Architecture, tokens: int, kind: str) -> int:
    """Bytes of the keys and values of so many tokens; 8 bit has a scale per row and head."""
    per_head = {"fp32": lambda d: 4 * d, "fp16": lambda d: 2 * d, "int8": lambda d: d + 4}[kind]
    heads = (layer.self_attention for layer in model.decoder.layers)
    return tokens * sum(2 * head.kv_heads * per_head(head.head_dim) for head in heads)


def attention_products(model: Architecture, rows: int, past: int) -> int:
    """Multiply-adds of scores and mixtures over the past, with exactly what is needed."""
    heads = (layer.self_attention for layer in model.decoder.layers)
    return rows * past * sum(2 * head.heads * head.head_dim for head in heads)
