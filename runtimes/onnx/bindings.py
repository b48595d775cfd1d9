"""The buffers of a step and their bindings to ONNX Runtime, made once per shape and used again.

ONNX Runtime reads and writes numpy's memory in place (`OrtValue.ortvalue_from_numpy` shares it on
the CPU), so a step costs a few assignments in Python whatever the number of layers. It knows no
tree and no tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import BiasTable
from edgedec.errors import DeviceError
from edgedec.manifest import mask_name

from .buffers import attach, by_layer, shrinking
from .encoder import Encoded
from .inplace import places
from .keyvalues import KeyValues
from .segments import Loaded, shows

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.rowsets import Indices

Entry = Literal["ids", "vectors", "hidden"]

KEPT = 12
KEPT_BYTES = 4 << 20
BIG_STEP = 32
"""Rows from which on a step gives its scratch memory back, so that none piles up."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a binding depends on: n rows, m of them with logits, the layers run, what is shown.

    `every`: the rows with logits are all rows, in order.
    `entry`: rows come as `ids`, as `vectors` in place of embeddings, or as `hidden` states between
    two layers.
    """

    rows: int
    logits: int
    every: bool
    run: int
    hidden: tuple[int, ...]
    entry: Entry


@dataclass(slots=True)
class Bound:
    """The buffers of one shape, by the names of `edgedec.export.to_onnx` and `inplace`.

    `places` are, by number of key/value heads, where the new rows' keys and values go; `leaving`
    is what the last layer that is run gives, where that is not the model's last.
    """

    ids: Indices
    positions: Indices
    masks: dict[int | None, Floats]
    buckets: Indices | None
    head_rows: Indices
    entering: Floats | None
    logits: Floats
    hidden: dict[int, Floats] = field(default_factory=dict)
    places: dict[int, Indices] = field(default_factory=dict)
    leaving: Floats | None = None
    options: Any = None
    chain: list[tuple[Loaded, Any]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    encoded: Encoded | None = None
    crossing: list[Any] = field(default_factory=list)

    def look_at(self, encoded: Encoded) -> None:
        """Let the layers' cross-attention see what an encoder gave."""
        if encoded is self.encoded:
            return
        arrays = by_layer("cross", encoded.arrays, encoded.arrays)
        self.encoded, self.crossing = encoded, []
        for segment, binding in self.chain:
            for name in segment.inputs & arrays.keys():
                self.crossing.append(attach(binding.bind_ortvalue_input, name, arrays[name]))

    def run(self) -> None:
        """Run the segments.

        Raises:
            DeviceError: ONNX Runtime failed; its reason in one line.
        """
        try:
            for segment, binding in self.chain:
                segment.session.run_with_iobinding(binding, self.options)
        except Exception as error:  # ONNX Runtime's errors have no common class of their own.
            reason = str(error).splitlines()[0]
            raise DeviceError(f"ONNX Runtime failed in a step: {reason}") from error

    @property
    def size(self) -> int:
        """Bytes of what grows with rows and vocabulary."""
        arrays = [*self.masks.values(), *self.hidden.values(), self.logits]
        buckets = 0 if self.buckets is None else self.buckets.nbytes
        return buckets + sum(array.nbytes for array in arrays)


@dataclass(frozen=True, slots=True)
class Parts:
    """What all shapes of a session share."""

    segments: Sequence[Loaded]
    windows: Sequence[int | None]
    table: BiasTable | None
    width: int
    vocab: int


