"""The planner's table: what is read between, below and beyond what was measured."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.costs import Costs, flat
from edgedec.errors import UsageError

TIMES = st.floats(1e-6, 10.0)


def numbers(least: int, most: int, size: int) -> st.SearchStrategy[tuple[int, ...]]:
    found = st.lists(st.integers(least, most), min_size=1, max_size=size, unique=True)
    return found.map(lambda values: tuple(sorted(values)))


@st.composite
def tables(draw: st.DrawFn) -> Costs:
    rows, pasts = draw(numbers(1, 80, 6)), draw(numbers(0, 3000, 4))
    line = st.tuples(*[TIMES] * len(rows))
    layers = draw(st.tuples(*[line] * len(pasts)))
    head = draw(st.tuples(*[st.floats(0, 1.0)] * len(rows)))
    return Costs(rows, pasts, layers, head, depth=draw(st.integers(1, 30)))


# --- the same, one number at a time ---------------------------------------------------------------


def along(rows: tuple[int, ...], times: list[float], wanted: int) -> float:
    """Linear between, the first below, and in proportion beyond."""
    if wanted <= rows[0]:
        return times[0]
    for (low, high), (early, late) in zip(pairwise(rows), pairwise(times), strict=True):
        if wanted <= high:
            return early + (late - early) * (wanted - low) / (high - low)
    return times[-1] * wanted / rows[-1]


def layers_at(costs: Costs, past: int) -> list[float]:
    table = [
        [max(costs.layers[p][r] for p in range(i + 1) for r in range(j + 1))
         for j in range(len(costs.rows))]
        for i in range(len(costs.pasts))
    ]  # fmt: skip
    if past <= costs.pasts[0] or len(costs.pasts) == 1:
        return table[0]
    i = next((k for k, high in enumerate(costs.pasts) if past <= high), len(costs.pasts) - 1)
    low, high = costs.pasts[i - 1], costs.pasts[i]
    found = [
        early + (late - early) * (past - low) / (high - low)
        for early, late in zip(table[i - 1], table[i], strict=True)
    ]
    return [max(found[: j + 1]) for j in range(len(found))]


def head_of(costs: Costs) -> list[float]:
    return [max(costs.head[: j + 1]) for j in range(len(costs.head))]


@given(tables(), st.integers(0, 9000), st.integers(0, 130))
def test_a_step_is_what_brute_force_says(costs: Costs, past: int, most: int) -> None:
    both = [a + b for a, b in zip(layers_at(costs, past), head_of(costs), strict=True)]
    expected = [0.0, *(along(costs.rows, both, n) for n in range(1, most + 1))]
    assert costs.step(past, most) == pytest.approx(expected, rel=1e-9)


@given(tables(), st.integers(0, 9000), st.integers(0, 130), st.integers(0, 130))
def test_a_part_is_what_brute_force_says(costs: Costs, past: int, rows: int, heads: int) -> None:
    expected = 0.0
    if rows:
        expected += along(costs.rows, layers_at(costs, past), rows) * 3 / costs.depth
    if heads:
        expected += along(costs.rows, head_of(costs), heads)
    assert costs.part(past, rows, 3, heads) == pytest.approx(expected, rel=1e-9)


@given(tables(), st.integers(0, 9000), st.integers(0, 5000))
def test_nothing_falls_with_more_rows_or_a_longer_past(costs: Costs, past: int, more: int) -> None:
    times, later = costs.step(past, 130), costs.step(past + more, 130)
    assert (np.diff(times) >= 0).all()
    assert (later >= times * (1 - 1e-12)).all()


def test_flat_costs_grow_evenly() -> None:
    assert flat(2.0, 0.5).step(700, 5) == pytest.approx([0, 2, 3, 4, 5, 6])
    assert np.diff(flat().step(0, 600)[1:]) == pytest.approx(np.full(599, 5e-5))


GOOD: dict[str, Any] = {
    "rows": (1, 2), "pasts": (0, 9), "layers": ((1.0, 2.0), (1.0, 2.0)), "head": (0.0, 0.1),
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": ()},
        {"rows": (2, 1)},
        {"rows": (1, 1)},
        {"rows": (0, 1)},
        {"rows": (1,)},
        {"pasts": ()},
        {"pasts": (-1, 9)},
        {"pasts": (9, 0)},
        {"pasts": (0,)},
        {"layers": ()},
        {"layers": ((1.0, 2.0), (1.0,))},
        {"layers": ((1.0, 2.0), (0.0, 2.0))},
        {"layers": ((1.0, math.nan), (1.0, 2.0))},
        {"layers": ((1.0, math.inf), (1.0, 2.0))},
        {"head": (-0.1, 0.1)},
        {"head": (0.1,)},
        {"host": -1.0},
        {"host": math.nan},
        {"depth": 0},
    ],
)
def test_tables_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    Costs(**GOOD)
    with pytest.raises(UsageError, match="costs:"):
        Costs(**GOOD | wrong)
