"""The nodes that use weights: products, rows of tables, norms.

It knows how each format of a matrix is read by ONNX Runtime, not what a model is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Norm
from edgedec.errors import UsageError
from edgedec.export import quantise
from edgedec.export._data import DataFile, Piece
from edgedec.export._graph import MICROSOFT, Graph, Region
from edgedec.manifest import Format, format_of


class Weights:
    """The weights of one graph and what is done with them.

    `formats` is the manifest's table: tensor name or role -> format; what is not in it is fp32.
    """

    def __init__(self, graph: Graph, data: DataFile, formats: Mapping[str, Format]) -> None:
        self._graph = graph
        self._data = data
        self._formats = formats

    def form(self, name: str) -> Format:
        """How a matrix is stored.

        Raises:
            UsageError: its inputs cannot be cut into the blocks of its format.
        """
        form = format_of(self._formats, name)
        inputs = self._data.source.shape(name)[1]
        if form.block is not None and inputs % form.block:
            raise UsageError(
                f"{name} has {inputs} inputs, which {form} does not divide; take a smaller block"
            )
        return form

    def vector(self, name: str, offset: float = 0.0) -> str:
        """A small tensor, with `offset` added to it."""
        shape = self._data.source.shape(name)
        region = self._data.vector([Piece(name, math.prod(shape))], offset)
        return self._graph.weight(name, np.float32, shape, region)

    def biases(self, owners: Sequence[str], given: Collection[str]) -> str | None:
        """The biases of stacked matrices as one vector: zeros for those that are not `given`."""
        if not any(owner in given for owner in owners):
            return None
        pieces = [
            Piece(
                f"{owner}.bias" if owner in given else None,
                self._data.source.shape(f"{owner}.weight")[0],
            )
            for owner in owners
        ]
        name = f"{'+'.join(owners)}.bias"
        total = sum(piece.numbers for piece in pieces)
        return self._graph.weight(name, np.float32, (total,), self._data.vector(pieces))

    def table(self, name: str, key: Hashable, array: NDArray[Any]) -> str:
        """A tensor that is computed at export; equal keys share their bytes."""
        return self._graph.weight(name, array.dtype, array.shape, self._data.array(key, array))

    def scaled(self, x: str, scale: float) -> str:
        """x times a number."""
        if scale == 1.0:
            return x
        return self._graph.node("Mul", [x, self._graph.constant(scale, np.float32)])

    def norm(self, x: str, name: str, norm: Norm) -> str:
        """The norm of each row."""
        op = "RMSNormalization" if norm.kind == "rms" else "LayerNormalization"
        return self._graph.node(op, [x, *self._affine(name, norm)], axis=-1, epsilon=norm.eps)

    def add_norm(self, pair: tuple[str, str], name: str, norm: Norm) -> tuple[str, str]:
        """The norm of the sum of two tensors, and the sum."""
        rms = norm.kind == "rms"
        op = "SkipSimplifiedLayerNormalization" if rms else "SkipLayerNormalization"
        inputs = [*pair, *self._affine(name, norm)]
        outputs = self._graph.nodes(op, inputs, 4, MICROSOFT, epsilon=norm.eps)
        return outputs[0], outputs[3]

    def _affine(self, name: str, norm: Norm) -> list[str]:
        weights = [self.vector(f"{name}.weight", norm.offset)]
        return [*weights, self.vector(f"{name}.bias")] if norm.bias else weights

    def product(self, x: str, names: Sequence[str], bias: str | None = None) -> str:
        """x [n, K] times matrices [N, K] stacked by their outputs: [n, sum of N]."""
        form = self.form(names[0])
        regions = self._data.matrix(names, form)
        outputs = sum(self._data.source.shape(name)[0] for name in names)
        inputs = self._data.source.shape(names[0])[1]
        label = "+".join(names)
        if form.block is None:
            weight = self._floats(label, form, (outputs, inputs), regions[0])
            return self._graph.node("Gemm", [x, weight, *([bias] if bias else [])], transB=1)
        blocks, bits = inputs // form.block, form.bits
        packed = (outputs, blocks, form.block * bits // 8)
        quantised = [
            self._graph.weight(f"{label}.integers", np.uint8, packed, regions[0]),
            self._graph.weight(f"{label}.scales", np.float32, (outputs, blocks), regions[1]),
        ]
        return self._graph.node(
            "MatMulNBits",
            [x, *quantised, *(["", "", bias] if bias else [])],
            MICROSOFT,
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=form.block,
            accuracy_level=4,
        )

    def lookup(self, name: str, ids: str) -> str:
        """Rows of a table [V, D] by their ids [n]: [n, D]."""
        form = self.form(name)
        regions = self._data.matrix([name], form)
        rows, width = self._data.source.shape(name)
        if form.block is None:
            return self._rows(name, form, regions[0], ids)
        bits = form.bits
        packed, scales = (rows, width * bits // 8), (rows, width // form.block)
        table = self._graph.weight(f"{name}.rows", np.uint8, packed, regions[0])
        scale = self._graph.weight(f"{name}.row_scales", np.float32, scales, regions[1])
        return self._graph.node(
            "GatherBlockQuantized",
            [table, ids, scale],
            MICROSOFT,
            bits=bits,
            block_size=form.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _rows(self, name: str, form: Format, region: Region, ids: str) -> str:
        dtype = quantise.FLOATS[form.kind]
        shape = self._data.source.shape(name)
        table = self._graph.weight(f"{name}.rows", dtype, shape, region)
        rows = self._graph.node("Gather", [table, ids])
        return rows if form.kind == "fp32" else self._graph.node("Cast", [rows], to=1)

    def _floats(self, label: str, form: Format, dims: tuple[int, int], region: Region) -> str:
        weight = self._graph.weight(label, quantise.FLOATS[form.kind], dims, region)
        return weight if form.kind == "fp32" else self._graph.node("Cast", [weight], to=1)
