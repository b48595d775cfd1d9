"""Sets of rows and sets of layers as integers: bit i stands for row or layer i.

They cost next to nothing for the few rows of a draft. Also free slots, and the checks that need
nothing but what a caller passed to a step. It knows no session.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import TRUNK, Layers, Rows
from edgedec.errors import InputError, UsageError

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

NO_SLOTS = np.zeros(0, np.int64)
_CHAIN = np.tri(64, dtype=np.bool_)
_NO_PAST = np.zeros((64, 0), np.bool_)
_BITS = np.int64(1) << np.arange(63, dtype=np.int64)


class Slots:
    """Hands out slots 0, 1, 2, ... and those that were given back, lowest first.

    `width` is how many have been in use so far; if `compact`, how many are: there slots in use
    have no gaps, for their owner moves rows down before it gives back as many slots.
    """

    def __init__(self, width: int = 0, *, compact: bool = False) -> None:
        self.width, self.compact = width, compact
        self._free: list[int] = []

    def take(self, count: int) -> Indices:
        """So many slots."""
        again = min(count, len(self._free))
        if not again:
            self.width += count
            return np.arange(self.width - count, self.width, dtype=np.int64)
        taken = self._free[-again:][::-1]
        del self._free[-again:]
        taken += range(self.width, self.width + count - again)
        self.width += count - again
        return np.array(taken, np.int64)

    def release(self, slots: Sequence[int]) -> None:
        """Give slots back."""
        if self.compact:
            self.width -= len(slots)
        else:
            self._free += sorted(slots, reverse=True)


def layer_set(layers: Layers | None, total: int, cuts: Sequence[int]) -> int:
    """The set of layers that ranges name; None is all of them.

    Raises:
        UsageError: a range is empty, overlaps, leaves 0..`total`, or does not begin and end at a
            cut.
    """
    if layers is None:
        return (1 << total) - 1
    allowed = {0, total, *cuts}
    found, last = 0, 0
    for part in layers:
        if part.step != 1 or not last <= part.start < part.stop <= total:
            raise UsageError(f"layers {layers} are not rising ranges within 0..{total}")
        if not {part.start, part.stop} <= allowed:
            raise UsageError(
                f"layers {part.start}..{part.stop} do not begin and end at a cut of this model "
                f"({', '.join(map(str, sorted(allowed)))})"
            )
        found |= (1 << part.stop) - (1 << part.start)
        last = part.stop
    if not found:
        raise UsageError("a step runs at least one layer")
    return found


def bucket(rows: int, limit: int) -> int:
    """A capacity for at least `rows` rows: an eighth more, in steps of 64, at most `limit`."""
    return max(rows, min(limit, -(-(rows + rows // 8 + 1) // 64) * 64))


def skips(layers: int) -> bool:
    """Whether a set of layers does not run from 0 without a gap: such rows are scratch."""
    return layers & (layers + 1) != 0


def lowest(bits: int) -> int:
    """The smallest member of a set that is not empty."""
    return (bits & -bits).bit_length() - 1


def members(rows: Sequence[int]) -> int:
    """A set from its members."""
    if isinstance(rows, range) and rows.step == 1:
        return ((1 << len(rows)) - 1) << rows.start
    return sum(1 << row for row in rows)


def matrix(rows: Sequence[int], columns: int) -> Bools:
    """Sets as the lines of a boolean matrix [rows, columns]."""
    if columns <= 63:
        found: Bools = (np.array(rows, np.int64)[:, None] & _BITS[:columns]).astype(np.bool_)
        return found
    width = max(1, -(-columns // 8))
    packed = np.frombuffer(b"".join(bits.to_bytes(width, "little") for bits in rows), np.uint8)
    unpacked = np.unpackbits(packed.reshape(len(rows), width), axis=1, bitorder="little")
    return unpacked[:, :columns].astype(np.bool_)


def chain_matrix(count: int) -> Bools:
    """What the rows of a chain see of each other [count, count]; not to be written to."""
    return _CHAIN[:count, :count] if count <= len(_CHAIN) else np.tri(count, dtype=np.bool_)


def no_past(count: int) -> Bools:
    """What so many rows see of no living rows [count, 0]."""
    return _NO_PAST[:count] if count <= len(_NO_PAST) else np.zeros((count, 0), np.bool_)


def common_start(paths: Sequence[Sequence[int]]) -> Sequence[int]:
    """The longest beginning that all paths share."""
    if len(paths) == 1:
        return paths[0]
    shortest = min(paths, key=len)
    for depth, handle in enumerate(shortest):
        if any(path[depth] != handle for path in paths):
            return shortest[:depth]
    return shortest


def with_ancestors(known: Sequence[int], parents: Sequence[int]) -> list[int]:
    """The ancestors of each row, itself included: those known, then those of rows behind them."""
    found = list(known)
    for handle, parent in enumerate(parents, start=len(found)):
        found.append((found[parent] if parent >= 0 else 0) | 1 << handle)
    return found


def closing_moves(rows: Sequence[int], first: int) -> tuple[list[int], list[int]]:
    """Which slots from, and which to, if only these rising `rows` stay and close ranks.

    Row h lies in slot `first` + h. The moves rise and none goes up, so that each may be made in
    place before the next.
    """
    moved = [(row, index) for index, row in enumerate(rows) if row != index]
    return [first + row for row, _ in moved], [first + index for _, index in moved]


def is_chain(parents: Sequence[int], first: int) -> bool:
    """Whether new rows, numbered from `first`, follow each other and the row before them."""
    return list(parents) == list(range(first - 1, first - 1 + len(parents)))


def extra_rows(visible: Sequence[Sequence[int]] | None, first: int, count: int) -> dict[int, int]:
    """`Rows.visible` as sets, by handle.

    Raises:
        UsageError: a row that does not exist.
    """
    found: dict[int, int] = {}
    for index, others in enumerate(visible or ()):
        for other in others:
            if not 0 <= other < first + count:
                raise UsageError(f"row {index} of the step cannot see row {other}: there is none")
            found[first + index] = found.get(first + index, 0) | 1 << other
    return found


def check_parents(parents: Sequence[int], first: int) -> None:
    """Refuse parents of new rows, numbered from `first`, that are no rows before them.

    Raises:
        UsageError: naming the first such row.
    """
    for index, parent in enumerate(parents):
        if not TRUNK <= parent < first + index:
            raise UsageError(
                f"row {index} of the step has the parent {parent}: a parent is {TRUNK} (the "
                f"trunk) or a row before it, here up to {first + index - 1}"
            )


def check_rows(rows: Rows, tokens: Sequence[int], ids: int) -> None:
    """Refuse columns of different lengths than `rows.tokens` (as a list) and ids outside 0..`ids`.

    Raises:
        UsageError: naming the first such thing.
    """
    count = len(tokens)
    if not count:
        raise UsageError("a step needs at least one row")
    for column in (rows.parents, rows.positions, rows.hidden, rows.visible):
        if column is not None and len(column) != count:
            raise UsageError(
                f"{count} tokens, but {len(column)} parents, positions, hidden or visible"
            )
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= ids:
        raise UsageError(f"token id {low if low < 0 else high} does not exist: there are {ids}")


def check_positions(positions: Sequence[int], context: int) -> None:
    """Refuse positions outside the model's context.

    Raises:
        InputError: the text is too long.
        UsageError: a position is negative.
    """
    top = max(positions)
    if top >= context:
        raise InputError(
            f"the text has {top + 1} tokens, the model's context holds {context}: "
            "shorten the prompt or ask for fewer new tokens"
        )
    if min(positions) < 0:
        raise UsageError("a position is negative: the first token of a text has position 0")


def check_hidden(wanted: Sequence[int], run: int, offered: Sequence[int]) -> None:
    """Refuse hidden states that a runtime does not show, or that these layers do not make.

    Raises:
        UsageError: naming the layer.
    """
    for layer in wanted:
        if layer not in offered:
            listed = ", ".join(map(str, offered)) or "none"
            raise UsageError(f"no hidden states of layer {layer} here; there are those of {listed}")
        if not run >> max(0, layer - 1) & 1:
            raise UsageError(f"the layers that are run do not give hidden states of layer {layer}")
