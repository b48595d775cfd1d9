"""What the graphs of encoder and segments take and give, and the check that a file really does.

The interface is described in `edgedec.export.to_onnx`, and what becomes of it in `inplace`. Sizes
come from the architecture, so that nothing in a graph is believed that the manifest does not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgedec.architecture import Architecture, Attention
from edgedec.errors import BundleError
from edgedec.manifest import Manifest, OnnxForm, Segment, mask_name
from edgedec.weights import shapes

from .inplace import places

FLOATS, WHOLE = "tensor(float)", "tensor(int64)"

Form = tuple[str | int | None, ...]
"""The element type and the dimensions of a tensor; None is any."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring layers [first, last) with the same key/value heads G and width d."""

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
    layers = architecture.decoder.layers
    return _runs({i: layers[i].self_attention for i in range(segment.first, segment.last)})


def crossing(
    architecture: Architecture, first: int = 0, last: int | None = None
) -> tuple[Block, ...]:
    """The layers [first, last) that look at the encoder's output, in runs of equal keys."""
    layers = architecture.decoder.layers[first:last]
    cross = {i: layer.cross_attention for i, layer in enumerate(layers, first)}
    return _runs({i: spec for i, spec in cross.items() if spec is not None})


def _runs(layers: Mapping[int, Attention]) -> tuple[Block, ...]:
    found: list[Block] = []
    for index, spec in layers.items():
        new = Block(index, index + 1, spec.kv_heads, spec.head_dim)
        last = found[-1] if found else None
        if last is not None and (last.last, last.heads, last.dim) == (index, new.heads, new.dim):
            new = Block(found.pop().first, index + 1, new.heads, new.dim)
        found.append(new)
    return tuple(found)


def layer_names(kind: str, found: Iterable[Block]) -> dict[str, tuple[Block, int, int]]:
    """The tensors `kind`.{layer}.key and .value: the block, the layer in it, 0 or 1."""
    return {
        f"{kind}.{layer}.{part}": (block, layer - block.first, index)
        for block in found
        for layer in range(block.first, block.last)
        for index, part in enumerate(("key", "value"))
    }


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
    inputs, outputs = _forms(session.get_inputs()), _forms(session.get_outputs())
    takes, gives = _takes(spec, architecture), _gives(spec, architecture)
    optional = {"positions", *(mask_name(window) for window in windows(architecture))}
    _check(spec.file, "input", inputs, takes, set(takes) - optional)
    shown = {*hidden, *(() if spec.head else (spec.last,))}.intersection(shows(spec))
    required = {name for name in gives if not name.startswith("hidden.")}
    required |= {f"hidden.{layer}" for layer in shown}
    _check(spec.file, "output", outputs, gives, required)
    return Loaded(spec, session, frozenset(inputs), blocks(spec, architecture))


def check_encoder(file: str, session: Any, architecture: Architecture) -> None:
    """Check an encoder's graph against the architecture.

    Raises:
        BundleError: an input or output is missing, unknown, or has another type or shape.
    """
    frontend = architecture.frontend
    takes: dict[str, Form] = (
        {"source": (WHOLE, None)}
        if frontend is None
        else {"features": (FLOATS, None, frontend.features)}
    )
    gives = _keys_and_values("cross", crossing(architecture))
    _check(file, "input", _forms(session.get_inputs()), takes, takes)
    _check(file, "output", _forms(session.get_outputs()), gives, gives)


def _forms(values: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    return {value.name: (value.type, *value.shape) for value in values}


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
    layers = architecture.decoder.layers[spec.first : spec.last]
    if any(layer.self_attention.bias_table for layer in layers):
        takes["buckets"] = (WHOLE, None, None)
    takes |= _keys_and_values("cross", crossing(architecture, spec.first, spec.last))
    held = blocks(spec, architecture)
    takes |= {places(block.heads): (WHOLE, None, None, None) for block in held}
    return takes | _keys_and_values("past", held)


def _gives(spec: Segment, architecture: Architecture) -> dict[str, Form]:
    gives = _keys_and_values("present", blocks(spec, architecture))
    width = architecture.embed.dim
    gives |= {f"hidden.{layer}": (FLOATS, None, width) for layer in shows(spec)}
    return gives | ({"logits": (FLOATS, None, architecture.vocab)} if spec.head else {})


def _keys_and_values(kind: str, found: Iterable[Block]) -> dict[str, Form]:
    named = layer_names(kind, found)
    return {name: (FLOATS, block.heads, None, block.dim) for name, (block, *_) in named.items()}


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
                f"{file} is not a part of this model: its {kind} {name!r} is "
                f"{form or 'missing'}, expected is {expected or 'none'}: export again"
            )


def _fits(found: tuple[Any, ...], expected: Form) -> bool:
    return len(found) == len(expected) and all(
        wanted is None or wanted == size for size, wanted in zip(found, expected, strict=True)
    )
