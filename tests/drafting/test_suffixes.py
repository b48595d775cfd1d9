"""The suffix automaton against looking everywhere, and C against Python."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec._tree import suffixes

from .both import FAST, arrays, needs_c, same

TEXTS = st.integers(1, 6).flatmap(lambda v: st.lists(st.integers(0, v - 1), max_size=60))
KINDS = [suffixes.Suffixes, *([FAST.Suffixes] if FAST else [])]


def longest(text: list[int]) -> tuple[int, int] | None:
    """The longest end of a text that occurred before, and the latest place where that ended."""
    size = len(text)
    for length in range(size - 1, 0, -1):
        ends = [e for e in range(length - 1, size - 1) if text[e - length + 1 : e + 1] == text[-length:]]  # fmt: skip  # noqa: E501
        if ends:
            return length, ends[-1]
    return None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_the_first_match_is_the_longest_and_latest(kind: Any, text: list[int]) -> None:
    found = kind()
    for size in range(1, len(text) + 1):
        found.extend(text[:size], size - 1)
        expected = longest(text[:size])
        matches = found.matches(3)
        assert len(found) == size
        if expected is None:
            assert matches == []
            continue
        length, end = matches[0]
        assert length == expected[0]
        # Far up the suffix links the latest end is not kept up: then it is an earlier one.
        assert end == expected[1] or expected[0] > suffixes.CLIMB or len(set(text)) == 1
        followers = [text[end + 1] for _, end in matches]
        assert len(set(followers)) == len(followers)
        for length, end in matches:
            assert text[end - length + 1 : end + 1] == text[size - length : size]


@needs_c
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, limit=st.sampled_from([2, 3, 16, 1000]), shortest=st.integers(1, 3),
       most=st.sampled_from([1, 5, 20]), branches=st.integers(1, 4),
       ends=st.sampled_from([[], [1], [0, 3]]))  # fmt: skip
def test_c_and_python_copy_alike(
    text: list[int], limit: int, shortest: int, most: int, branches: int, ends: list[int]
) -> None:
    assert FAST is not None
    stops = np.array(ends, np.int32)
    fast, twin = FAST.Suffixes(limit, stops), suffixes.Suffixes(limit, stops)
    for size in range(1, len(text) + 1):
        fast.extend(text[:size], size - 1)
        twin.extend(text[:size], size - 1)
        assert fast.matches(4) == twin.matches(4)
        one, other = arrays(20), arrays(20)
        count = fast.copy(most, branches, shortest, *one)
        assert count == twin.copy(most, branches, shortest, *other) <= most
        assert same(one, other, count)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_survives_a_replaced_token(kind: Any) -> None:
    """... 1 to 9, then 1 2 3 4 5 and 99 instead of 6: 7 8 9 is proposed."""
    text = [*range(1, 10), 0, 1, 2, 3, 4, 5]
    copying = kind()
    copying.extend(text, 0)
    out = arrays(30)
    count = copying.copy(20, 3, 1, *out)
    assert out[0][:count].tolist()[:4] == [6, 7, 8, 9]
    text.append(99)
    copying.extend(text, len(text) - 1)
    count = copying.copy(20, 3, 1, *out)
    first = [i for i in range(count) if out[1][i] == -1]
    chains = [out[0][a:b].tolist() for a, b in zip(first, [*first[1:], count], strict=True)]
    assert any(chain[:3] == [7, 8, 9] for chain in chains)  # replaced
    assert any(chain[:3] == [6, 7, 8] for chain in chains)  # added
    assert any(chain[:2] == [8, 9] for chain in chains)  # one more left out


def chains(kind: Any, text: list[int], then: list[int], ends: tuple[int, ...] = ()) -> Any:
    """What is copied after `then`, one token after the other: (tokens, score of the first)."""
    copying = kind(1000, np.array(ends, np.int32))
    copying.extend(text, 0)
    out = arrays(30)
    copying.copy(20, 3, 1, *out)
    for token in then:
        text = [*text, token]
        copying.extend(text, len(text) - 1)
        count = copying.copy(20, 3, 1, *out)
    first = [i for i in range(count) if out[1][i] == -1] if count else []
    assert out[3][first].tolist() == [*range(len(first))], "the surest is the first"
    return [
        (out[0][a:b].tolist(), round(float(out[2][a]), 3))
        for a, b in itertools.pairwise([*first, count])
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_change_the_passage_stands_before_a_chance_match(kind: Any) -> None:
    """5 was replaced by 50, which stands elsewhere: what followed it there is less sure."""
    text = [50, 60, *range(1, 10), 0, 1, 2, 3, 4]
    found = chains(kind, text, [50])
    assert [(chain[0], sure) for chain, sure in found] == [
        (6, 0.5), (5, 0.25), (60, 0.143), (7, 0.12)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_match_that_says_the_same_confirms_the_passage(kind: Any) -> None:
    """5 was written with 50 before it: the text goes on behind 5."""
    found = chains(kind, [*range(1, 10), 0, 1, 2, 3, 4], [50, 5])
    assert (found[0][0][:3], found[0][1]) == ([6, 7, 8], 0.75)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_ends_before_what_steers(kind: Any) -> None:
    text = [1, 2, 3, 4, 99, 5, 98, 1, 2]
    assert chains(kind, text, [3], ends=(98, 99)) == [([4], 0.6)]
    assert chains(kind, text, [3, 4], ends=(98, 99)) == []
    assert chains(kind, text, [3, 4])[0][0][:3] == [99, 5, 98]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_text_forgets_its_older_half(kind: Any) -> None:
    copying = kind(8)
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8]
    copying.extend(text, 0)
    assert len(copying) == len(text)
    assert copying.matches(1) == [(2, 7)]
    copying.extend([*text, 1, 2], len(text))
    assert copying.matches(1) == []
    copying.reset()
    assert len(copying) == 0
    assert copying.matches(1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_holds_nothing_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="repeats nothing"):
        kind(1)
