"""What a model did to its source, as edits that a tagger can learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.tagging import DROP, KEEP, REPLACE, Tags, rewritten
from edgedec.training.edits import NONE, agreeing, edits

TOKENS = st.lists(st.integers(0, 4), max_size=14)


def again(source: list[int], written: list[int], most: int) -> list[int]:
    """The source with the edits that were found in it."""
    found = edits(source, written, most)
    ones = np.ones(len(source), np.float32)
    tags = Tags(found.kinds, found.counts, ones, ones)
    replaced = [(token, 1.0) for token in found.replaced[found.kinds == REPLACE].tolist()]
    inserted = [(token, 1.0) for token in found.inserted[found.inserted != NONE].tolist()]
    return rewritten(source, tags, replaced, inserted)[0]


@given(TOKENS, TOKENS)
def test_edits_make_of_the_source_what_was_written(source: list[int], written: list[int]) -> None:
    """With a first token that stays and room enough there is nothing that they cannot say."""
    assert again([9, *source], [9, *written], 16) == [9, *written]


@given(TOKENS, TOKENS, st.integers(1, 2))
def test_what_does_not_fit_is_left_out(source: list[int], written: list[int], most: int) -> None:
    found = edits(source, written, most)
    assert found.inserted.shape == (len(source), most)
    assert ((found.replaced != NONE) == (found.kinds == REPLACE)).all()
    assert len(again(source, written, most)) <= len(written)


@given(TOKENS, TOKENS, st.integers(0, 14))
def test_of_what_a_text_did_not_reach_nothing_is_said(
    source: list[int], written: list[int], cut: int
) -> None:
    """Up to the last token that both have it is edited as before; there are no edits behind."""
    found = edits(source, written[:cut], 2, ended=False)
    assert edits(source, written, 2).known == len(source)
    assert 0 <= found.known <= len(source)
    assert (found.kinds[found.known :] == KEEP).all()
    assert (found.replaced[found.known :] == NONE).all()
    assert (found.inserted[max(0, found.known - 1) :] == NONE).all()
    if found.known:
        assert source[found.known - 1] in written[:cut]


def test_a_text_that_was_cut_drops_nothing_at_its_end() -> None:
    source = [1, 2, 3, 4, 5, 6]
    assert edits(source, [1, 9, 3], 1).kinds.tolist() == [KEEP, REPLACE, KEEP, DROP, DROP, DROP]
    cut = edits(source, [1, 9, 3], 1, ended=False)
    assert (cut.kinds.tolist(), cut.known) == ([KEEP, REPLACE, *[KEEP] * 4], 3)


class Edit(NamedTuple):
    source: list[int]
    written: list[int]
    kinds: list[int]
    inserted: list[int]


@pytest.mark.parametrize(
    "case",
    [
        Edit([1, 2, 3], [1, 2, 3], [KEEP] * 3, [NONE] * 3),
        Edit([1, 2, 3], [1, 7, 3], [KEEP, REPLACE, KEEP], [NONE] * 3),
        # Of two like tokens it is the first that goes, whatever stands around them.
        Edit([1, 2, 2, 3], [1, 2, 3], [KEEP, DROP, KEEP, KEEP], [NONE] * 4),
        Edit([2, 2, 3, 4, 5], [2, 3, 4, 5], [DROP, *[KEEP] * 4], [NONE] * 5),
        Edit([5, 4, 3, 2, 2], [5, 4, 3, 2], [KEEP, KEEP, KEEP, DROP, KEEP], [NONE] * 5),
        # And the first of them that comes.
        Edit([1, 2, 3], [1, 2, 2, 3], [KEEP] * 3, [2, NONE, NONE]),
        Edit([1, 6, 7, 8], [1, 9, 8], [KEEP, REPLACE, DROP, KEEP], [NONE] * 4),
        Edit([1, 6, 8], [1, 9, 5, 8], [KEEP, REPLACE, KEEP], [NONE, 5, NONE]),
        # Nothing can be put in before the first token.
        Edit([1, 2], [7, 1, 2], [KEEP, KEEP], [NONE, NONE]),
    ],
)
def test_each_kind_of_edit(case: Edit) -> None:
    found = edits(case.source, case.written, 1)
    assert found.kinds.tolist() == case.kinds
    assert found.inserted[:, 0].tolist() == case.inserted


def test_chains_begin_where_both_agree() -> None:
    assert agreeing([1, 2, 3, 4], [1, 2, 3, 4], 2) == [[True, True], [True, True]]
    # A wrong guess ends no chain that is counted behind it: it is one of its own.
    assert agreeing([1, 2, 9, 4, 5, 6], [1, 2, 3, 4, 5, 6], 2) == [
        [True, False],
        [False, True],
        [True, True],
    ]
    assert agreeing([1, 2], [3, 4], 1) == []
