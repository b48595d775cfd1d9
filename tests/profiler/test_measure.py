"""Times of an engine that takes known times: found exactly, in spite of drift, within the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.costs import Costs
from edgedec.profiler import measure
from edgedec.profiler.measure import FULL, QUICK, Effort, Measured, rising

SMALL = Effort((1, 2, 4, 8, 16), (32, 128, 512), 9, 60.0)


def run(engine: Any, effort: Effort = SMALL, **given: Any) -> Measured:
    return measure.measure(engine, engine.model, effort, clock=engine.clock, **given)


def exact(engine: Any, costs: Costs) -> None:
    """Every time that was measured is the engine's."""
    for past, line in zip(costs.pasts, costs.layers, strict=True):
        assert line == pytest.approx([engine.layers(n, past) for n in costs.rows], rel=1e-6)
    assert costs.head == pytest.approx([engine.head(n) for n in costs.rows], rel=1e-5)


def test_the_parts_of_t_are_found(timed: Any) -> None:
    engine = timed()
    found = run(engine)
    assert (found.costs.rows, found.costs.pasts) == (SMALL.rows, SMALL.pasts)
    assert (found.rounds, found.rejected, found.past, found.costs.depth) == (9, 0, 128, 4)
    exact(engine, found.costs)
    assert found.costs.step(128, 16)[16] == pytest.approx(engine.whole(16, 128), rel=1e-5)
    assert found.spread[4] == pytest.approx((engine.whole(4, 128),) * 2)
    assert found.costs.host == 0.0


def test_rows_are_those_of_the_loop(timed: Any) -> None:
    """The last token below the trunk, drafts in a tree below it, all dropped after the step."""
    engine = timed()
    run(engine)
    measured = [step for step in engine.steps if step.keep == [-1]]
    assert {step.rows for step in measured} == set(SMALL.rows)
    for step in measured:
        assert step.parents[0] == -1
        assert all(0 <= parent < row for row, parent in enumerate(step.parents[1:], 1))
        assert step.heads in (0, step.rows)
    assert any(len(set(step.parents)) < step.rows - 1 for step in measured), "a tree has branches"
    prompts = [step for step in engine.steps if step.keep != [-1]]
    assert sum(step.rows for step in prompts) == 512
    assert all(step.heads == 0 for step in prompts)


def test_an_encoder_has_read_something_usual(timed: Any) -> None:
    found = run(timed(encoder=True))
    assert found.source == 64  # no more than the model reads
    assert run(timed()).source == 0
    exact(timed(), found.costs)


def test_cases_take_turns_in_changing_order(timed: Any) -> None:
    engine = timed()
    run(engine)
    order = [step.rows for step in engine.steps if step.past == 512]
    rounds = [tuple(order[first + 1 : first + 6]) for first in range(0, len(order), 6)]
    assert len(rounds) == 9
    assert all(sorted(each) == list(SMALL.rows) for each in rounds)
    assert len(set(rounds)) > 5


@pytest.mark.parametrize("slow", [1.6, 3.0, 20.0])
def test_a_machine_busy_half_of_the_time_is_seen_through(timed: Any, slow: float) -> None:
    """Slow for 55 % of the steps, in turns of some rounds: medians of all rounds would be slow."""
    plain = timed()
    run(plain)
    turn = 6 * len(plain.steps) / 9
    engine = timed()
    engine.slowness = lambda now: slow if len(engine.steps) / turn % 1.0 > 0.45 else 1.0
    found = run(engine, Effort(SMALL.rows, SMALL.pasts, 20, 600.0))
    assert found.rejected > found.rounds
    exact(engine, found.costs)


def test_a_machine_that_never_rests_is_measured_all_the_same(timed: Any) -> None:
    ticks = iter(np.random.default_rng(3).uniform(1, 4, 100_000).tolist())
    engine = timed(slowness=lambda now: next(ticks))
    found = run(engine)
    assert found.rounds >= measure.LEAST_ROUNDS
    assert found.rounds + found.rejected <= 2 * SMALL.rounds
    times = found.costs.step(128, 16)[1:]
    assert (np.diff(times) >= 0).all()


