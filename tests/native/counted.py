"""The numbers of models whose every bit is the same on every machine, and the files they make.

Weights are integers and dyadic fractions from a counter, written straight into the packed file: no
quantisation and no floating-point library has a part in them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture, Norm
from edgedec.distance import buckets
from edgedec.export import _tiles, quantise
from edgedec.manifest import Format, format_of
from edgedec.mapped import LINE, Tensor
from edgedec.rope import inverse_frequencies
from edgedec.runtimes.native import packed
from edgedec.weights import role, shapes

Floats = NDArray[np.float32]
Formats = Mapping[str, Format]


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


def numbers(
    spec: Architecture, formats: Formats
) -> tuple[dict[str, NDArray[Any]], dict[str, Floats]]:
    """The tensors of the file, not yet filled up, and the matrices and vectors they stand for."""
    stored: dict[str, NDArray[Any]] = {}
    meant: dict[str, Floats] = {}
    for name, shape in shapes(spec).items():
        if not role(name):
            meant[name] = _vector(name, shape)
            stored |= _as_stored(spec, name, meant[name])
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


def _as_stored(spec: Architecture, name: str, values: Floats) -> dict[str, Floats]:
    prefix, _, leaf = name.rpartition(".")
    if leaf == "kernel":
        return {name: values.reshape(len(values), -1)}
    if leaf != "bias_table":
        return {name: values}
    table = getattr(spec, prefix).layers[0].self_attention.bias_table
    span = packed.distances(spec, prefix, table)
    return {f"{prefix}.distance_bias": values[buckets(table, span)].T}


def put(path: Path, tensors: Mapping[str, Tensor], stored: Mapping[str, Any]) -> None:
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
    text += b" " * (-(8 + len(text)) % LINE)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def without_offsets(spec: Architecture, meant: dict[str, Floats]) -> dict[str, Floats]:
    """The file has what the architecture adds to norms; a checkpoint has not."""
    norms: dict[str, Norm | None] = {}
    for prefix, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        if stack is None:
            continue
        norms[f"{prefix}.embed_norm"] = stack.embed_norm
        norms[f"{prefix}.final_norm"] = stack.final_norm
        for index, layer in enumerate(stack.layers):
            start = f"{prefix}.layers.{index}"
            for part in ("self_attention", "cross_attention", "mlp"):
                norms[f"{start}.{part}_norm"] = norms[f"{start}.{part}_post_norm"] = layer.norm
            for name, attention in (
                ("self_attention", layer.self_attention),
                ("cross_attention", layer.cross_attention),
            ):
                for part in ("q_norm", "k_norm"):
                    norms[f"{start}.{name}.{part}"] = attention.qk_norm if attention else None
    offsets = {f"{n}.weight": np.float32(norm.offset) for n, norm in norms.items() if norm}
    return {name: values - offsets.get(name, np.float32(0)) for name, values in meant.items()}
