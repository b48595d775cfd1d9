"""A small builder for ONNX graphs whose weights lie in a file beside them.

It collects nodes and weights as plain data and makes the protobuf message at the end. It knows
nothing about models: what a node means is its caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgedec.errors import WriteError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 23
IR_VERSION = 10
MICROSOFT = "com.microsoft"

Dims = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A run of bytes in the data file, in bytes from its start."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Weight:
    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    region: Region


class Graph:
    """Nodes in topological order, by the order of the calls that make them.

    A tensor is its name. `data` is the name of the data file, relative to the graph's own file.
    """

    def __init__(self, data: str) -> None:
        self._data = data
        self._nodes: list[_Node] = []
        self._inputs: dict[str, tuple[np.dtype[Any], Dims]] = {}
        self._outputs: dict[str, tuple[np.dtype[Any], Dims]] = {}
        self._final: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._weights: dict[str, _Weight] = {}
        self._counts: dict[str, int] = {}

    def input(self, name: str, dtype: DTypeLike, dims: Dims) -> str:
        """Declare an input once; a dimension is a number or a symbol."""
        self._inputs.setdefault(name, (np.dtype(dtype), dims))
        return name

    def output(self, tensor: str, name: str, dims: Dims) -> None:
        """Give a float32 tensor out under `name`; one tensor may have several names."""
        if tensor in self._final or tensor in self._inputs:
            tensor = self.node("Identity", [tensor])
        self._final[tensor] = name
        self._outputs[name] = (np.dtype(np.float32), dims)

    def constant(self, values: Any, dtype: DTypeLike = np.int64) -> str:
        """A small array inside the graph; equal arrays are stored once."""
        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = name
            self._arrays[name] = array
        return self._constants[key]

    def weight(self, name: str, dtype: DTypeLike, dims: Sequence[int], region: Region) -> str:
        """An array in the data file; several names may share one region."""
        self._weights[name] = _Weight(name, np.dtype(dtype), tuple(dims), region)
        return name

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return it."""
        return self.nodes(op, inputs, 1, domain, **attributes)[0]

    def nodes(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs and return them."""
        index = self._counts.get(op, 0)
        self._counts[op] = index + 1
        names = tuple(
            f"{op}.{index}.{i}" if outputs > 1 else f"{op}.{index}" for i in range(outputs)
        )
        self._nodes.append(_Node(op, tuple(inputs), names, domain, attributes))
        return names

    @property
    def size(self) -> int:
        """The number of nodes."""
        return len(self._nodes)

    def model(self) -> ModelProto:
        """The finished graph as a message, without the external data."""
        from onnx import helper

        weights = [self._external(w) for w in self._weights.values()]
        used = {name for node in self._nodes for name in node.inputs} | self._final.keys()
        graph = helper.make_graph(
            [self._proto(node, used) for node in self._nodes],
            "step",
            [_value(name, *spec) for name, spec in self._inputs.items()],
            [_value(name, *spec) for name, spec in self._outputs.items()],
            [*(_inline(name, array) for name, array in self._arrays.items()), *weights],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgedec"
        )

    def save(self, path: Path) -> None:
        """Write the message to `path`; the data file is written by its owner.

        Raises:
            WriteError: the folder cannot be written or the disk is full.
        """
        try:
            path.write_bytes(self.model().SerializeToString())
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error.strerror}") from error

    def _proto(self, node: _Node, used: Set[str]) -> NodeProto:
        from onnx import helper

        inputs = [self._final.get(name, name) for name in node.inputs]
        outputs = [self._final.get(name, name) if name in used else "" for name in node.outputs]
        while not outputs[-1]:
            outputs.pop()
        return helper.make_node(
            node.op, inputs, outputs, name=node.outputs[0], domain=node.domain, **node.attributes
        )

    def _external(self, weight: _Weight) -> TensorProto:
        from onnx import TensorProto, helper

        tensor = TensorProto(name=weight.name, dims=weight.dims)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(weight.dtype)
        tensor.data_location = TensorProto.EXTERNAL
        where = {
            "location": self._data,
            "offset": str(weight.region.offset),
            "length": str(weight.region.size),
        }
        for key, value in where.items():
            tensor.external_data.add(key=key, value=value)
        return tensor


def _inline(name: str, array: NDArray[Any]) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)


def _value(name: str, dtype: np.dtype[Any], dims: Dims) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), dims)
