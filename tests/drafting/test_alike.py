"""Where arguments are wrong or few, C and Python refuse the same and answer the same."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgedec._tree import planner, successors, suffixes, walk

from .both import FAST, arrays, same, tree

TWIN = SimpleNamespace(
    Suffixes=suffixes.Suffixes, Successors=successors.Successors, Planner=planner.Planner,
    draw=walk.draw, follow=walk.follow, lay=walk.lay,
)  # fmt: skip
KINDS: list[Any] = [TWIN, *([FAST] if FAST else [])]
each = pytest.mark.parametrize("kind", KINDS, ids=["python", "c"][: len(KINDS)])
TIMES = np.linspace(0, 1e-3, 30)
NONE = np.zeros(0, np.int32)


@each
def test_few_nodes_go_to_the_best_match(kind: Any) -> None:
    """More chains than nodes: the longest match comes first, and gets what there is."""
    text = kind.Suffixes()
    text.extend([5, 1, 2, 3, 10, 2, 3, 11, 3, 12, 1, 2, 3], 0)
    assert [length for length, _ in text.matches(3)] == [3, 2, 1]
    for most, expected in ((1, [10]), (2, [10, 11]), (3, [10, 11, 12])):
        out = arrays(3)
        assert text.copy(most, 3, 1, *out) == most
        assert out[0][:most].tolist() == expected
        assert out[3][:most].tolist() == [*range(most)]
    assert text.copy(-5, 3, 1, *arrays(3)) == 0


@each
def test_no_more_places_than_are_looked_for(kind: Any) -> None:
    text = kind.Suffixes()
    text.extend([token for run in range(30) for token in [0] * run + [100 + run]], 0)
    text.extend([0] * 30, -20)
    assert len(text) == 30 * 31 // 2 + 20
    assert len(text.matches(99)) == suffixes.MAX_PLACES
    with pytest.raises(ValueError, match="too long"):
        kind.Suffixes(suffixes.MAX_LIMIT + 1)


@each
def test_a_row_of_any_width_is_learned(kind: Any) -> None:
    table, out = kind.Successors(1, 1, 4), arrays(8)
    ids = np.arange(200, dtype=np.int32)[None]
    table.learn([9], NONE, NONE, ids, np.zeros((1, 200), np.float32), 1.0)
    assert table.grow([9], 8, 1, 0.0, 0, 0, *out) == 8
    assert out[2] == pytest.approx(successors.TRUST[0] / 8)


@each
def test_what_is_no_number_is_not_learned(kind: Any) -> None:
    table, ids = kind.Successors(1, 1, 4), np.array([[3, -1, 5]], np.int32)
    table.learn([9], NONE, NONE, ids, np.zeros((1, 3), np.float32), 1.0)
    for bad in (np.nan, np.inf, -np.inf):
        for place in range(3 if bad > 0 else 1):
            values = np.zeros((1, 3), np.float32)
            values[0, place] = bad
            table.learn([9], NONE, NONE, ids, values, 1.0)
    keys = np.frombuffer(table.dump()[0], np.uint64)
    for temperature in (0.0, 0.7, np.nan, 1e-320, np.inf):
        out = arrays(8)
        count = table.grow([9], 8, 1, temperature, 1, 2, *out)
        assert sorted(out[0][:count].tolist()) == [3, 5]
        assert np.isfinite(out[2][:count]).all()
    line = np.array([4, -2, 6, 7, 8, 0, 1, 2], np.int32)
    weights = np.array([0.5, 0.9, np.nan, np.inf, -1, 3e38, 0.25, 0], np.float32)
    table.load(keys.tobytes(), line.tobytes(), weights.tobytes())
    out = arrays(8)
    count = table.grow([9], 8, 1, 0.0, 0, 0, *out)
    assert out[0][:count].tolist() == [4, 1]


@each
@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan, np.inf])
def test_a_rate_is_a_share(kind: Any, rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        kind.Successors(1, 1, 4).learn(
            [1], NONE, NONE, np.ones((1, 1), np.int32), np.ones((1, 1), np.float32), rate
        )


@each
def test_a_refused_plan_changes_nothing(kind: Any) -> None:
    plan, out, credits = kind.Planner(2, 1e-3), arrays(8), np.zeros(4, np.float32)
    assert plan.riders(3) == [(-1, 0, 0, 0.0)]
    plan.learn([1, 2], 5, credits)
    assert credits.tolist() == [0, 0, 0, 0]
    good = [tree([1, 2], [-1, 0], [0.9, 0.9]), tree([1], [-1], [0.8])]
    kept, written = plan.plan(good, 1, 8, 8, 9, TIMES, NONE, *out)
    assert (kept, written) == (2, 2)
    with pytest.raises(ValueError, match="no tree"):
        plan.plan([tree([3], [-1], [0.9]), tree([1], [0], [0.8])], 1, 8, 8, 9, TIMES, NONE, *out)
    assert len(plan.riders(99)) == 3
    assert len(plan.riders(-2)) == 1
    plan.learn([1, 2], 99, credits)
    assert credits.tolist() == [1.5, 0.5, 1.5, 0.5]
    plan.learn([1, 2], -1, credits)
    assert credits.tolist() == [0, 0, 0, 0]


@each
def test_only_what_was_written_is_counted(kind: Any) -> None:
    plan, credits = kind.Planner(1, 1e-3), np.zeros(2, np.float32)
    wide = tree([*range(6)], [-1] * 6, [0.3] * 6)
    plan.plan([wide], 1, 8, 8, 9, TIMES, NONE, *arrays(8))
    assert plan.plan([wide], 1, 8, 8, 9, TIMES, NONE, *arrays(2))[1] == 2
    assert len(plan.riders(6)) == 3
    plan.learn([7], 6, credits)
    assert credits.tolist() == [0, 2]


def test_the_worthiest_of_many_riders_are_found() -> None:
    """More of them than are ordered: 400 nodes with 8 each, the best node last."""
    assert planner.MAX_ITEMS < 400 * 8
    count, found = 400, []
    score = [*(0.001 * (1 + i % 7) for i in range(count - 1)), 1.0]
    gains = tuple(0.9 - 0.1 * i for i in range(8))
    wide = tree([*range(count)], [-1] * count, score, None, [[1] * 8] * (count + 1), gains)
    for kind in KINDS:
        plan, out = kind.Planner(1, 1e-3), arrays(3000)
        result = plan.plan([wide], 1, 3000, 9, count, np.linspace(0, 1e-6, 3000), NONE, *out)
        found.append((result, plan.riders(result[0]), round(plan.value, 4), out))
    assert found[0][0][1] > 0
    assert all(each[:3] == found[0][:3] for each in found)
    assert all(same(each[3], found[0][3], found[0][0][1]) for each in found)


@each
def test_a_draft_that_is_given_again_says_what_it_says_now(kind: Any) -> None:
    """Drafters write to the same arrays in every turn; where they lie may be remembered."""
    plan, given, out = kind.Planner(2, 1e-3), tree([3], [-1], [0.9]), arrays(8)
    for token in (3, 4, 5):
        given.tokens[0] = token
        assert plan.plan([given, None], 1, 8, 8, 9, TIMES, NONE, *out) == (1, 1)
        assert out[0][0] == token
        # Others come and go between, more than are remembered.
        for other in range(300):
            plan.plan([tree([other % 9], [-1], [0.9]), given], 1, 8, 8, 9, TIMES, NONE, *out)
            assert sorted(out[0][: 1 + (other % 9 != token)].tolist()) == sorted({other % 9, token})
    given.tokens[0] = 9
    with pytest.raises(ValueError, match="no tree"):
        plan.plan([given, None], 1, 8, 8, 9, TIMES, NONE, *out)
    plan.forget()
    assert sys.getrefcount(given) == 2


@each
def test_draws_that_cannot_be(kind: Any) -> None:
    assert kind.draw(np.zeros(0, np.float32), 0.7, 1, 2) == -1
    logits = np.array([1.0, -np.inf, 3.0], np.float32)
    assert kind.draw(logits, np.nan, 1, 2) == 2
    assert kind.draw(logits, np.inf, 1, 2) in {0, 2}
    many = np.zeros(600, np.int32)
    with pytest.raises(ValueError, match="fit together"):
        kind.follow(many, many - 1, np.zeros(700, np.int32), 0)


@each
def test_rows_that_do_not_fit(kind: Any) -> None:
    one, two, room = np.zeros(1, np.int32), np.zeros(2, np.int32), np.zeros(4, np.int32)
    for chain, tokens, parents, first, place in (
        ([], one, one, 0, room), ([1], one, two, 0, room), ([1], one, one, -1, room),
        ([1, 2, 3], two, two, 0, room), ([1], one, one, 0, one),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="fit together"):
            kind.lay(chain, tokens, parents, first, room, place)


def test_large_logits_lose_no_noise() -> None:
    """Near 1e7 neighbouring numbers are 1 apart: what may be drawn is not told by their sum."""
    random = np.random.default_rng(0)
    for index in range(400):
        logits = (1e7 + random.normal(0, 3, 500)).astype(np.float32)
        assert len({kind.draw(logits, 1.0, 7, index) for kind in KINDS}) == 1
