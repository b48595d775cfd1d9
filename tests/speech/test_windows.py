"""Where windows begin and what their tokens say, on scripted outputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.speech.windows import Clock, Span, cut, quietest

FIRST = 100
CLOCK = Clock(rate=100.0, first=FIRST)
FRAMES = 3000


def at(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


def shown(spans: list[Span]) -> list[tuple[float, float, list[int]]]:
    words = [[token for token in span.tokens if token < FIRST] for span in spans]
    return [(round(s.start, 2), round(s.end, 2), w) for s, w in zip(spans, words, strict=True)]


CASES = {
    "nothing": ([], [], FRAMES),
    "no times": ([1, 2], [(0, 30, [1, 2])], FRAMES),
    "one segment": ([at(0), 1, 2, at(4)], [(0, 4, [1, 2])], FRAMES),
    "it never ends": ([at(1), 1, 2, 3], [(0, 1, [1, 2, 3])], FRAMES),
    "it begins at 0 and never ends": ([at(0), 1, 2, 3], [(0, 30, [1, 2, 3])], FRAMES),
    "two segments": ([at(0), 1, at(2), at(2.5), 2, at(4)], [(0, 2, [1]), (2.5, 4, [2])], FRAMES),
    "a third that is cut off": (
        [at(0), 1, at(2), at(3), 2, at(4), at(4.5), 3],
        [(0, 2, [1]), (3, 4, [2])],
        400,
    ),
    "a pair at the end": ([at(0), 1, at(7.26), at(7.26)], [(0, 7.26, [1])], 726),
    "a pair at 0": ([at(0), at(0), 1], [(0, 0, [])], FRAMES),
}


@pytest.mark.parametrize("name", CASES)
def test_cut(name: str) -> None:
    tokens, spans, on = CASES[name]
    found, reached = cut(tokens, CLOCK, 0, FRAMES)
    assert shown(found) == [(float(a), float(b), words) for a, b, words in spans]
    assert reached == on


def test_a_later_window_counts_from_its_beginning() -> None:
    found, reached = cut([at(0), 1, at(2), at(2), 2], CLOCK, 5050, 3000)
    assert shown(found) == [(50.5, 52.5, [1])]
    assert reached == 200


def test_the_last_window_is_shorter() -> None:
    found, reached = cut([at(0), 1], CLOCK, 6000, 433)
    assert shown(found) == [(60, 64.32, [1])]
    assert reached == 433


def test_without_timestamps_a_span_is_a_window() -> None:
    found, reached = cut([1, 2, 200], Clock(16000.0, None), 16000, 24000)
    assert found == [Span(1.0, 2.5, (1, 2, 200))]
    assert reached == 24000


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, FIRST + 1500), max_size=12), st.integers(1, FRAMES))
def test_any_tokens(tokens: list[int], frames: int) -> None:
    found, reached = cut(tokens, CLOCK, 700, frames)
    assert reached > 0
    said = [token for span in found for token in span.tokens]
    assert said == tokens[: len(said)]
    assert all(span.tokens for span in found)


def test_the_quietest_place() -> None:
    samples = np.ones(1000, np.float32)
    samples[840:860] = 0
    assert quietest(samples[:900], 700, 900, 100) == 900  # it fits
    place = quietest(samples, 700, 900, 100)
    assert 840 < place < 860
    assert quietest(np.ones(50, np.float32), 18, 20, 100) == 20  # too little to choose from


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(0, 5))
def test_a_cut_is_inside(count: int, seed: int) -> None:
    samples = np.random.RandomState(seed).randn(count).astype(np.float32)
    assert 0 < quietest(samples, 75, 100, 100) <= min(count, 100)
