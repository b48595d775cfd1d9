"""numpy's memory as ONNX Runtime reads and writes it. It knows no step and no source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .segments import Block, layer_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Floats


def attach(bind: Callable[[str, Any], None], name: str, array: NDArray[Any]) -> object:
    """Bind an array in place. What is returned must live as long as the binding: it does not
    hold the memory.
    """
    from onnxruntime import OrtValue

    value = OrtValue.ortvalue_from_numpy(array)
    bind(name, value)
    return value, array


def by_layer(
    kind: str, blocks: Iterable[Block], arrays: Mapping[Block, Floats]
) -> dict[str, Floats]:
    """Keys and values [G, n, d] of each layer by their names in a graph: views of the arrays."""
    return {
        name: arrays[block][layer, part]
        for name, (block, layer, part) in layer_names(kind, blocks).items()
    }


def shrinking() -> Any:
    """Options of a run that gives its scratch memory back."""
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
