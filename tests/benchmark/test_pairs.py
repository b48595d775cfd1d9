"""What pairs say, against counting by hand."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.benchmark.pairs import Interval, Pair, Work, distinct, mean_of_medians, median
from edgedec.generation import Generation

Answer = Callable[..., Generation]


def test_the_rate_leaves_out_each_first_token(answer: Answer) -> None:
    work = Work((answer(11, 10.0), answer(21, 40.0), answer(1, None), answer(0, None)))
    assert work.rate == pytest.approx((10 + 20) / (10 / 10.0 + 20 / 40.0))
    assert work.new_tokens == 33
    assert Work((answer(1, None),)).rate is None


def test_a_pair_compares_speeds_and_every_token(answer: Answer) -> None:
    slow, fast = Work((answer(9, 10.0),)), Work((answer(9, 25.0),))
    assert Pair(slow, fast).ratio == pytest.approx(2.5)
    assert Pair(slow, fast).identical
    assert not Pair(slow, Work((answer(8, 25.0),))).identical
    assert not Pair(slow, Work((answer((0, 1, 2, 3, 4, 5, 6, 7, 9)),))).identical
    assert Pair(slow, Work((answer(1, None),))).ratio is None


def exact_interval(groups: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """All means of medians that resamples can have, and how likely each is."""
    totals: dict[float, int] = {}
    resamples = [itertools.product(group, repeat=len(group)) for group in groups]
    for drawn in itertools.product(*resamples):
        value = statistics.fmean(statistics.median(each) for each in drawn)
        totals[round(value, 9)] = totals.get(round(value, 9), 0) + 1
    values = sorted(totals)
    every = sum(totals.values())
    return values, [totals[value] / every for value in values]


def exact_quantile(groups: Sequence[Sequence[float]], share: float) -> float:
    values, chances = exact_interval(groups)
    return values[int(np.searchsorted(np.cumsum(chances), share))]


@pytest.mark.parametrize(
    "groups",
    [[[1.0, 2.0, 4.0]], [[1.0, 1.1, 1.3, 1.9, 2.4]], [[0.9, 1.0, 1.2], [2.0, 2.5, 3.5]]],
)
def test_the_interval_is_that_of_all_resamples(groups: list[list[float]]) -> None:
    found = mean_of_medians(groups, seed=5)
    assert found is not None
    assert found.median == pytest.approx(statistics.fmean(map(statistics.median, groups)))
    assert found.low == pytest.approx(exact_quantile(groups, 0.025))
    assert found.high == pytest.approx(exact_quantile(groups, 0.975))


def test_the_same_ratios_give_the_same_interval() -> None:
    ratios = np.random.default_rng(1).uniform(0.5, 3, 17).tolist()
    assert median(ratios, 3) == median(ratios, 3)
    assert median([1.5]) == Interval(1.5, 1.5, 1.5)
    assert median([]) is None
    assert mean_of_medians([]) is None


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_the_median_lies_within(ratios: list[float]) -> None:
    found = median(ratios)
    assert found is not None
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4))
def test_distinct_runs_counted_one_by_one(texts: list[list[int]]) -> None:
    shares = []
    for text in texts:
        runs: list[Any] = []
        for start in range(max(0, len(text) - 3)):
            run = text[start : start + 4]
            runs.append((run, run not in text_runs(text, start)))
        if runs:
            shares.append(sum(fresh for _, fresh in runs) / len(runs))
    assert distinct(texts) == (pytest.approx(statistics.fmean(shares)) if shares else None)


def text_runs(text: list[int], stop: int) -> list[list[int]]:
    return [text[start : start + 4] for start in range(stop)]


def test_repetition_is_seen() -> None:
    assert distinct([[1, 2, 3, 4, 5, 6]]) == 1.0
    assert distinct([[1, 1, 1, 1, 1, 1, 1]]) == 0.25
