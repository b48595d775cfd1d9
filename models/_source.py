"""Where a tensor of ours lies in a checkpoint.

Families write these tables; `export.checkpoint` follows them. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture
from edgedec.weights import shapes

Floats = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint's tensor `name`, stored with `shape`, and what to take from it.

    `rows` is a range of its rows; `take` turns the whole stored array into ours where a range of
    rows cannot. `twin` is another name under which a checkpoint may hold the same numbers.
    """

    name: str
    shape: Shape
    rows: tuple[int, int] | None = None
    take: Callable[[Floats], Floats] | None = None
    twin: str | None = None


Find = Callable[[str, Shape], Source]
"""Makes the source of a fused or transposed tensor from the stored name and our shape."""

Table = Mapping[str, str | tuple[str, Find]]
"""Our module name -> theirs; with a function where the two do not have the same shape."""


def rename(
    architecture: Architecture, layer_prefix: str, layer: Table, outer: Table
) -> dict[str, Source]:
    """The source of every tensor: `layer` is per layer, `outer` for what stands around them.

    `layer_prefix` has a `{}` for the layer's number, as in "model.layers.{}.".
    """
    sources = {}
    for name, shape in shapes(architecture).items():
        module, _, leaf = name.rpartition(".")
        prefix, table = "", outer
        if module.startswith("decoder.layers."):
            number, module = module.removeprefix("decoder.layers.").split(".", 1)
            prefix, table = layer_prefix.format(number), layer
        entry = table[module] if module in table else table[name]
        theirs, find = entry if isinstance(entry, tuple) else (entry, Source)
        stored = f"{theirs}.{leaf}" if module in table else theirs
        sources[name] = find(prefix + stored, shape)
    return sources


def twin(other: str) -> Find:
    """For a tensor that a checkpoint may also hold as `other` (a tied table, a renamed head)."""
    return lambda name, shape: Source(name, shape, twin=other)
