"""The buffers of the ONNX runtime by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec.architecture import BiasTable
from edgedec.contracts import Rows
from edgedec.distance import buckets
from edgedec.rowtree import RowTree
from edgedec.runtimes.onnx.keyvalues import KeyValues
from edgedec.runtimes.onnx.masks import Masks
from edgedec.runtimes.onnx.segments import Block, mask_name


def test_rows_stay_in_their_slots_when_buffers_grow() -> None:
    random, blocks = np.random.default_rng(0), [Block(0, 3, 2, 4), Block(3, 4, 1, 6)]
    past, slots = KeyValues(blocks, 5), np.arange(0)
    shadow = {block: past.arrays[block] for block in blocks}
    for capacity in (5, 6, 40, 1000):
        if capacity > past.capacity:
            past.grow(capacity)
            for block in blocks:
                np.testing.assert_array_equal(
                    past.arrays[block][:, :, :, : len(slots)], shadow[block]
                )
        slots = random.permutation(capacity)
        rows = {
            block: random.standard_normal(
                (block.last - block.first, 2, block.heads, capacity, block.dim), np.float32
            )
            for block in blocks
        }
        for block in blocks:
            past.arrays[block][:, :, :, slots] = rows[block]
        gathered = past.gathered(slots)
        for block in blocks:
            np.testing.assert_array_equal(
                gathered[f"layers.{block.first}.{block.last}"], rows[block]
            )
            assert past.arrays[block][0, 0].flags.c_contiguous
            shadow[block] = past.arrays[block].copy()
    assert all(np.isfinite(array).all() for array in past.arrays.values())


@pytest.mark.parametrize(("source", "target"), [([5], [1]), ([2, 3], [1, 2]), ([3, 5], [0, 3])])
def test_rows_move_down(source: list[int], target: list[int]) -> None:
    block = Block(0, 2, 1, 3)
    past = KeyValues([block], 6)
    past.arrays[block][:] = before = np.random.default_rng(0).random((2, 2, 1, 6, 3), np.float32)
    past.move(source, target)
    for old, new in zip(source, target, strict=True):
        np.testing.assert_array_equal(past.arrays[block][:, :, :, new], before[:, :, :, old])
    still = [slot for slot in range(6) if slot not in target]
    np.testing.assert_array_equal(past.arrays[block][:, :, :, still], before[:, :, :, still])


def test_masks_say_who_sees_whom() -> None:
    tree, masks = RowTree(1, 100, compact=True), Masks(4)
    tree.place(Rows(np.array([1, 1, 1]), np.array([-1, 0, 1])), 1, 9)
    tree.keep([2])
    masks.grow(8)
    buffers = {window: np.zeros((2, 8), np.float32) for window in (None, 2)}
    call = tree.place(Rows(np.array([1, 1]), np.array([-1, 0])), 1, 9)
    masks.fill(buffers, call, tree)
    seen = {window: (mask == 0).nonzero()[1].tolist() for window, mask in buffers.items()}
    # Row 0 (position and column 3) and row 1 (4) after a trunk of 0, 1, 2.
    assert seen == {None: [0, 1, 2, 3, 0, 1, 2, 3, 4], 2: [2, 3, 3, 4]}
    assert {float(value) for value in np.unique(buffers[2])} == {0.0, float(np.float32(-3e38))}


@pytest.mark.parametrize("both", [False, True])
def test_buckets_follow_the_tree(both: bool) -> None:
    table = BiasTable(buckets=8, max_distance=10, bidirectional=both)
    tree, masks = RowTree(1, 100, compact=True), Masks(40, table)
    trunk = Rows(np.full(30, 1), np.arange(-1, 29), positions=np.arange(30) * 2)
    tree.place(trunk, 1, 9)
    tree.keep([29])
    call = tree.place(Rows(np.array([1, 1, 1]), np.array([-1, 0, 0])), 1, 9)
    masks.fill({None: np.zeros((3, 40), np.float32)}, call, tree)
    found = np.full((3, 40), -1)
    masks.fill_buckets(found, call)
    here = np.array([59, 60, 60])
    for columns, there in ((slice(30), np.arange(30) * 2), (slice(30, 33), here)):
        expected = buckets(table, there[None, :] - here[:, None])
        np.testing.assert_array_equal(found[:, columns], expected)
    assert found.min() >= 0 and found.max() < 8


def test_mask_names() -> None:
    assert [mask_name(window) for window in (None, 512)] == ["mask", "mask.w512"]
