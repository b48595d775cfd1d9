"""The tree of rows against a model made of plain paths and sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.contracts import TRUNK, Rows
from edgedec.errors import InputError, UsageError
from edgedec.rowsets import bucket, layer_set
from edgedec.rowtree import Call, RowTree

LAYERS, CONTEXT, IDS = 3, 60, 100
ALL, EARLY, LATE, SKIP = 0b111, 0b001, 0b110, 0b101


def rows(
    tokens: list[int],
    parents: list[int],
    positions: list[int] | None = None,
    visible: list[list[int]] | None = None,
) -> Rows:
    given_positions = None if positions is None else np.array(positions, np.int32)
    return Rows(
        np.array(tokens, np.int32), np.array(parents, np.int32), given_positions, visible=visible
    )


def chain(first: int, count: int) -> Rows:
    return rows([7] * count, [*range(first - 1, first + count - 1)])


# --- the model to compare with -------------------------------------------------------------------


@dataclass
class Row:
    """A row as itself: its parent is another such object or None, what it sees a set of them."""

    token: int
    parent: Row | None
    position: int
    ran: int
    slot: int = -1
    extra: list[Row] = field(default_factory=list)

    def path(self) -> list[Row]:
        return [*(self.parent.path() if self.parent else []), self]


class Brute:
    """What `RowTree` must do, in the most obvious way."""

    def __init__(self) -> None:
        self.trunk: list[Row] = []
        self.living: list[Row] = []

    def place(self, step: Rows, ran: int) -> list[Row]:
        new: list[Row] = []
        for index, token in enumerate(step.tokens.tolist()):
            handle = int(step.parents[index])
            parent = None if handle < 0 else [*self.living, *new][handle]
            end = self.trunk[-1].position if self.trunk else -1
            position = (parent.position if parent else end) + 1
            new.append(Row(token, parent, position, ran))
        self.living += new
        for row, others in zip(new, step.visible or (), strict=False):
            row.extra = [self.living[other] for other in others]
        return new

    def sees(self, row: Row) -> set[int]:
        everything = [*self.trunk, *row.path(), *row.extra]
        return {seen.slot for seen in everything}

    def keep(self, leaves: list[int]) -> list[int]:
        paths = [self.living[leaf].path() if leaf >= 0 else [] for leaf in leaves]
        columns = takewhile(lambda c: all(r is c[0] for r in c), zip(*paths, strict=False))
        shared = [column[0] for column in columns]
        alive = [r for r in self.living if any(r in p for p in paths) and r not in shared]
        for row in alive:
            row.parent = None if row.parent in shared else row.parent
            row.extra = []
        self.trunk += shared
        self.living = alive
        return [alive.index(p[-1]) if p and p[-1] in alive else TRUNK for p in paths]


def seen_by_tree(tree: RowTree, call: Call) -> Iterator[set[int]]:
    for own, past in zip(call.own, call.past, strict=True):
        yield {
            *tree.trunk_slots.tolist(),
            *call.slots[own].tolist(),
            *call.past_slots[past].tolist(),
        }


class Both:
    """Does everything twice and compares; `buffer` holds what a runtime would."""

    def __init__(self, compact: bool) -> None:
        self.tree = RowTree(LAYERS, CONTEXT, spare=20, compact=compact)
        self.brute = Brute()
        self.compact = compact
        self.buffer: dict[int, Row] = {}

    def step(self, new: Rows, ran: int = ALL) -> None:
        call = self.tree.place(new, ran, IDS)
        placed = self.brute.place(new, ran)
        for row, slot in zip(placed, call.slots.tolist(), strict=True):
            row.slot, self.buffer[slot] = slot, row
        assert call.positions.tolist() == [row.position for row in placed]
        assert list(seen_by_tree(self.tree, call)) == [self.brute.sees(row) for row in placed]
        self.compare()

    def resume(self, handles: list[int], run: int) -> None:
        call = self.tree.resume(handles, run)
        resumed = [self.brute.living[handle] for handle in handles]
        for row in resumed:
            row.ran |= run
        assert call.slots.tolist() == [row.slot for row in resumed]
        assert list(seen_by_tree(self.tree, call)) == [self.brute.sees(row) for row in resumed]
        assert not call.past[:, handles].any()
        self.compare()

    def keep(self, leaves: list[int]) -> None:
        assert self.tree.keep(leaves) == tuple(self.brute.keep(leaves))
        self.move(*self.tree.moves)
        self.compare()

    def move(self, source: list[int], target: list[int]) -> None:
        """As a runtime does it: one after the other, in place."""
        assert source == sorted(set(source)) and target == sorted(set(target))
        for old, new in zip(source, target, strict=True):
            assert new < old
            self.buffer[new] = self.buffer[old]
            self.buffer[new].slot = new

    def withdraw(self, new: Rows, ran: int = ALL) -> None:
        """Steps whose arithmetic fails, for new rows and for those that left early."""
        self.tree.withdraw(self.tree.place(new, ran, IDS))
        early = [handle for handle, row in enumerate(self.brute.living) if row.ran == EARLY]
        if early:
            self.tree.withdraw(self.tree.resume(early, LATE))
        self.compare()

    def truncate(self, length: int) -> None:
        self.tree.truncate(length)
        self.brute.trunk, self.brute.living = self.brute.trunk[:length], []
        self.compare()

    def compare(self) -> None:
        tree, brute = self.tree, self.brute
        assert tree.tokens == [row.token for row in brute.trunk]
        assert tree.trunk_slots.tolist() == [row.slot for row in brute.trunk]
        assert tree.trunk_positions.tolist() == [row.position for row in brute.trunk]
        assert tree.living == len(brute.living)
        assert [tree.slot(h) for h in range(tree.living)] == [row.slot for row in brute.living]
        assert [tree.ran(h) for h in range(tree.living)] == [row.ran for row in brute.living]
        slots = [row.slot for row in [*brute.trunk, *brute.living]]
        assert len(set(slots)) == len(slots) and all(0 <= slot < tree.width for slot in slots)
        assert all(self.buffer[row.slot] is row for row in [*brute.trunk, *brute.living])
        if self.compact:
            assert slots == list(range(tree.width))


@st.composite
def trees(draw: st.DrawFn, living: int) -> Rows:
    count = draw(st.integers(1, 7))
    if draw(st.booleans()):
        return chain(living, count)
    parents = [draw(st.integers(TRUNK, living + i - 1)) for i in range(count)]
    tokens = draw(st.lists(st.integers(0, IDS - 1), min_size=count, max_size=count))
    others = st.lists(st.integers(0, living + count - 1), max_size=2)
    visible = [draw(others) for _ in range(count)] if draw(st.booleans()) else None
    return rows(tokens, parents, visible=visible)


@pytest.mark.parametrize("compact", [False, True])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_sessions_agree_with_the_obvious_model(compact: bool, data: st.DataObject) -> None:
    both = Both(compact)
    for _ in range(data.draw(st.integers(1, 12))):
        living, action = both.tree.living, data.draw(st.sampled_from("sssswkkt"))
        if action in "sw":
            new = data.draw(trees(living))
            try:
                (both.step if action == "s" else both.withdraw)(new)
            except InputError:
                both.truncate(0)
        elif action == "k":
            leaf = st.integers(TRUNK, living - 1)
            both.keep(data.draw(st.lists(leaf, min_size=1, max_size=3)))
        else:
            both.truncate(data.draw(st.integers(0, len(both.tree.tokens))))


@pytest.mark.parametrize("compact", [False, True])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_early_exit_then_the_rest_sees_the_same(compact: bool, data: st.DataObject) -> None:
    both = Both(compact)
    both.step(chain(0, 3))
    both.keep([2])
    for _ in range(data.draw(st.integers(1, 3))):
        both.step(data.draw(trees(both.tree.living)), EARLY)
        both.withdraw(data.draw(trees(both.tree.living)), EARLY)
    handles = data.draw(st.permutations(range(both.tree.living)))
    both.resume(handles, LATE)
    both.keep([data.draw(st.sampled_from(handles))])


# --- cases by hand -------------------------------------------------------------------------------


def test_what_leaves_share_becomes_trunk_and_survivors_are_renumbered() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(rows([1, 2, 3, 4, 5], [-1, 0, 1, 1, 0]), ALL, IDS)
    assert tree.keep([2, 3]) == (0, 1)
    assert tree.tokens == [1, 2] and tree.living == 2
    assert tree.keep([1]) == (TRUNK,)
    assert tree.tokens == [1, 2, 4] and tree.trunk_positions.tolist() == [0, 1, 2]


def test_freed_slots_are_used_again() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    for _ in range(50):
        tree.place(rows([1, 2, 3], [-1, -1, 0]), ALL, IDS)
        tree.keep([TRUNK])
    assert tree.width == 3


def test_rows_of_a_compact_tree_close_ranks() -> None:
    tree = RowTree(LAYERS, CONTEXT, compact=True)
    tree.place(chain(0, 2), ALL, IDS)
    assert tree.keep([1]) == (TRUNK,) and tree.moves == ([], [])
    tree.place(rows([3, 4, 5, 6, 7], [-1, -1, 1, 1, 3]), ALL, IDS)
    assert tree.keep([2, 4]) == (0, 2)
    assert tree.moves == ([3, 4, 5, 6], [2, 3, 4, 5])
    assert tree.trunk_slots.tolist() == [0, 1, 2] and [tree.slot(h) for h in range(3)] == [3, 4, 5]
    assert tree.keep([2]) == (TRUNK,) and tree.moves == ([4, 5], [3, 4]) and tree.width == 5
    tree.truncate(1)
    assert tree.place(rows([8], [-1]), ALL, IDS).slots.tolist() == [1]


def test_a_long_chain_without_keep_grows_on() -> None:
    tree = RowTree(LAYERS, 3000)
    call = tree.place(chain(0, 1000), ALL, IDS)
    assert call.own.sum() == 1000 * 1001 // 2 and call.past.shape == (1000, 0)
    call = tree.place(chain(1000, 1000), ALL, IDS)
    assert call.past.all() and call.past.shape == (1000, 1000)
    call = tree.place(rows([1], [10]), ALL, IDS)
    assert call.past.sum() == 11 and call.positions.tolist() == [11]
    assert tree.keep([1999]) == (TRUNK,) and len(tree.tokens) == 2000


def test_scratch_rows_are_seen_by_their_own_kind_only() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(rows([1], [-1]), SKIP, IDS)
    tree.place(rows([2], [0]), SKIP, IDS)
    with pytest.raises(UsageError, match="ran other layers"):
        tree.place(rows([3], [1]), ALL, IDS)
    with pytest.raises(UsageError, match="ran other layers"):
        tree.place(rows([3], [1]), EARLY, IDS)
    with pytest.raises(UsageError, match="not run all 3 layers"):
        tree.keep([1])
    assert tree.living == 2 and tree.keep([TRUNK]) == (TRUNK,)


def test_scratch_rows_may_follow_a_whole_row() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(rows([1], [-1]), ALL, IDS)
    assert tree.place(rows([2], [0]), SKIP, IDS).past.tolist() == [[True]]
    assert tree.keep([0]) == (TRUNK,)


def test_a_row_cannot_resume_before_its_parent() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(chain(0, 2), EARLY, IDS)
    with pytest.raises(UsageError, match="row 1 would see row 0"):
        tree.resume([1], LATE)
    tree.resume([0], LATE)
    tree.resume([1], LATE)
    assert tree.keep([1]) == (TRUNK,)


@pytest.mark.parametrize("handles", [[0, 0], [0, 2], [5], []])
def test_resume_refuses(handles: list[int]) -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(chain(0, 2), EARLY, IDS)
    tree.place(rows([1], [-1]), ALL, IDS)
    with pytest.raises(UsageError):
        tree.resume(handles, LATE)


def test_resume_refuses_layers_that_ran() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(chain(0, 2), EARLY, IDS)
    with pytest.raises(UsageError, match="cannot resume at 0"):
        tree.resume([0], ALL)


@pytest.mark.parametrize(
    "step",
    [
        rows([], []),
        rows([1, 2], [-1]),
        rows([1], [0]),
        rows([1, 2], [-1, 1]),
        rows([1], [-2]),
        rows([IDS], [-1]),
        rows([-1], [-1]),
        rows([1], [-1], positions=[-1]),
        rows([1], [-1], visible=[[1]]),
        rows([1], [-1], visible=[[-1]]),
        rows([1, 2], [-1, 0], visible=[[]]),
    ],
)
def test_steps_that_make_no_sense(step: Rows) -> None:
    tree = RowTree(LAYERS, CONTEXT)
    with pytest.raises(UsageError):
        tree.place(step, ALL, IDS)
    assert tree.living == 0 and tree.width == 0
    assert tree.place(rows([1, 2], [-1, -1]), ALL, IDS).handles == range(2)


def test_too_long_a_text_is_refused_and_changes_nothing() -> None:
    tree = RowTree(LAYERS, 10, spare=4)
    tree.place(chain(0, 10), ALL, IDS)
    with pytest.raises(InputError, match=r"11 tokens.*holds 10"):
        tree.place(rows([1], [9]), ALL, IDS)
    with pytest.raises(InputError, match="room for 14"):
        tree.place(rows([1] * 5, [-1] * 5), ALL, IDS)
    assert tree.keep([9]) == (TRUNK,)


def test_positions_may_be_given() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    call = tree.place(rows([1, 2, 3], [-1, 0, 1], positions=[4, 9, 5]), ALL, IDS)
    assert call.positions.tolist() == [4, 9, 5]
    assert tree.place(rows([1], [1]), ALL, IDS).positions.tolist() == [10]


@pytest.mark.parametrize("leaves", [[], [3], [-2]])
def test_keep_refuses(leaves: list[int]) -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(chain(0, 3), ALL, IDS)
    with pytest.raises(UsageError):
        tree.keep(leaves)
    assert tree.living == 3


@pytest.mark.parametrize("length", [-1, 4])
def test_truncate_refuses(length: int) -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(chain(0, 3), ALL, IDS)
    tree.keep([2])
    with pytest.raises(UsageError, match="cannot be cut"):
        tree.truncate(length)


def test_a_failed_step_can_be_withdrawn() -> None:
    tree = RowTree(LAYERS, CONTEXT)
    tree.place(rows([1, 2], [-1, -1]), EARLY, IDS)
    tree.withdraw(tree.place(rows([3, 4], [0, -1], visible=[[1], []]), EARLY, IDS))
    assert tree.living == 2
    tree.withdraw(tree.resume([0, 1], LATE))
    assert tree.ran(0) == EARLY
    tree.withdraw(tree.place(rows([3], [-1]), ALL, IDS))
    assert tree.place(rows([5], [1]), EARLY, IDS).slots.tolist() == [2]


@pytest.mark.parametrize("compact", [False, True])
def test_a_restored_tree_is_packed(compact: bool) -> None:
    tree = RowTree(LAYERS, CONTEXT, compact=compact)
    tree.place(rows([1, 2, 3, 4], [-1, -1, 1, 2]), ALL, IDS)
    tree.keep([3])
    other = tree.restored(tree.tokens, tree.trunk_positions)
    assert other.tokens == [2, 3, 4] and other.trunk_slots.tolist() == [0, 1, 2]
    assert other.place(rows([9], [-1]), ALL, IDS).positions.tolist() == [3]
    assert tree.tokens == [2, 3, 4]


def test_layer_sets() -> None:
    assert layer_set(None, 4, ()) == 0b1111
    assert layer_set((range(1), range(3, 4)), 4, (1, 3)) == 0b1001
    for wrong in ((), (range(2),), (range(1, 1),), (range(3, 4), range(1)), (range(5),)):
        with pytest.raises(UsageError):
            layer_set(wrong, 4, (1, 3))


@given(st.integers(1, 5000))
def test_buckets_hold_what_they_must(count: int) -> None:
    assert count <= bucket(count, 4096) <= max(4096, count)
