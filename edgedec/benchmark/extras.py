"""What drafting adds to a model: the size of the trained parts that are in use.

Knows files and what they say of themselves, no strategy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedec import parts
from edgedec.weights import shapes

if TYPE_CHECKING:
    from edgedec.model import Model


@dataclass(frozen=True, slots=True)
class Extras:
    """Numbers that were trained, and the bytes of the files that hold them."""

    parameters: int = 0
    bytes: int = 0


def of(model: Model) -> Extras:
    """All trained parts that draft for a model."""
    parameters = size = 0
    for each in model.drafting.parts:
        trained = getattr(each.strategy, "trained", False)
        path = model.bundle.strategy_file(each.name) if trained else None
        if path is not None:
            parameters += counted(path)
            size += path.stat().st_size
    return Extras(parameters, size)


def counted(path: Path) -> int:
    """The parameters of a part: its vectors, its matrices, and the weights of its own layers.

    Raises:
        StateError: it is no part.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        contents = parts.decode(file.metadata() or {}, path)
    found = [*contents.vectors.values(), *contents.matrices.values()]
    if contents.architecture is not None:
        found += shapes(contents.architecture).values()
    return sum(math.prod(shape) for shape in found)
