"""What the measurements here ask of a shape, and engines for its bundles.

The shapes themselves, and bundles of random weights, are `edgedec.benchmark.shapes`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgedec.manifest import format_of
from edgedec.weights import role, shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedec.architecture import Architecture
    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine
    from edgedec.manifest import Format


def open_engine(bundle: Bundle, threads: int, kv_type: str | None = None) -> Engine:
    """The engine that runs the bundle's form."""
    from edgedec import rooms
    from edgedec.devices import EngineOptions

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
