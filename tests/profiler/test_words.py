"""The plan in words says what the numbers say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.costs import Costs
from edgedec.profiler import words


def costs(*times: float, host: float = 0.0) -> Costs:
    """Costs of 1, 2, ... rows."""
    rows = tuple(range(1, len(times) + 1))
    return Costs(rows, (0,), (times,), (0.0,) * len(times), host=host)


LINEAR = costs(*(n * 1e-3 for n in range(1, 65)))
STAIR = costs(*([2e-3] * 6 + [3e-3] * 6 + [n * 1e-3 for n in range(13, 65)]))


def test_a_stair_is_climbed_to_its_end() -> None:
    plan = words.plan(STAIR)
    assert (plan.checks, plan.ratio) == (6, 1.0)
    assert plan.sentences[0] == (
        "On this machine checking 6 tokens costs 1.0x a step of one (2.00 against 2.00 ms)."
    )
    assert "auto checks up to 6 tokens where 8 of 10 guesses are right, 3.7x" in plan.text
    assert [best.checks for best in plan.best] == [6, 6, 12]
    assert plan.break_even[6] == 0.0
    # 1 ms more for 6 tokens more, in steps of 2 ms.
    assert plan.break_even[12] == pytest.approx(1 / 12)
    assert "A 2nd token pays if it is right 1 % of the time, a 6th 1 %, a 12th 8 %." in plan.text


def test_where_rows_cost_in_full_nothing_pays() -> None:
    plan = words.plan(LINEAR)
    assert (plan.checks, plan.ratio) == (1, 1.0)
    assert plan.sentences == (
        "On this machine checking 2 tokens costs 2.0x a step of one (2.00 against 1.00 ms).",
        "Checking more than one token does not pay here: auto writes one by one.",
    )


def test_where_only_copying_pays() -> None:
    plan = words.plan(costs(*(1e-3 * (0.15 + 0.85 * n) for n in range(1, 65))))
    assert plan.checks == 1
    assert "auto writes one by one but in text that repeats itself (95 % right)" in plan.text


def test_host_time_counts_for_every_step() -> None:
    assert words.plan(costs(1.0, 2.0, host=9.0)).ratio < 2
    assert words.plan(costs(1.0, 2.0, host=9.0)).best[-1].checks > 1


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=64), st.sampled_from(words.RIGHT))
def test_the_best_number_is_the_one_with_most_tokens_per_second(
    gains: list[float], right: float
) -> None:
    table = costs(*np.cumsum(gains).tolist())
    best = next(best for best in words.plan(table).best if best.right == right)
    times = table.step(0, words.MOST)
    rates = [sum(right**k for k in range(n)) / times[n] for n in range(1, words.MOST + 1)]
    assert rates[best.checks - 1] == pytest.approx(max(rates))
    assert best.gain == pytest.approx(max(rates) / rates[0])


@given(st.lists(st.floats(0, 10), min_size=3, max_size=24))
def test_breaking_even_is_the_slope_of_the_lower_hull(gains: list[float]) -> None:
    times = np.array([0.0, *(1 + np.cumsum(gains))])
    count = len(times)
    hull = [
        min(
            times[low] + (times[high] - times[low]) * (n - low) / max(high - low, 1)
            for low in range(1, n + 1)
            for high in range(n, count)
        )
        for n in range(1, count)
    ]
    expected = dict(enumerate((np.diff(hull) / times[1]).tolist(), 2))
    assert words.break_even(times) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2345e-4, "0.123"), (0.0012345, "1.23"), (0.012345, "12.3"), (1.2345, "1234")],
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert words.milliseconds(seconds) == text