class Bindings:
    """A small store of bound shapes, the latest used ones; big ones only while they are in use."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._bound: OrderedDict[Shape, Bound] = OrderedDict()
        self._learned: Floats | None = None

    def clear(self) -> None:
        """Forget all: the buffers of keys and values moved."""
        self._bound.clear()

    def look_at(self, encoded: Encoded) -> None:
        """Let all shapes see this source, and let go of the one before."""
        for bound in self._bound.values():
            bound.look_at(encoded)

    def close(self) -> None:
        """Let go of the segments."""
        self.clear()
        self._parts = replace(self._parts, segments=())

    def get(self, shape: Shape, past: KeyValues, learned: Floats, encoded: Encoded) -> Bound:
        """The buffers of this shape, bound to this past and this source."""
        if learned is not self._learned:
            self.clear()
            self._learned = learned
        bound = self._bound.get(shape)
        if bound is None:
            self._make_room()
            bound = self._bound[shape] = bind(self._parts, shape, past, learned)
        self._bound.move_to_end(shape)
        bound.look_at(encoded)
        return bound

    def _make_room(self) -> None:
        size = sum(bound.size for bound in self._bound.values())
        while self._bound and (len(self._bound) >= KEPT or size > KEPT_BYTES):
            size -= self._bound.popitem(last=False)[1].size


def bind(parts: Parts, shape: Shape, past: KeyValues, learned: Floats) -> Bound:
    """Make the buffers of a shape and bind the segments that run it, in order."""
    rows, width, total = shape.rows, parts.width, past.capacity
    bound = Bound(
        ids=np.zeros(rows, np.int64),
        positions=np.zeros(rows, np.int64),
        masks={window: np.zeros((rows, total), np.float32) for window in parts.windows},
        head_rows=np.arange(shape.logits, dtype=np.int64),
        entering=None if shape.entry == "ids" else np.zeros((rows, width), np.float32),
        buckets=None if parts.table is None else np.zeros((rows, total), np.int64),
        logits=np.zeros((shape.logits, parts.vocab), np.float32),
    )
    if rows >= BIG_STEP:
        bound.options = shrinking()
    if shape.entry == "vectors" and bound.entering is not None:
        learned = bound.entering
    stream = bound.entering
    for segment in parts.segments:
        if _runs(segment, shape):
            _Chain(bound, shape, segment, past, width).bind(learned, stream)
            stream = bound.leaving
    if shape.run >> parts.segments[-1].spec.last - 1:
        bound.leaving = None
    return bound


def _runs(segment: Loaded, shape: Shape) -> bool:
    spec = segment.spec
    if spec.first == spec.last:
        return spec.embed or bool(shape.logits)
    return bool(shape.run >> spec.first & 1)


@dataclass(slots=True)
class _Chain:
    """One segment joining the chain of a shape."""

    bound: Bound
    shape: Shape
    segment: Loaded
    past: KeyValues
    width: int

    def bind(self, learned: Floats, stream: Floats | None) -> None:
        """Bind one segment; `stream` is what the one before gives."""
        binding = self.segment.session.io_binding()
        for block in self.segment.blocks:
            self.bound.places.setdefault(block.heads, _places(block.heads, self.shape.rows))
        given = self._outputs()
        values = self.bound.values
        for name, array in self._inputs(learned, stream).items():
            values.append(attach(binding.bind_ortvalue_input, name, array))
        for name, array in given.items():
            values.append(attach(binding.bind_ortvalue_output, name, array))
        self.bound.chain.append((self.segment, binding))
        if not self.segment.spec.head:
            self.bound.leaving = given[f"hidden.{self.segment.spec.last}"]

    def _inputs(self, learned: Floats, stream: Floats | None) -> Mapping[str, NDArray[Any]]:
        bound = self.bound
        offered: dict[str, NDArray[Any]] = {
            "ids": bound.ids,
            "learned": learned,
            "positions": bound.positions,
            "head_rows": bound.head_rows,
            **{mask_name(window): mask for window, mask in bound.masks.items()},
            **{places(heads): array for heads, array in bound.places.items()},
            **by_layer("past", self.segment.blocks, self.past.arrays),
        }
        if bound.buckets is not None:
            offered["buckets"] = bound.buckets
        if stream is not None:
            offered["hidden"] = stream
        return {name: array for name, array in offered.items() if name in self.segment.inputs}

    def _outputs(self) -> dict[str, Floats]:
        spec, shown = self.segment.spec, set(self.shape.hidden)
        # The graph writes its new rows into the past itself.
        given = by_layer("present", self.segment.blocks, self.past.arrays)
        if not spec.head:
            shown.add(spec.last)
        for layer in sorted(shown.intersection(shows(spec))):
            array = np.zeros((self.shape.rows, self.width), np.float32)
            given[f"hidden.{layer}"] = self.bound.hidden[layer] = array
        if spec.head and self.shape.logits:
            given["logits"] = self.bound.logits
        return given


def _places(heads: int, rows: int) -> Indices:
    """[heads, n, 2]: the head, and the slot that is still to be filled in."""
    found = np.zeros((heads, rows, 2), np.int64)
    found[:, :, 0] = np.arange(heads)[:, None]
    return found
