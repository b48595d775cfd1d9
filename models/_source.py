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
    rows cannot. `twins` are other names under which a checkpoint may hold the same numbers. Where
    it has none of these names, `spare` is read if given, else `make` computes the tensor.
    """

    name: str
    shape: Shape
    rows: tuple[int, int] | None = None
    take: Callable[[Floats], Floats] | None = None
    twins: tuple[str, ...] = ()
    spare: str | None = None
    make: Callable[[], Floats] | None = None


Find = Callable[[str, Shape], Source]
"""Makes the source of a fused, transposed or computed tensor from the stored name and our shape."""

Table = Mapping[str, str | tuple[str, Find]]
"""Our module name -> theirs; with a function where the two do not have the same shape."""

Run = tuple[str, Table]
"""The layers of one side: their prefix with a `{}` for the number, and what stands in each."""


def rename(
    architecture: Architecture,
    layer_prefix: str,
    layer: Table,
    outer: Table,
    encoder: Run = ("", {}),
) -> dict[str, Source]:
    """The source of every tensor: `layer` is per layer, `outer` for what stands around them.

    `layer_prefix` has a `{}` for the layer's number, as in "model.layers.{}.". An `encoder` has
    layers and a prefix of its own.
    """
    runs: Mapping[str, Run] = {"decoder": (layer_prefix, layer), "encoder": encoder}
    sources = {}
    for name, shape in shapes(architecture).items():
        module, _, leaf = name.rpartition(".")
        prefix, table = "", outer
        side, inside, rest = module.partition(".layers.")
        if inside:
            number, module = rest.split(".", 1)
            prefix, table = runs[side][0].format(number), runs[side][1]
        entry = table[module] if module in table else table[name]
        theirs, find = entry if isinstance(entry, tuple) else (entry, Source)
        stored = f"{theirs}.{leaf}" if module in table else theirs
        sources[name] = find(prefix + stored, shape)
    return sources


def twin(*others: str) -> Find:
    """For a tensor that a checkpoint may also hold as `others` (a tied table, a renamed head)."""
    return lambda name, shape: Source(name, shape, twins=others)
