"""What a strategy was trained to, as a file of its bundle: `strategies/<name>.safetensors`.

Matrices and layers are packed as in `to_native.py`. What such a file holds stands in
`edgedec.parts`, which opens it; what is in it for which strategy, a strategy and its trainer know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec import parts
from edgedec.errors import CheckpointError, StateError, UnsupportedError, UsageError, WriteError
from edgedec.export import to_native
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format
from edgedec.mapped import Place, layout
from edgedec.parts import Contents
from edgedec.replacing import replacing
from edgedec.runtimes.native import packed
from edgedec.weights import ROLES

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Floats, Ints

INT8 = Format(kind="int8", block=32)


@dataclass
class PartSource:
    """A part as its trainer gives it; everything is fp32.

    `bundle` is the hash of the model's bundle. `ids` [V'] are the ids that it can draft, rising
    (None: all). `matrices` are [N, K]; `weights` those of `architecture`, a decoder of the part's
    own layers with a tied head over V', by the names of `edgedec.weights`, the weights of norms
    without their offset. Everything two-dimensional is stored in `format`, but for `vectors`.
    """

    strategy: str
    bundle: str
    about: dict[str, Any] = field(default_factory=dict)
    ids: Ints | None = None
    vectors: dict[str, Floats] = field(default_factory=dict)
    matrices: dict[str, Floats] = field(default_factory=dict)
    architecture: Architecture | None = None
    weights: dict[str, Floats] = field(default_factory=dict)
    format: Format = INT8

    def contents(self) -> Contents:
        """What its file says."""
        return Contents(
            strategy=self.strategy,
            bundle=self.bundle,
            about=self.about,
            format=self.format,
            ids=0 if self.ids is None else len(self.ids),
            vectors={name: tuple(vector.shape) for name, vector in self.vectors.items()},
            matrices={name: _shape(matrix) for name, matrix in self.matrices.items()},
            architecture=self.architecture,
        )


def write(path: Path, source: PartSource, model: Architecture | None = None) -> None:
    """Write the file of a part; it appears complete or not at all.

    With `model`, the one it was trained for, it is refused here already if it does not fit.

    Raises:
        UsageError: it cannot be stored, or does not fit the model.
        CheckpointError: a number is not finite, or a weight of its layers is missing.
        WriteError: the file cannot be written.
    """
    contents = source.contents()
    metadata = parts.encode(contents)
    try:
        contents = parts.decode(metadata, path)
        tensors = packed.part_tensors(contents)
    except (StateError, UnsupportedError) as error:
        raise UsageError(f"the part {source.strategy} cannot be stored: {error}") from None
    found = () if model is None else parts.problems(contents, model)
    wrong = next((what for what, is_so in found if is_so), None)
    if wrong is not None:
        raise UsageError(f"the part {source.strategy} does not fit the model: {wrong}")
    header, places = layout(tensors, metadata)
    data = bytearray(max([place.offset + place.size for place in places.values()] or [len(header)]))
    data[: len(header)] = header
    for piece in _pieces(source, places):
        for offset, array in piece.arrays:
            raw = np.ascontiguousarray(array).tobytes()
            data[offset : offset + len(raw)] = raw
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from None


def _pieces(source: PartSource, places: dict[str, Place]) -> Iterator[to_native.Piece]:
    for name, values in source.matrices.items():
        yield from to_native.matrix(f"{name}.weight", _Alone(values), source.format, places)
    for name, vector in source.vectors.items():
        if not np.isfinite(vector).all():
            raise CheckpointError(f"{name} has values that are not finite: train it again")
        yield _whole(places[name], vector)
    if source.ids is not None:
        yield _whole(places[parts.IDS], source.ids)
    if source.architecture is not None:
        weights = Arrays(source.architecture, source.weights)
        formats = {str(role): source.format for role in ROLES}
        yield from to_native.pieces(source.architecture, weights, formats, places)


def _whole(place: Place, values: Any) -> to_native.Piece:
    return to_native.Piece("", values.size, [(place.offset, to_native.padded(values, place))])


def _shape(matrix: Floats) -> tuple[int, int]:
    outputs, inputs = matrix.shape
    return outputs, inputs


@dataclass(frozen=True, slots=True)
class _Alone:
    """One matrix as a `WeightSource`, by any name."""

    values: Floats

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values.shape

    def load(self, name: str, rows: slice | None = None) -> Floats:
        return np.array(self.values[rows or slice(None)], np.float32)
