"""The weights that a bundle runs with, as floats: its packed integers times their scales.

The inverse of `to_native.py`, for what must compute as the quantised model does (training what it
drafts with, comparing). Knows the file's layout and nothing about what is computed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec.distance import buckets
from edgedec.export import _tiles
from edgedec.export.quantise import dequantise
from edgedec.export.to_native import norm_offsets
from edgedec.runtimes.native import packed
from edgedec.runtimes.native.packed import DISTANCE_BIAS, scales_of
from edgedec.weights import role, shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.bundle import Bundle

    Floats = NDArray[np.float32]

DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


class NativeWeights:
    """A `WeightSource` over a bundle's native form.

    Raises:
        BundleError: there is none, or it is damaged.
        UnsupportedError: the native engine does not run this architecture.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._architecture = bundle.manifest.architecture
        self._format_of = bundle.manifest.format_of
        self._file = packed.open_packed(bundle)
        self._shapes = shapes(self._architecture)
        self._added = norm_offsets(self._architecture)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[name]

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """A tensor, or a range of its rows, as a new float32 array."""
        whole = self._matrix(name) if role(name) else self._vector(name)
        return np.array(whole[rows or slice(None)], dtype=np.float32)

    def _stored(self, name: str) -> NDArray[Any]:
        place = self._file.tensors[name]
        count = math.prod(place.shape)
        found = np.frombuffer(self._file.data, DTYPES[place.dtype], count, place.offset)
        return found.reshape(place.shape)

    def _matrix(self, name: str) -> Floats:
        outputs, inputs = self._shapes[name]
        form, stored = self._format_of(name), self._stored(name)
        tiles, blocks = stored.shape[:2]
        scales = _tiles.unpack_scales(self._stored(scales_of(name)), tiles, blocks)
        return dequantise(_tiles.unpack(stored, form), scales)[:outputs, :inputs]

    def _vector(self, name: str) -> NDArray[Any]:
        prefix, _, leaf = name.rpartition(".")
        if leaf == "bias_table":
            return self._biases(prefix)
        shape = self._shapes[name]
        if leaf == "kernel":
            return self._stored(name)[:, : math.prod(shape[1:])].reshape(shape)
        return self._stored(name)[..., : shape[-1]] - np.float32(self._added.get(name, 0.0))

    def _biases(self, prefix: str) -> Floats:
        """T5's table [buckets, H] again; a bucket that no distance falls into is not known: 0."""
        stack = packed.stacks(self._architecture)[prefix]
        spec = stack.layers[0].self_attention.bias_table
        assert spec is not None  # else there were no such tensor
        columns = self._stored(f"{prefix}.{DISTANCE_BIAS}")
        table = np.zeros((spec.buckets, columns.shape[0]), np.float32)
        table[buckets(spec, packed.distances(self._architecture, prefix, spec))] = columns.T
        return table


__all__ = ["NativeWeights"]