def test_times_never_fall_with_more_rows(timed: Any) -> None:
    engine = timed(layers=lambda n, past: 1e-3 * (1 + (n % 4 == 2)), head=lambda n: 1e-3 / n)
    costs = run(engine).costs
    for line in (*costs.layers, costs.head):
        assert list(line) == sorted(line)


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", [QUICK, FULL])
@pytest.mark.parametrize("step", [1e-4, 2e-3, 2e-2, 0.3])
def test_the_deadline_is_kept(timed: Any, effort: Effort, step: float) -> None:
    """From a small model to one that hardly fits: never later than by one step of a row."""
    engine = timed(
        layers=lambda n, past: step * max(1.0, n / 5) * (1 + past / 5000),
        head=lambda n: step / 10,
    )
    found = run(engine, effort)
    assert engine.now - 100 <= effort.seconds + 2 * step
    assert found.rounds >= measure.LEAST_ROUNDS or step > 0.1
    if found.rounds:
        exact(engine, found.costs)
    if step <= 2e-2:
        assert found.costs.rows[:4] == (1, 2, 3, 4)


def test_a_large_model_gives_up_many_rows_first(timed: Any) -> None:
    """A 1 B model: 20 ms a step, 4 ms for each of many rows."""
    engine = timed(layers=lambda n, past: max(0.02, 0.004 * n), head=lambda n: 1e-4 * n)
    found = run(engine, QUICK)
    assert found.costs.rows[-1] >= 8
    assert found.costs.rows == QUICK.rows[: len(found.costs.rows)]
    prompts = [step for step in engine.steps if step.keep != [-1]]
    assert sum(step.rows for step in prompts) * 0.004 <= 0.5 * QUICK.seconds


def test_a_step_longer_than_all_the_time_still_gives_something(timed: Any) -> None:
    engine = timed(layers=lambda n, past: 5.0 * n, head=lambda n: 1.0)
    found = run(engine, QUICK)
    assert found.rounds == 0
    assert found.costs.rows == (1,)
    # Nothing is known of more rows, so nothing is promised.
    assert found.costs.step(128, 4) == pytest.approx([0, 6, 12, 18, 24])


def test_a_small_model_does_not_use_up_the_time(timed: Any) -> None:
    engine = timed(layers=lambda n, past: 1e-4 + 1e-5 * n, head=lambda n: 1e-5)
    run(engine, QUICK)
    assert engine.now - 100 < 0.2


def test_weights_that_must_be_read_first_do_not_count(timed: Any) -> None:
    engine = timed(slowness=lambda now: 300.0 if now == 100.0 else 1.0)
    found = run(engine, QUICK)
    exact(engine, found.costs)


# --- models of all kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 2, 3, 9, 16, 40, 96, 136, 520, 600])
def test_the_context_limits_the_past(timed: Any, context: int) -> None:
    engine = timed(context=context)
    found = run(engine, Effort(FULL.rows, FULL.pasts, 3, 60.0))
    assert found.costs.pasts[-1] < context
    assert found.rounds == 3
    exact(engine, found.costs)
    if context >= 40:
        assert found.costs.rows == tuple(n for n in FULL.rows if n <= context)


@pytest.mark.parametrize(
    ("widths", "rows"), [((8,), (8,)), ((1, 8, 32), (1, 2, 8, 9, 32)), ((1, 128), (1,)),
                         ((128, 256), (128,)), ((1, 2, 3), (1, 2, 3))],
)  # fmt: skip
def test_static_widths_are_stairs(
    timed: Any, widths: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    engine = timed(row_widths=widths)
    costs = run(engine, Effort(FULL.rows, FULL.pasts, 5, 60.0)).costs
    assert costs.rows == rows
    assert all(step.rows in widths for step in engine.steps)
    known = [width for width in widths if width <= rows[-1]]
    times = costs.step(128, known[-1])
    for count in range(1, known[-1] + 1):
        width = min(width for width in known if width >= count)
        assert times[count] == pytest.approx(engine.whole(width, 128), rel=1e-5)


def test_progress_rises_to_the_end(timed: Any) -> None:
    told: list[tuple[str, float]] = []
    run(timed(), tell=lambda stage, share: told.append((stage, share)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["past", "steps"]
    for stage in ("past", "steps"):
        shares = [share for each, share in told if each == stage]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


# --- never falling -------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=12))
def test_rising_is_the_nearest_that_never_falls(times: list[float]) -> None:
    """By the formula of the maximal lower and minimal upper means."""
    count = len(times)
    expected = [
        max(min(np.mean(times[low : high + 1]) for high in range(i, count)) for low in range(i + 1))
        for i in range(count)
    ]
    assert rising(times) == pytest.approx(expected, abs=1e-9)
