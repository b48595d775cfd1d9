"""Where rows lie in the buffers of the ONNX runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.contracts import TRUNK, Rows
from edgedec.rowtree import RowTree
from edgedec.runtimes.onnx.lanes import LANES, SPAN, Lanes

Text = tuple[int, ...]


@dataclass
class Buffers:
    """A session's bookkeeping, with texts in place of keys and values: those that a row ends."""

    tree: RowTree = field(default_factory=lambda: RowTree(1, 200, 400, compact=True))
    lanes: Lanes = field(default_factory=Lanes)
    held: dict[int, Text] = field(default_factory=dict)
    living: list[Text] = field(default_factory=list)
    count: int = 0
    capacity: int = 64

    def step(self, parents: list[int]) -> list[int]:
        """New rows, each its own token; the slots they went to."""
        tokens = np.arange(self.count, self.count + len(parents))
        self.count += len(parents)
        call = self.tree.place(Rows(tokens, np.array(parents)), 1, 10000)
        self.lanes.place(call, parents, len(self.tree.tokens), self.capacity)
        self.astray = self.lanes.astray(call)
        trunk = tuple(self.tree.tokens)
        before = [self.held[slot] for slot in call.past_slots.tolist()]
        assert before == self.living
        for token, parent, slot in zip(tokens.tolist(), parents, call.slots.tolist(), strict=True):
            self.living.append((*(trunk if parent == TRUNK else self.living[parent]), token))
            assert slot not in self.held, "another row lies there"
            self.held[slot] = self.living[-1]
        self.check_paths(call.slots.tolist())
        return call.slots.tolist()

    def check_paths(self, slots: list[int]) -> None:
        where = {text: slot for slot, text in self.held.items()}
        for slot in slots:
            path = [where[text] for text in self.prefixes(self.held[slot])]
            assert path == sorted(set(path)) and path[-1] == slot
            stray = any(
                (place - row) % LANES or place // SPAN != row // SPAN
                for row, place in enumerate(path)
            )
            # What followed a row that went astray stays so, wherever that row went since.
            assert slots.index(slot) in self.astray or not stray

    def prefixes(self, text: Text) -> list[Text]:
        return [text[: i + 1] for i in range(len(text))]

    def keep(self, leaves: list[int]) -> None:
        trunk = len(self.tree.tokens)
        paths = [self.living[leaf] if leaf != TRUNK else tuple(self.tree.tokens) for leaf in leaves]
        handles = self.tree.keep(leaves)
        source, target = self.lanes.keep(self.tree, trunk)
        moved = [self.held[slot] for slot in source]
        for slot in source:
            del self.held[slot]
        self.held |= dict(zip(target, moved, strict=True))
        kept = {text for path in paths for text in self.prefixes(path)}
        grown = tuple(self.tree.tokens)
        self.living = [text for text in self.living if text in kept and len(text) > len(grown)]
        self.forget()
        assert [self.held[row] for row in range(len(grown))] == self.prefixes(grown)
        assert len(self.living) == self.tree.living
        for handle, path in zip(handles, paths, strict=True):
            assert path == (grown if handle == TRUNK else self.living[handle])

    def truncate(self, length: int) -> None:
        self.tree.truncate(length)
        self.lanes.clear()
        self.living.clear()
        self.forget()

    def forget(self) -> None:
        """Let go of all rows that are neither trunk nor living."""
        there = {*self.living, *self.prefixes(tuple(self.tree.tokens))}
        self.held = {slot: text for slot, text in self.held.items() if text in there}


def test_a_chain_lies_as_in_plain_decoding() -> None:
    buffers = Buffers()
    assert buffers.step([-1, 0, 1]) == [0, 1, 2]
    assert buffers.step([2, 3]) == [3, 4]
    buffers.keep([3])
    assert buffers.step([-1]) == [4]


def test_siblings_keep_their_lane_as_far_as_there_is_room() -> None:
    buffers = Buffers()
    buffers.step([-1, 0, 1])
    buffers.keep([2])
    slots = buffers.step([-1, 0, -1, 2, -1, -1, -1, 1, 7])
    assert slots == [3, 4, 3 + 16, 4 + 16, 3 + 32, 3 + 48, 5, 5 + 16, 6 + 16]
    assert buffers.astray == {6} and max(slots) < buffers.capacity
    buffers.keep([3])
    assert buffers.step([-1, -1]) == [5, 5 + 16]
    buffers.keep([0, 1])
    assert buffers.step([0, 1, 1]) == [6, 6 + 16, 6 + 32]


def test_rows_beyond_a_span_are_astray() -> None:
    buffers = Buffers(capacity=2 * SPAN)
    buffers.step(list(range(-1, SPAN - 18)))
    buffers.keep([SPAN - 18])
    last = SPAN - 17
    assert buffers.step([-1, -1, 1, 2]) == [last, *range(last + 16, last + 19)]
    assert buffers.astray == {2, 3}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_are_found_whatever_was_kept(data: st.DataObject) -> None:
    buffers = Buffers()
    for _ in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(1, 3))):
            first, count = len(buffers.living), data.draw(st.integers(1, 12))
            chain = data.draw(st.booleans())
            parents = [
                first + i - 1 if chain else data.draw(st.integers(TRUNK, first + i - 1))
                for i in range(count)
            ]
            buffers.step(parents)
        leaf = st.integers(TRUNK, len(buffers.living) - 1)
        buffers.keep(data.draw(st.lists(leaf, min_size=1, max_size=3)))
        if data.draw(st.integers(0, 5)) == 0:
            buffers.truncate(data.draw(st.integers(0, len(buffers.tree.tokens))))
