"""From tags to a guess: what was done to a source is said by tags, and done again by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.tagging import DROP, KEEP, KINDS, REPLACE, Tags, read, rewritten

KIND = st.sampled_from((KEEP, DROP, REPLACE))
SHARE = st.floats(0.125, 1.0, width=32)
LINES = st.lists(st.tuples(KIND, st.integers(0, 2), SHARE, SHARE), max_size=8)


def tags_of(lines: list[tuple[int, int, float, float]]) -> Tags:
    kinds, counts, right, counted = zip(*lines, strict=True) if lines else ((),) * 4
    ids = (np.array(each, np.int32) for each in (kinds, counts))
    return Tags(*ids, *(np.array(each, np.float32) for each in (right, counted)))


@given(LINES)
def test_a_guess_is_the_source_with_its_edits(lines: list[tuple[int, int, float, float]]) -> None:
    """Against the definition, token by token: a token's chance is that of all that led to it."""
    tags = tags_of(lines)
    replaced = [(100 + place, 0.5) for place in tags.replaced.tolist()]
    places, order = (each.tolist() for each in tags.inserted)
    inserted = [(200 + 10 * place + nth, 0.25) for place, nth in zip(places, order, strict=True)]
    tokens, scores = rewritten(range(len(lines)), tags, replaced, inserted)

    expected: list[tuple[int, float]] = []
    waiting = 1.0
    for place, (kind, count, right, counted) in enumerate(lines):
        waiting *= right
        if kind != DROP:
            own = (place, 1.0) if kind == KEEP else (100 + place, 0.5)
            expected.append((own[0], waiting * own[1]))
            waiting = 1.0
        waiting *= counted
        for nth in range(count):
            expected.append((200 + 10 * place + nth, waiting * 0.25))
            waiting = 1.0
    assert tokens == [token for token, _ in expected]
    assert scores == pytest.approx([share for _, share in expected], rel=1e-5)


def test_the_likeliest_tag_is_read_with_its_chances() -> None:
    dice = np.random.default_rng(3)
    most = 2
    logits = dice.standard_normal((40, KINDS * (most + 1))).astype(np.float32) * 3
    tags = read(logits)
    for row, line in enumerate(logits.astype(np.float64)):
        shares = np.exp(line) / np.exp(line).sum()
        best = max(range(len(line)), key=lambda at: shares[at])
        kind, count = best % KINDS, best // KINDS
        of_kind = sum(shares[kind + KINDS * each] for each in range(most + 1))
        assert (tags.kinds[row], tags.counts[row]) == (kind, count)
        assert tags.sure_of_kind[row] == pytest.approx(of_kind, rel=1e-5)
        assert tags.sure_of_count[row] == pytest.approx(shares[best] / of_kind, rel=1e-5)


def test_nothing_is_made_of_nothing() -> None:
    assert rewritten((), tags_of([]), (), ()) == ([], [])
