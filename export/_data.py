"""Weights on their way from a checkpoint into the data file of the ONNX form.

Regions of the file are reserved while the graphs are built and filled afterwards, a few rows at a
time, so that no whole matrix is ever in memory. It knows how numbers are stored, not what they
mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.errors import WriteError
from edgedec.export import quantise
from edgedec.export._graph import Region
from edgedec.export.checkpoint import WeightSource
from edgedec.manifest import Format

Floats = NDArray[np.float32]
Progress = Callable[[int, int, str], None]

PAGE = 4096
LINE = 64
CHUNK = 4 << 20
"""Numbers that are converted at a time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A small tensor of so many numbers, or as many zeros."""

    tensor: str | None
    numbers: int


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes that some rows of one tensor become, each piece at its offset in the file."""

    tensor: str
    rows: slice | None
    numbers: int
    convert: Callable[[Floats], list[tuple[int, NDArray[Any]]]]


class DataFile:
    """The plan of a data file: what lies where, and how to make it."""

    def __init__(self, source: WeightSource) -> None:
        self.source = source
        self.size = 0
        self._parts: list[_Part] = []
        self._arrays: list[tuple[int, NDArray[Any]]] = []
        self._stored: dict[Hashable, tuple[Region, ...]] = {}

    def array(self, key: Hashable, array: NDArray[Any]) -> Region:
        """Reserve room for an array that is computed at export, once per key."""
        if key not in self._stored:
            region = self._reserve(array.nbytes, LINE)
            self._arrays.append((region.offset, array))
            self._stored[key] = (region,)
        return self._stored[key][0]

    def vector(self, pieces: Sequence[Piece], offset: float = 0.0) -> Region:
        """Reserve room for small tensors behind each other, with `offset` added to each."""
        key = (tuple(pieces), offset)
        if key not in self._stored:
            region = self._reserve(4 * sum(piece.numbers for piece in pieces), LINE)
            self._stored[key] = (region,)
            at = region.offset
            for piece in pieces:
                if piece.tensor is not None:
                    shift = _shift(at, offset)
                    self._parts.append(_Part(piece.tensor, None, piece.numbers, shift))
                at += 4 * piece.numbers
        return self._stored[key][0]

    def matrix(self, names: Sequence[str], form: Format) -> tuple[Region, ...]:
        """Reserve room for matrices [N, K] stacked by their outputs: the numbers, the scales."""
        key = tuple(names)
        if key not in self._stored:
            outputs = sum(self.source.shape(name)[0] for name in names)
            inputs = self.source.shape(names[0])[1]
            widths = _row_bytes(inputs, form)
            regions = tuple(self._reserve(outputs * width, PAGE) for width in widths)
            self._stored[key] = regions
            starts = [region.offset for region in regions]
            for name in names:
                self._parts.extend(self._rows(name, form, starts))
                height = self.source.shape(name)[0]
                starts = [at + height * width for at, width in zip(starts, widths, strict=True)]
        return self._stored[key]

    def write(self, path: Path, progress: Progress | None = None) -> None:
        """Make the file.

        Raises:
            WriteError: the folder cannot be written or the disk is full.
        """
        try:
            with path.open("wb") as file:
                file.truncate(self.size)
                for offset, array in self._arrays:
                    put(file.fileno(), offset, array)
                self._convert(file.fileno(), progress)
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error.strerror}") from error

    def _convert(self, file: int, progress: Progress | None) -> None:
        done, total = 0, 4 * sum(part.numbers for part in self._parts)
        for part in self._parts:
            numbers = self.source.load(part.tensor, part.rows)
            for offset, array in part.convert(numbers):
                put(file, offset, array)
            done += 4 * part.numbers
            if progress is not None:
                progress(done, total, part.tensor)

    def _reserve(self, size: int, align: int) -> Region:
        start = -(-self.size // align) * align
        self.size = start + size
        return Region(start, size)

    def _rows(self, name: str, form: Format, starts: list[int]) -> Iterator[_Part]:
        outputs, inputs = self.source.shape(name)
        widths = _row_bytes(inputs, form)
        step = max(1, CHUNK // inputs)
        for first in range(0, outputs, step):
            rows = slice(first, min(first + step, outputs))
            at = [start + first * width for start, width in zip(starts, widths, strict=True)]
            numbers = (rows.stop - first) * inputs
            yield _Part(name, rows, numbers, _converter(name, form, at))


def _row_bytes(inputs: int, form: Format) -> list[int]:
    """The bytes of one row [K] of a matrix: of its numbers and, with blocks, of its scales."""
    numbers = inputs * form.bits // 8
    return [numbers] if form.block is None else [numbers, 4 * (inputs // form.block)]


Convert = Callable[[Floats], list[tuple[int, NDArray[Any]]]]


def _shift(at: int, offset: float) -> Convert:
    return lambda numbers: [(at, numbers + np.float32(offset))]


def _converter(name: str, form: Format, starts: list[int]) -> Convert:
    def convert(rows: Floats) -> list[tuple[int, NDArray[Any]]]:
        if form.block is None:
            return [(starts[0], quantise.floats(rows, form, name))]
        integers, scales = quantise.quantise(rows, form, name)
        packed = quantise.packed(integers, form.kind)
        return [(starts[0], packed), (starts[1], scales.astype(np.float32))]

    return convert


def put(file: int, offset: int, array: NDArray[Any]) -> None:
    """Write the bytes of an array at an offset of an open file."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
