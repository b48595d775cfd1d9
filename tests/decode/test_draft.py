"""Draft trees: cut to size, laid out as the rows of a step."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec import draft
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
