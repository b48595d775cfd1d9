"""What a segment's graph takes and gives, and the check that a file really does.

The interface is described in `edgedec.export.to_onnx`. Sizes come from the architecture, so that
nothing in a graph is believed that the manifest does not say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgedec.architecture import Architecture
from edgedec.errors import BundleError
from edgedec.manifest import Segment

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring layers [first, last) of one segment with the same heads G and width d."""

    first: int
    last: int
    heads: int
    dim: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """One segment as an ONNX Runtime session, and the names of what it takes."""

    spec: Segment
    session: Any
    inputs: frozenset[str]
    blocks: tuple[Block, ...]


def mask_name(window: int | None) -> str:
    """The mask input of the layers with this window."""
    return "mask" if window is None else f"mask.w{window}"


def windows(architecture: Architecture) -> tuple[int | None, ...]:
    """The distinct windows of the decoder's layers."""
    return tuple(dict.fromkeys(la.self_attention.window for la in architecture.decoder.layers))


def blocks(segment: Segment, architecture: Architecture) -> tuple[Block, ...]:
    """The layers of a segment in runs of equal keys and values."""
    found: list[Block] = []
    for index in range(segment.first, segment.last):
        spec = architecture.decoder.layers[index].self_attention
        new = Block(index, index + 1, spec.kv_heads, spec.head_dim)
        if found and (found[-1].heads, found[-1].dim) == (new.heads, new.dim):
            new = Block(found.pop().first, index + 1, new.heads, new.dim)
        found.append(new)
    return tuple(found)


def check_chain(segments: tuple[Segment, ...], layers: int) -> None:
    """Refuse segments that do not cover the layers in order, from embedding to head.

    Raises:
        BundleError: they do not.
    """
    edge = 0
    for index, segment in enumerate(segments):
        starts, ends = index == 0, index == len(segments) - 1
        if (
            segment.first != edge
            or segment.last < edge
            or (segment.embed, segment.head)
            != (
                starts,
                ends,
            )
        ):
            raise BundleError(f"{segment.file} does not follow the segment before: export again")
        edge = segment.last
    if edge != layers:
        raise BundleError(f"the ONNX form ends at layer {edge} of {layers}: export again")


def load(spec: Segment, session: Any, architecture: Architecture) -> Loaded:
    """Check a segment's graph against the architecture.

    Raises:
        BundleError: an input or output is missing, unknown, or has another shape.
    """
    inputs = {value.name: tuple(value.shape) for value in session.get_inputs()}
    outputs = {value.name: tuple(value.shape) for value in session.get_outputs()}
    takes, gives = _takes(spec, architecture), _gives(spec, architecture)
    optional = {"positions", *(mask_name(window) for window in windows(architecture))}
    _check(spec.file, "input", inputs, takes, set(takes) - optional)
    required = set(gives) - {f"hidden.{layer}" for layer in range(spec.first, spec.last + 1)}
    if not spec.head:
        required.add(f"hidden.{spec.last}")
    _check(spec.file, "output", outputs, gives, required)
    return Loaded(spec, session, frozenset(inputs), blocks(spec, architecture))


def _takes(spec: Segment, architecture: Architecture) -> dict[str, Shape]:
    width = architecture.embed.dim
    takes: dict[str, Shape] = {"positions": (None,)}
    takes |= {mask_name(window): (None, None) for window in windows(architecture)}
    takes |= {"ids": (None,), "learned": (None, width)} if spec.embed else {"hidden": (None, width)}
    if spec.head:
        takes["head_rows"] = (None,)
    return takes | _keys_and_values("past", spec, architecture)


def _gives(spec: Segment, architecture: Architecture) -> dict[str, Shape]:
    gives = _keys_and_values("new", spec, architecture)
    layers = range(spec.first, spec.last + 1)
    gives |= {f"hidden.{layer}": (None, architecture.embed.dim) for layer in layers}
    return gives | ({"logits": (None, architecture.vocab)} if spec.head else {})


def _keys_and_values(kind: str, spec: Segment, architecture: Architecture) -> dict[str, Shape]:
    return {
        f"{kind}.{layer}.{part}": (block.heads, None, block.dim)
        for block in blocks(spec, architecture)
        for layer in range(block.first, block.last)
        for part in ("key", "value")
    }


def _check(
    file: str,
    kind: str,
    found: dict[str, tuple[Any, ...]],
    known: dict[str, Shape],
    required: Iterable[str],
) -> None:
    for name in sorted({*found, *required}):
        shape, expected = found.get(name), known.get(name)
        if shape is None or expected is None or not _fits(shape, expected):
            raise BundleError(
                f"{file} is not a step of this model: its {kind} {name!r} is "
                f"{shape or 'missing'}, expected is {expected or 'none'}: export again"
            )


def _fits(found: tuple[Any, ...], expected: Shape) -> bool:
    return len(found) == len(expected) and all(
        wanted is None or wanted == size for size, wanted in zip(found, expected, strict=True)
    )
