"""The bookkeeping of a session, shared by all runtimes: rows, slots, who sees whom, what survives.

It knows token ids, positions, layers and slots (a slot is a place in a runtime's key/value
buffers), but no numbers of the model and no buffers: a runtime gives a `Call` to its arithmetic
and stores what comes out in the slots named there. What is kept stays in its slot, and a slot that
was freed is used again; or, in a `compact` tree, rows close ranks: trunk row i lies in slot i and
living row h behind the trunk in slot len(tokens) + h, and `moves` says what the last `keep` moved.

Sets of rows and of layers are integers (`rowsets`). A plain chain of any length is one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedec.contracts import TRUNK, Rows
from edgedec.errors import InputError, UsageError
from edgedec.rowsets import (
    NO_SLOTS,
    Bools,
    Indices,
    Slots,
    chain_matrix,
    check_parents,
    check_positions,
    check_rows,
    closing_moves,
    common_start,
    extra_rows,
    is_chain,
    lowest,
    matrix,
    members,
    no_past,
    skips,
    with_ancestors,
)
from edgedec.trunk import Trunk


@dataclass(slots=True)
class Call:
    """The n rows of one step or resume, and what they see besides the whole trunk.

    `slots` and `positions` are [n]; `own` [n, n] says which rows of the call a row sees (itself
    included), `past` [n, m] which other living rows, whose slots are `past_slots` [m].
    `layers` is the set of layers that the rows have run when the call is done. In a `chain` each
    row sees all that was there before it.
    """

    handles: Sequence[int]
    slots: Indices
    positions: Indices
    own: Bools
    past: Bools
    past_slots: Indices
    layers: int
    layers_before: int = 0
    chain: bool = False


class RowTree:
    """The trunk, the living rows and the free slots of one session.

    `layers` is L, `context` the number of positions the model has; `spare` rows may live beyond
    the context, so that its last positions can still be drafted.
    """

    def __init__(
        self, layers: int, context: int, spare: int = 512, *, compact: bool = False
    ) -> None:
        self.moves: tuple[list[int], list[int]] = ([], [])
        """Slots from which and to which rows of a compact tree moved, rising and never up."""
        self.cuts = 0
        """How often the trunk was cut; unchanged means that it only grew."""
        self._layers, self._context, self._spare = layers, context, spare
        self._every = (1 << layers) - 1
        self._slots, self._trunk = Slots(compact=compact), Trunk()
        self._clear()

    def _clear(self) -> None:
        self._token: list[int] = []
        self._parent: list[int] = []
        self._position: list[int] = []
        self._slot: list[int] = []
        # Ancestors of each row, itself included; None while the living rows are a plain chain.
        self._ancestors: list[int] | None = None
        self._extra: dict[int, int] = {}
        self._ran: dict[int, int] = {}

    @property
    def width(self) -> int:
        """Slots in use so far: a runtime's buffers must hold that many."""
        return self._slots.width

    @property
    def tokens(self) -> list[int]:
        """The token ids of the trunk."""
        return self._trunk.tokens

    @property
    def end(self) -> int:
        """The position of the trunk's last row; -1 if there is none."""
        return self._trunk.end

    @property
    def living(self) -> int:
        """The number of living rows."""
        return len(self._token)

    @property
    def trunk_slots(self) -> Indices:
        """The slots of the trunk's rows, in order (a view)."""
        return self._trunk.slots

    @property
    def trunk_positions(self) -> Indices:
        """The positions of the trunk's rows, in order (a view)."""
        return self._trunk.positions

    def slot(self, handle: int) -> int:
        """Where a living row, or with TRUNK the trunk's last, lies; -1 if there is none."""
        return self._slot[handle] if handle >= 0 else self._trunk.slot

    # --- new rows --------------------------------------------------------------------------------

    def place(self, rows: Rows, layers: int, ids: int) -> Call:
        """Give new rows handles and slots; `layers` is the set they run, `ids` how many ids exist.

        Raises:
            InputError: the rows do not fit into the context that is left.
            UsageError: a parent, position or id that does not exist, or a row that would see one
                which ran other layers.
        """
        tokens, first = np.asarray(rows.tokens).tolist(), self.living
        check_rows(rows, tokens, ids)
        parents = np.asarray(rows.parents).tolist()
        chain = self._ancestors is None and rows.visible is None and is_chain(parents, first)
        positions = self._positions(rows, parents, chain)
        self._check_room(positions)
        own, past = (
            self._chain_sight(len(tokens), layers) if chain else self._sight(rows, parents, layers)
        )
        past_slots = np.array(self._slot, np.int64) if first else NO_SLOTS
        slots = self._slots.take(len(tokens))
        self._token += tokens
        self._parent += parents
        self._position += positions
        self._slot += slots.tolist()
        handles = range(first, first + len(tokens))
        self._ran[layers] = self._ran.get(layers, 0) | members(handles)
        placed = np.array(positions, np.int64)
        return Call(handles, slots, placed, own, past, past_slots, layers, chain=chain)

    def _positions(self, rows: Rows, parents: list[int], chain: bool) -> list[int]:
        if rows.positions is not None:
            check_parents(parents, self.living)
            given: list[int] = np.asarray(rows.positions).tolist()
            return given
        if chain:
            start = self._position_of(self.living - 1) + 1
            return list(range(start, start + len(parents)))
        check_parents(parents, self.living)
        found, root = list(self._position), self.end
        for parent in parents:
            found.append((found[parent] if parent >= 0 else root) + 1)
        return found[self.living :]

    def _position_of(self, handle: int) -> int:
        return self._position[handle] if handle >= 0 else self.end

    def _check_room(self, positions: list[int]) -> None:
        check_positions(positions, self._context)
        used = len(self.tokens) + self.living + len(positions)
        if used > self._context + self._spare:
            raise InputError(
                f"{used} rows would be held, there is room for {self._context + self._spare}: "
                "keep or drop living rows first"
            )

    # --- who sees whom ---------------------------------------------------------------------------

    def _chain_sight(self, count: int, layers: int) -> tuple[Bools, Bools]:
        first = self.living
        if not first:
            return chain_matrix(count), no_past(count)
        self._check_seen([(1 << first) - 1], [first], layers, layers)
        return chain_matrix(count), np.ones((count, first), np.bool_)

    def _sight(self, rows: Rows, parents: list[int], layers: int) -> tuple[Bools, Bools]:
        """What new rows see: ancestors, themselves and what `visible` names."""
        first, count = self.living, len(parents)
        ancestors = with_ancestors(self._all_ancestors(), parents)
        if not first and rows.visible is None:
            self._ancestors = ancestors
            return matrix(ancestors, count), no_past(count)
        extra = extra_rows(rows.visible, first, count)
        handles = range(first, first + count)
        seen = [ancestors[handle] | extra.get(handle, 0) for handle in handles]
        past = [bits & ((1 << first) - 1) for bits in seen]
        self._check_seen(past, handles, layers, layers)
        self._ancestors = ancestors
        self._extra |= extra
        return matrix([bits >> first for bits in seen], count), matrix(past, first)

    def _all_ancestors(self) -> list[int]:
        if self._ancestors is not None:
            return self._ancestors[: self.living]
        return [(2 << handle) - 1 for handle in range(self.living)]

    def _check_seen(self, seen: list[int], handles: Sequence[int], run: int, layers: int) -> None:
        """Each row seen must have run the layers being run; a scratch row, exactly `layers`."""
        known = 0
        for ran, bits in self._ran.items():
            if ran == layers if skips(ran) else ran & run == run:
                known |= bits
        for handle, bits in zip(handles, seen, strict=True):
            if bits & ~known:
                raise UsageError(
                    f"row {handle} would see row {lowest(bits & ~known)}, which ran other "
                    "layers: resume that row first, or hang this one elsewhere"
                )

    # --- further layers for living rows ----------------------------------------------------------

    def ran(self, handle: int) -> int:
        """The set of layers that a living row has run.

        Raises:
            UsageError: there is no such row.
        """
        self._check_handle(handle)
        return next(ran for ran, bits in self._ran.items() if bits >> handle & 1)

    def resume(self, handles: Sequence[int], run: int) -> Call:
        """Living rows that go through the further layers `run`.

        Raises:
            UsageError: a row that does not exist, is named twice, has run those layers or later
                ones, or would see one that did not run them.
        """
        chosen = list(handles)
        before = {self.ran(handle) for handle in chosen}
        if len(before) != 1 or len(set(chosen)) != len(chosen):
            raise UsageError("resume takes living rows that all ran the same layers, each once")
        ran = before.pop()
        if lowest(run) < ran.bit_length():
            raise UsageError(
                f"rows that ran up to layer {ran.bit_length()} cannot resume at {lowest(run)}"
            )
        within = members(chosen)
        ancestors = self._all_ancestors()
        seen = [ancestors[handle] | self._extra.get(handle, 0) for handle in chosen]
        self._check_seen([bits & ~within for bits in seen], chosen, run, ran | run)
        self._move(within, ran, ran | run)
        sight = matrix(seen, self.living)
        own, past = sight[:, chosen], sight
        past[:, chosen] = False
        slots = np.array(self._slot, np.int64)
        positions = np.array([self._position[handle] for handle in chosen], np.int64)
        return Call(chosen, slots[chosen], positions, own, past, slots, ran | run, ran)

    def _move(self, rows: int, source: int, target: int) -> None:
        self._ran[source] &= ~rows
        if not self._ran[source]:
            del self._ran[source]
        self._ran[target] = self._ran.get(target, 0) | rows

    def withdraw(self, call: Call) -> None:
        """Undo the latest `place` or `resume`, whose arithmetic failed."""
        rows = members(call.handles)
        if call.layers_before:
            self._move(rows, call.layers, call.layers_before)
            return
        first = call.handles[0]
        self._move(rows, call.layers, 0)
        del self._ran[0]
        self._slots.release(self._slot[first:])
        for column in (self._token, self._parent, self._position, self._slot):
            del column[first:]
        if self._ancestors is not None:
            del self._ancestors[first:]
        self._extra = {row: bits for row, bits in self._extra.items() if row < first}

    # --- what survives ---------------------------------------------------------------------------

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Let the leaves and their ancestors live; what all leaves share becomes trunk.

        Returns the leaves' new handles.

        Raises:
            UsageError: no leaf, one that does not exist, or a kept row that did not run every
                layer.
        """
        if not leaves:
            raise UsageError(f"keep needs at least one leaf; keep([{TRUNK}]) drops all rows")
        paths = [self._path(leaf) for leaf in leaves]
        self._check_complete(paths)
        common = common_start(paths)
        branches = sorted({handle for path in paths for handle in path[len(common) :]})
        self._close_ranks(common, branches)
        self._grow_trunk(common)
        fresh = self._drop(common, branches)
        return tuple(fresh.get(leaf, TRUNK) for leaf in leaves)

    def _path(self, leaf: int) -> Sequence[int]:
        """The living ancestors of a leaf and itself, oldest first."""
        if leaf == TRUNK:
            return range(0)
        self._check_handle(leaf)
        if self._ancestors is None:
            return range(leaf + 1)
        path = []
        while leaf >= 0:
            path.append(leaf)
            leaf = self._parent[leaf]
        return path[::-1]

    def _check_handle(self, handle: int) -> None:
        if not 0 <= handle < self.living:
            raise UsageError(f"there is no living row {handle}; there are {self.living} of them")

    def _check_complete(self, paths: list[Sequence[int]]) -> None:
        complete = self._ran.get(self._every, 0)
        if complete == (1 << self.living) - 1:
            return
        for handle in (handle for path in paths for handle in path):
            if not complete >> handle & 1:
                raise UsageError(
                    f"row {handle} has not run all {self._layers} layers, so it cannot be kept: "
                    "resume it first"
                )

    def _close_ranks(self, common: Sequence[int], branches: list[int]) -> None:
        """In a compact tree, move what survives into the first slots behind the trunk."""
        self.moves = ([], [])
        if self._slots.compact and (branches or not isinstance(common, range)):
            first = len(self.tokens)
            # Branches hang below all of the common rows, so this order rises.
            self.moves = closing_moves([*common, *branches], first)
            for source, target in zip(*self.moves, strict=True):
                self._slot[source - first] = target

    def _grow_trunk(self, rows: Sequence[int]) -> None:
        columns = self._token, self._slot, self._position
        self._trunk.grow(*([column[row] for row in rows] for column in columns))

    def go_on(self, tokens: list[int]) -> None:
        """A chain that a compact tree never had as living rows becomes trunk."""
        self._slots.width += len(tokens)
        self._trunk.go_on(tokens)

    def _drop(self, common: Sequence[int], branches: list[int]) -> dict[int, int]:
        alive = {*common, *branches}
        if len(alive) < self.living:
            self._slots.release([at for row, at in enumerate(self._slot) if row not in alive])
        if not branches:
            self._clear()
            return {}
        fresh = {old: index for index, old in enumerate(branches)}
        rows = [(self._token[r], self._position[r], self._slot[r]) for r in branches]
        parents = [fresh.get(self._parent[row], TRUNK) for row in branches]
        self._clear()
        self._token, self._position, self._slot = (
            list(column) for column in zip(*rows, strict=True)
        )
        self._parent = parents
        self._ran = {self._every: (1 << len(branches)) - 1}
        self._ancestors = with_ancestors((), parents)
        return fresh

    def truncate(self, length: int) -> None:
        """Cut the trunk to its first `length` rows and drop all living rows.

        Raises:
            UsageError: the trunk is shorter than that.
        """
        if not 0 <= length <= len(self.tokens):
            raise UsageError(f"the trunk has {len(self.tokens)} rows and cannot be cut to {length}")
        self._slots.release(self._slot)
        self._clear()
        if length < len(self.tokens):
            self._slots.release(self.trunk_slots[length:].tolist())
            self._trunk.cut(length)
            self.cuts += 1
        if not length:
            self._slots = Slots(compact=self._slots.compact)

    def restored(self, tokens: Sequence[int], positions: Indices) -> RowTree:
        """A new tree of the same kind with this trunk, in the slots 0, 1, 2, ..."""
        compact = self._slots.compact
        other = RowTree(self._layers, self._context, self._spare, compact=compact)
        other._trunk = Trunk(tokens, range(len(tokens)), positions)
        other._slots = Slots(len(tokens), compact=compact)
        other.cuts = self.cuts + 1
        return other
