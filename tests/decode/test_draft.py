"""Draft trees: cut to size, laid out as the rows of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedec import _tree, draft
from edgedec._tree import walk
from edgedec.contracts import Draft


def tree(*, riders: bool = False) -> Draft:
    """Seven nodes, their depths 1 2 3 1 2 4 2."""
    parents = [-1, 0, 1, -1, 3, 2, 0]
    return Draft(
        tokens=np.arange(10, 17, dtype=np.int32),
        parents=np.array(parents, np.int32),
        score=np.linspace(0.1, 0.7, 7, dtype=np.float32),
        rank=np.array([0, 0, 0, 1, 0, 0, 1], np.int32),
        riders=[[99], *([100 + i] for i in range(7))] if riders else None,
    )


@pytest.mark.parametrize(
    ("nodes", "depth", "tokens", "parents"),
    [
        (7, 4, [10, 11, 12, 13, 14, 15, 16], [-1, 0, 1, -1, 3, 2, 0]),
        (7, 2, [10, 11, 13, 14, 16], [-1, 0, -1, 2, 0]),
        (3, 9, [10, 11, 12], [-1, 0, 1]),
        (2, 1, [10, 13], [-1, -1]),
        (0, 9, [], []),
        (-3, 9, [], []),
        (5, 0, [], []),
    ],
)
def test_a_cut_tree_is_a_tree(
    nodes: int, depth: int, tokens: list[int], parents: list[int]
) -> None:
    cut = draft.check(draft.cut(tree(riders=True), nodes, depth), 100)
    assert cut.tokens.tolist() == tokens
    assert cut.parents.tolist() == parents
    assert cut.riders == [[99], *([token + 90] for token in tokens)]
    assert cut.score.tolist() == [tree().score[token - 10] for token in tokens]


def test_rows_hang_the_tree_below_the_chain() -> None:
    rows = draft.rows([5, 6], tree(), None)
    assert rows.tokens.tolist() == [5, 6, 10, 11, 12, 13, 14, 15, 16]
    assert rows.parents.tolist() == [-1, 0, 1, 2, 3, 1, 5, 4, 2]


def test_rows_after_scratch_rows_count_on() -> None:
    rows = draft.rows([5, 6], draft.cut(tree(), 2, 2), None, first=3)
    assert rows.parents.tolist() == [-1, 3, 4, 5]


@pytest.mark.parametrize("room", [2, 9, 40])
@pytest.mark.parametrize("lay", [_tree.lay, walk.lay], ids=["chosen", "python"])
def test_rows_are_the_same_whoever_writes_them(
    room: int, lay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tree, "lay", lay)
    lines = draft.Lines(room)
    for widths, riders, first in (((), False, 0), ((16,), False, 0), ((), True, 2), ((), False, 5)):
        for chain in ([5], [5, 6, 7]):
            for nodes in range(8):
                given = draft.cut(tree(riders=riders), nodes, 9), widths, first
                want, got = draft.rows(chain, *given), lines.rows(chain, *given)
                assert got.tokens.tolist() == want.tokens.tolist()
                assert got.parents.tolist() == want.parents.tolist()
                assert got.tokens.dtype == got.parents.dtype == np.int32


@pytest.mark.parametrize(("widths", "count"), [((1, 4, 16), 4), ((8,), 8), ((3,), 3)])
def test_padding_hangs_below_the_trunk(widths: tuple[int, ...], count: int) -> None:
    rows = draft.rows([5, 6], draft.cut(tree(), 1, 1), widths)
    assert len(rows.tokens) == len(rows.parents) == count
    assert rows.parents.tolist() == [-1, 0, 1, *[-1] * (count - 3)]


def test_of_two_equal_siblings_the_first_counts() -> None:
    twins = Draft(
        tokens=np.array([4, 4, 5], np.int32),
        parents=np.array([-1, -1, 1], np.int32),
        score=np.ones(3, np.float32),
        rank=np.array([0, 1, 0], np.int32),
    )
    assert draft.children(twins) == {(-1, 4): 0, (1, 5): 2}
