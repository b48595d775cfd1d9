"""What a segment's graph takes and gives, and the check that a file really does.

The interface is described in `edgedec.export.to_onnx`. Sizes come from the architecture, so that
nothing in a graph is believed that the manifest does not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgedec.architecture import Architecture
from edgedec.errors import BundleError
from edgedec.manifest import Manifest, OnnxForm, Segment, mask_name
from edgedec.weights import shapes

FLOATS, WHOLE = "tensor(float)", "tensor(int64)"

Form = tuple[str | int | None, ...]
"""The element type and the dimensions of a tensor; None is any."""


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


def check_size(manifest: Manifest) -> None:
    """Refuse a model larger than its files: its buffers would be as large as it claims to be.

    Raises:
        BundleError: it is.
    """
    needed = sum(
        math.prod(shape) * manifest.format_of(name).bits // 8
        for name, shape in shapes(manifest.architecture).items()
    )
    held = sum(file.size for file in manifest.files.values())
    if held < needed:
        raise BundleError(
            f"{manifest.name}: the manifest describes {needed} bytes of weights, the files have "
            f"{held}: export again"
        )


def check_chain(form: OnnxForm, layers: int) -> None:
    """Refuse segments that do not cover the layers in order, from embedding to head.

    Raises:
        BundleError: they do not.
    """
    edge = 0
    for index, segment in enumerate(form.segments):
        parts = (index == 0, index == len(form.segments) - 1)
        joins = segment.first == edge <= segment.last
        if not joins or (segment.embed, segment.head) != parts:
            raise BundleError(f"{segment.file} does not follow the segment before: export again")
        edge = segment.last
    if edge != layers:
        raise BundleError(f"the ONNX form ends at layer {edge} of {layers}: export again")
    if max(form.hidden, default=0) > layers:
        raise BundleError(f"the ONNX form shows layer {max(form.hidden)} of {layers}: export again")


def load(
    spec: Segment, session: Any, architecture: Architecture, hidden: Iterable[int] = ()
) -> Loaded:
    """Check a segment's graph against the architecture and the `hidden` layers it must show.

    Raises:
        BundleError: an input or output is missing, unknown, or has another type or shape.
    """
    inputs = {value.name: (value.type, *value.shape) for value in session.get_inputs()}
    outputs = {value.name: (value.type, *value.shape) for value in session.get_outputs()}
    takes, gives = _takes(spec, architecture), _gives(spec, architecture)
    optional = {"positions", *(mask_name(window) for window in windows(architecture))}
    _check(spec.file, "input", inputs, takes, set(takes) - optional)
    shown = {*hidden, *(() if spec.head else (spec.last,))}.intersection(shows(spec))
    required = {name for name in gives if not name.startswith("hidden.")}
    required |= {f"hidden.{layer}" for layer in shown}
    _check(spec.file, "output", outputs, gives, required)
    return Loaded(spec, session, frozenset(inputs), blocks(spec, architecture))


def shows(spec: Segment) -> range:
    """The layers whose hidden states a segment may give.

    A layer at a cut is the last of one segment and the first of the next: given once.
    """
    return range(spec.first + (not spec.embed), spec.last + 1)


def _takes(spec: Segment, architecture: Architecture) -> dict[str, Form]:
    rows, vectors = (WHOLE, None), (FLOATS, None, architecture.embed.dim)
    takes: dict[str, Form] = {"positions": rows}
    takes |= {mask_name(window): (FLOATS, None, None) for window in windows(architecture)}
    takes |= {"ids": rows, "learned": vectors} if spec.embed else {"hidden": vectors}
    if spec.head:
        takes["head_rows"] = rows
    return takes | _keys_and_values("past", spec, architecture)


def _gives(spec: Segment, architecture: Architecture) -> dict[str, Form]:
    gives = _keys_and_values("new", spec, architecture)
    width = architecture.embed.dim
    gives |= {f"hidden.{layer}": (FLOATS, None, width) for layer in shows(spec)}
    return gives | ({"logits": (FLOATS, None, architecture.vocab)} if spec.head else {})


def _keys_and_values(kind: str, spec: Segment, architecture: Architecture) -> dict[str, Form]:
    return {
        f"{kind}.{layer}.{part}": (FLOATS, block.heads, None, block.dim)
        for block in blocks(spec, architecture)
        for layer in range(block.first, block.last)
        for part in ("key", "value")
    }


def _check(
    file: str,
    kind: str,
    found: dict[str, tuple[Any, ...]],
    known: dict[str, Form],
    required: Iterable[str],
) -> None:
    for name in sorted({*found, *required}):
        form, expected = found.get(name), known.get(name)
        if form is None or expected is None or not _fits(form, expected):
            raise BundleError(
                f"{file} is not a step of this model: its {kind} {name!r} is "
                f"{form or 'missing'}, expected is {expected or 'none'}: export again"
            )


def _fits(found: tuple[Any, ...], expected: Form) -> bool:
    return len(found) == len(expected) and all(
        wanted is None or wanted == size for size, wanted in zip(found, expected, strict=True)
    )
