"""Merging, calibration and choice: against brute force, and C against Python."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec._tree import planner
from edgedec.contracts import Draft

from .both import FAST, arrays, needs_c, same, tree

KINDS = [planner.Planner, *([FAST.Planner] if FAST else [])]
VOCAB = 6
NO_END = np.zeros(0, np.int32)


@st.composite
def drafts(draw: Any, most: int = 8, riders: bool = False) -> Draft:
    count = draw(st.integers(0, most))
    probability = st.floats(0.03125, 1, width=32)
    made = tree(
        [draw(st.integers(0, VOCAB - 1)) for _ in range(count)],
        [draw(st.integers(-1, i - 1)) for i in range(count)],
        [draw(probability) for _ in range(count)],
        [draw(st.integers(0, 5)) for _ in range(count)],
        [[100] * draw(st.integers(0, 2)) for _ in range(count + 1)] if riders else None,
        (0.75, 0.5) if riders else (),
    )
    return replace(made, lanes=draw(st.integers(1, 2)))


def times(seed: int, rows: int = 40) -> np.ndarray:
    """A staircase, rising."""
    steps = np.random.default_rng(seed).choice([0.0, 1e-5, 3e-4], rows)
    return np.concatenate([[0.0], 1e-3 + np.cumsum(steps)])


def paths(given: Draft) -> dict[tuple[int, ...], None]:
    """Every path of tokens in a draft."""
    found: dict[tuple[int, ...], None] = {}
    known: list[tuple[int, ...]] = []
    for token, parent in zip(given.tokens.tolist(), given.parents.tolist(), strict=True):
        known.append(((*known[parent], token)) if parent >= 0 else (token,))
        found[known[-1]] = None
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(
    given=st.lists(st.one_of(st.none(), drafts()), min_size=1, max_size=4), depth=st.integers(1, 5)
)
def test_a_merged_tree_has_every_path_once(
    kind: Any, given: list[Draft | None], depth: int
) -> None:
    plan = kind(len(given), 1e-3)
    out = arrays(64)
    _, count = plan.plan(given, 1, 64, depth, VOCAB, times(1, 80), NO_END, *out)
    merged = tree(*(part[:count].tolist() for part in out))
    wanted = {path for each in given if each for path in paths(each) if len(path) <= depth}
    assert set(paths(merged)) == wanted
    assert count == len(wanted)
    for parent in {-1, *range(count)}:
        assert merged.score[merged.parents == parent].sum() <= 0.99  # only one can be right


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    given=st.lists(st.one_of(st.none(), drafts()), min_size=1, max_size=4),
    ends=st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
def test_nothing_is_checked_at_or_below_the_end_of_a_text(
    kind: Any, given: list[Draft | None], ends: set[int]
) -> None:
    plan, out = kind(len(given), 1e-3), arrays(64)
    stops = np.array(sorted(ends), np.int32)
    _, count = plan.plan(given, 1, 64, 9, VOCAB, times(1, 80), stops, *out)
    merged = tree(*(part[:count].tolist() for part in out))
    wanted = {path for each in given if each for path in paths(each) if not ends & {*path}}
    assert set(paths(merged)) == wanted


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(given=st.lists(drafts(4), min_size=1, max_size=2), seed=st.integers(0, 99))
def test_no_other_subtree_is_worth_more(kind: Any, given: list[Draft], seed: int) -> None:
    plan = kind(len(given), 2e-4)
    out, T = arrays(16), times(seed)
    kept, count = plan.plan(given, 1, 16, 9, VOCAB, T, NO_END, *out)
    _, parents, score, _ = (part[:count] for part in out)
    path = np.ones(count)
    for node in range(count):
        path[node] = score[node] * (path[parents[node]] if parents[node] >= 0 else 1)
    best = -np.inf
    for chosen in itertools.product([False, True], repeat=count):
        if all(parents[i] < 0 or chosen[parents[i]] for i in range(count) if chosen[i]):
            worth = path[list(chosen)].sum() - plan.rate * T[1 + sum(chosen)]
            best = max(best, worth)
    assert path[:kept].sum() - plan.rate * T[1 + kept] == pytest.approx(best, abs=1e-5)
    assert plan.value == pytest.approx(path[:kept].sum(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(given=drafts(3, riders=True), seed=st.integers(0, 99))
def test_no_other_riders_are_worth_more(kind: Any, given: Draft, seed: int) -> None:
    plan = kind(1, 2e-4)
    out, T = arrays(16), times(seed)
    kept, count = plan.plan([given], 1, 16, 9, VOCAB, T, NO_END, *out)
    riders = [n for _, _, n, _ in plan.riders(count)]
    _, parents, score, _ = (part[:count] for part in out)
    path, left = np.ones(count), np.ones(count + 1)
    for node in range(count):
        path[node] = score[node] * (path[parents[node]] if parents[node] >= 0 else 1)
    for at in range(-1, count):
        left[at + 1] = (path[at] if at >= 0 else 1) * (1 - score[parents == at].sum())
    most = [0] * (count + 1)
    for line, (source, entry, _, _) in enumerate(plan.riders(count)):
        most[line] = len(given.riders[entry]) if given.riders and source >= 0 else 0
    best = -np.inf
    for nodes in itertools.product([False, True], repeat=count):
        if not all(parents[i] < 0 or nodes[parents[i]] for i in range(count) if nodes[i]):
            continue
        open_lines = [0, *(i + 1 for i in range(count) if nodes[i])]
        for hung in itertools.product(*(range(most[line] + 1) for line in open_lines)):
            value = path[list(nodes)].sum()
            for line, number in zip(open_lines, hung, strict=True):
                value += left[line] * sum((0.75, 0.5)[:number])
            best = max(best, value - plan.rate * T[1 + sum(nodes) + sum(hung)])
    chosen = path[:kept].sum() + sum(
        left[line] * sum((0.75, 0.5)[:number]) for line, number in enumerate(riders[: kept + 1])
    )
    rows = 1 + kept + sum(riders[: kept + 1])
    assert chosen - plan.rate * T[rows] == pytest.approx(best, abs=1e-5)


@needs_c
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_c_and_python_plan_and_learn_alike(data: st.DataObject) -> None:
    assert FAST is not None
    sources = data.draw(st.integers(0, 4))
    fast, twin = FAST.Planner(sources, 1e-3), planner.Planner(sources, 1e-3)
    for turn in range(5):
        riders = data.draw(st.booleans())
        given = [data.draw(st.one_of(st.none(), drafts(8, riders))) for _ in range(sources)]
        room, budget = data.draw(st.sampled_from([4, 30])), data.draw(st.integers(0, 30))
        pending, depth = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(1, 5))
        one, other, T = arrays(room), arrays(room), times(turn)
        ends = np.array(data.draw(st.sampled_from([[], [2], [0, 4]])), np.int32)
        result = fast.plan(given, pending, budget, depth, VOCAB, T, ends, *one)
        assert result == twin.plan(given, pending, budget, depth, VOCAB, T, ends, *other)
        assert same(one, other, result[1])
        assert fast.riders(result[0]) == twin.riders(result[0])
        assert fast.value == pytest.approx(twin.value, abs=1e-5)
        emitted = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
        mine, theirs = np.zeros(8, np.float32), np.zeros(8, np.float32)
        free = data.draw(st.sampled_from([0, 5, 15]))
        fast.learn(emitted, result[0], mine, free)
        twin.learn(emitted, result[0], theirs, free)
        assert (mine == theirs).all()
        for each in (fast, twin):
            each.pace(len(emitted), 1e-3 + 1e-4 * result[0])
        assert fast.rate == pytest.approx(twin.rate)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_become_what_was_counted(kind: Any) -> None:
    """A drafter that is right 7 times of 10, and says 0.2 of it, is believed to be in between."""
    plan, credits = kind(1, 1e-3), np.zeros(2, np.float32)
    given, out = [tree([3], [-1], [0.25])], arrays(4)
    seen = []
    for turn in range(300):
        plan.plan(given, 1, 4, 4, VOCAB, times(0), NO_END, *out)
        seen.append(float(out[2][0]))
        plan.learn([3 if turn % 10 < 7 else 4], 1, credits)
        assert credits.tolist() == [1.0 if turn % 10 < 7 else 0.0, 1.0]
    assert seen[0] == pytest.approx(0.25)
    # Each estimate is the prior of a finer one: the drafter, this score of its, this kind of node.
    counted, said, was = [], 0.0, 0.0
    for turn in range(300):
        trials, right = turn, sum(i % 10 < 7 for i in range(turn))
        whole = 0.25 * (right + 6) / (trials * 0.25 + 6)
        score = (right + 6 * min(whole, 0.985)) / (trials + 6)
        counted.append((right + 6 * score) / (trials + 6))
        if turn == 60:
            break
        # And what was seen of late corrects them all.
        expected = counted[-1] * min(max((was + 4) / (said + 4), 0.3), 1.3)
        assert seen[turn] == pytest.approx(min(expected, 0.985), abs=1e-3)
        said, was = 0.93 * said + counted[-1], 0.93 * was + (turn % 10 < 7)
    assert np.mean(seen[-50:]) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_unlike_those_before_is_noticed_soon(kind: Any) -> None:
    """First guesses come true no longer, what follows them does where they do."""
    plan, credits, out = kind(1, 1e-3), np.zeros(2, np.float32), arrays(4)
    given = [tree([3, 4], [-1, 0], [0.9, 0.9])]
    for _ in range(200):
        plan.plan(given, 1, 4, 4, VOCAB, times(0), NO_END, *out)
        plan.learn([3, 4, 5], 2, credits)
    assert out[2][:2].min() > 0.95
    for turn in range(20):
        plan.plan(given, 1, 4, 4, VOCAB, times(0), NO_END, *out)
        plan.learn([3, 4, 5] if turn % 5 == 0 else [1], 2, credits)
    assert out[2][0] < 0.5
    assert out[2][1] > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "given",
    [tree([VOCAB], [-1], [0.5]), tree([-1], [-1], [0.5]), tree([1, 1], [1, -1], [0.5, 0.5]),
     tree([1], [-2], [0.5]), tree([1], [-1], [0.5, 0.5]), tree([1], [-1], [0.5], None, [[7]])],
)  # fmt: skip
def test_what_is_no_tree_is_refused(kind: Any, given: Draft) -> None:
    with pytest.raises(ValueError, match=r"draft|riders"):
        kind(1, 1e-3).plan([given], 1, 4, 4, VOCAB, times(0), NO_END, *arrays(4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_planner_of_another_size_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="2 drafts for a planner of 1"):
        kind(1, 1e-3).plan([None, None], 1, 4, 4, VOCAB, times(0), NO_END, *arrays(4))
    with pytest.raises(ValueError, match="0 to 8 sources"):
        kind(9, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_of_too_many_nodes_is_cut(kind: Any) -> None:
    count = 700
    wide = tree([i % VOCAB for i in range(count)], [i - 1 for i in range(count)], [0.9] * count)
    _, written = kind(1, 1e-3).plan([wide], 1, 600, 600, VOCAB, times(0, 700), NO_END, *arrays(600))
    assert written == planner.MAX_NODES
