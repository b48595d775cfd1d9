"""A checkpoint as one file of packed weights, which the engine maps and uses where it lies.

What the file holds and in which shapes stands in `edgedec.runtimes.native.packed`, which opens it,
and the order inside a tile in `_tiles.py`. This file knows how numbers get from the checkpoint
into it, a few million at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture, Layer, Norm
from edgedec.distance import buckets
from edgedec.errors import UnsupportedError, UsageError, WriteError
from edgedec.export import _tiles, quantise
from edgedec.export._data import CHUNK, Floats, Progress, put
from edgedec.export.checkpoint import WeightSource
from edgedec.manifest import Format, NativeForm, format_of
from edgedec.mapped import DTYPES, Place, layout
from edgedec.rope import inverse_frequencies
from edgedec.runtimes.native import packed
from edgedec.weights import role, shapes


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a tensor on their way: so many numbers become arrays at these offsets."""

    tensor: str
    numbers: int
    arrays: list[tuple[int, NDArray[Any]]]


def write(
    folder: Path,
    architecture: Architecture,
    source: WeightSource,
    formats: Mapping[str, Format],
    progress: Progress | None = None,
) -> NativeForm:
    """Write the packed file into `folder`.

    `formats` maps tensor names or roles to formats. A few million numbers are in memory at a time.
    `progress` is told done and all bytes (of fp32) and the tensor.

    Raises:
        UnsupportedError: the architecture has parts that the engine does not run.
        UsageError: a matrix that is neither int4 nor int8, or blocks that differ where they must
            not.
        CheckpointError: a weight is missing or not finite.
        WriteError: the folder cannot be written.
    """
    check(architecture, formats)
    form = NativeForm(layout=packed.LAYOUT)
    tensors = packed.tensors(architecture, partial(format_of, formats))
    header, places = layout(tensors, {"layout": str(packed.LAYOUT)})
    path = folder / form.file
    try:
        with path.open("wb") as file:
            file.write(header)
            file.truncate(max(place.offset + place.size for place in places.values()))
            file.flush()
            total = 4 * sum(math.prod(shape) for shape in shapes(architecture).values())
            done = 0
            for part in pieces(architecture, source, formats, places):
                for offset, array in part.arrays:
                    put(file.fileno(), offset, array)
                done += 4 * part.numbers
                if progress is not None and part.numbers:
                    progress(done, total, part.tensor)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from error
    return form


def check(architecture: Architecture, formats: Mapping[str, Format]) -> None:
    """Refuse what cannot be packed.

    Raises:
        UnsupportedError: the architecture has parts that the engine does not run.
        UsageError: a matrix that is neither int4 nor int8, or blocks that differ where they must
            not.
    """
    packed.check(architecture)
    problem = packed.format_problem(architecture, partial(format_of, formats))
    if problem:
        raise UsageError(problem)


def carries(architecture: Architecture, formats: Mapping[str, Format]) -> bool:
    """Whether it can be packed."""
    try:
        check(architecture, formats)
    except (UnsupportedError, UsageError):
        return False
    return True


def pieces(
    architecture: Architecture,
    source: WeightSource,
    formats: Mapping[str, Format],
    places: Mapping[str, Place],
) -> Iterator[Piece]:
    """All that a file of an architecture holds, for the places of its tensors."""
    added = norm_offsets(architecture)
    for name in shapes(architecture):
        prefix, _, leaf = name.rpartition(".")
        if role(name):
            yield from matrix(name, source, format_of(formats, name), places)
            continue
        values, stored = source.load(name), name
        if leaf == "bias_table":
            values = _by_distance(values, architecture, prefix)
            stored = f"{prefix}.{packed.DISTANCE_BIAS}"
        elif leaf == "kernel":
            values = values.reshape(len(values), -1)
        else:
            values = values + np.float32(added.get(name, 0.0))
        place = places[stored]
        yield Piece(name, values.size, [(place.offset, padded(values, place))])
    for (rope, width), index in packed.ropes(architecture).items():
        place = places[f"rope.{index}"]
        frequencies, _ = inverse_frequencies(rope, width)
        yield Piece(f"rope.{index}", 0, [(place.offset, padded(frequencies, place))])


def _by_distance(values: Floats, architecture: Architecture, prefix: str) -> Floats:
    """T5's biases [buckets, H] as [H, distances]."""
    table = packed.stacks(architecture)[prefix].layers[0].self_attention.bias_table
    assert table is not None  # else there were no such tensor
    return values[buckets(table, packed.distances(architecture, prefix, table))].T


def matrix(
    name: str, source: WeightSource, form: Format, places: Mapping[str, Place]
) -> Iterator[Piece]:
    """One matrix, some rows at a time."""
    outputs, inputs = source.shape(name)
    weight, scale = places[name], places[packed.scales_of(name)]
    tile = math.prod(weight.shape[1:]), weight.shape[1] * packed.TILE * 2
    step = max(1, CHUNK // (inputs * packed.TILE)) * packed.TILE
    for first in range(0, outputs, step):
        rows = source.load(name, slice(first, min(first + step, outputs)))
        at = first // packed.TILE
        arrays = _pack(rows, form, name)
        places_of = weight.offset + at * tile[0], scale.offset + at * tile[1]
        yield Piece(name, rows.size, list(zip(places_of, arrays, strict=True)))


def _pack(rows: Floats, form: Format, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    integers, scales = quantise.quantise(_tiles.filled(rows, form), form, name)
    return _tiles.pack(integers, form), _tiles.pack_scales(scales).astype(DTYPES["F16"])


def padded(values: NDArray[Any], place: Place) -> NDArray[Any]:
    """Numbers as they are stored, with zeros up to the width of their place."""
    more = place.shape[-1] - values.shape[-1]
    padding = [(0, 0)] * (values.ndim - 1) + [(0, more)]
    return np.pad(values, padding).astype(DTYPES[place.dtype])


def norm_offsets(architecture: Architecture) -> dict[str, float]:
    """What is added to the weights of norms, by tensor."""
    norms: dict[str, Norm | None] = {}
    for prefix, stack in packed.stacks(architecture).items():
        norms[f"{prefix}.embed_norm"] = stack.embed_norm
        norms[f"{prefix}.final_norm"] = stack.final_norm
        for index, layer in enumerate(stack.layers):
            norms |= _layer_norms(f"{prefix}.layers.{index}", layer)
    return {f"{name}.weight": norm.offset for name, norm in norms.items() if norm is not None}


def _layer_norms(prefix: str, layer: Layer) -> dict[str, Norm | None]:
    norms: dict[str, Norm | None] = {}
    for part in ("self_attention", "cross_attention", "mlp"):
        norms[f"{prefix}.{part}_norm"] = norms[f"{prefix}.{part}_post_norm"] = layer.norm
    attentions = {"self_attention": layer.self_attention, "cross_attention": layer.cross_attention}
    for name, attention in attentions.items():
        for part in ("q", "k"):
            norms[f"{prefix}.{name}.{part}_norm"] = attention.qk_norm if attention else None
    return norms
