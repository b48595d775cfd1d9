"""Guesses from a drafter's logits, and the likeliest tree of independent levels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import guess
from edgedec.contracts import Context
from edgedec.draft import Sheet
from edgedec.gumbel import gumbel

DICE = st.integers(0, 2**32 - 1)


def context(temperature: float, seed: int = 9) -> Context:
    return Context(list(range(12)), 4, seed, temperature)


def test_greedy_guesses_are_shares_of_the_likeliest() -> None:
    ids = np.array([[3, 5, 7]], np.int32)
    logits = np.log(np.array([[0.6, 0.3, 0.1]], np.float32))
    ((tokens, shares),) = guess.guesses(ids, logits, context(0.0), [0])
    assert tokens.tolist() == [3, 5, 7]
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], rtol=1e-6)


@pytest.mark.parametrize("depths", [[0, 1], [2, 2]])
def test_sampled_guesses_are_what_the_draw_will_choose(depths: list[int]) -> None:
    random = np.random.default_rng(1)
    where = context(0.7)
    for _ in range(50):
        ids = np.stack([random.permutation(40)[:8] for _ in depths]).astype(np.int32)
        logits = -np.sort(-random.normal(size=(2, 8)).astype(np.float32), axis=1)
        found = guess.guesses(ids, logits, where, depths)
        for line, (tokens, shares) in enumerate(found):
            noise = gumbel(where.seed, where.index + depths[line], ids[line])
            drawn = ids[line][(logits[line].astype(np.float64) / 0.7 + noise).argmax()]
            assert tokens[0] == drawn
            assert (np.diff(shares) <= 0).all()
            assert shares.sum() == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(DICE, st.integers(1, 4), st.integers(1, 14))
def test_the_tree_is_the_likeliest_of_all(dice: int, levels: int, nodes: int) -> None:
    random = np.random.default_rng(dice)
    given_levels = []
    for _ in range(levels):
        width = int(random.integers(1, 4))
        shares = np.sort(random.dirichlet(np.ones(width)))[::-1].astype(np.float32)
        given_levels.append((random.permutation(50)[:width].astype(np.int32), shares))
    found = guess.product(given_levels, nodes, Sheet(64))
    every = []
    for depth in range(1, levels + 1):
        for ranks in itertools.product(*(range(len(ids)) for ids, _ in given_levels[:depth])):
            every.append(float(np.prod([given_levels[i][1][r] for i, r in enumerate(ranks)])))
    best = sorted(every, reverse=True)[:nodes]
    paths: list[float] = []
    for score, parent in zip(found.score.tolist(), found.parents.tolist(), strict=True):
        paths.append(score * (paths[parent] if parent >= 0 else 1.0))
    assert len(paths) == min(nodes, len(every))
    np.testing.assert_allclose(sorted(paths, reverse=True), best, rtol=1e-5)
    assert len({*zip(found.parents.tolist(), found.tokens.tolist(), strict=True)}) == len(paths)


def test_no_levels_no_tree() -> None:
    assert len(guess.product([], 8, Sheet(8)).tokens) == 0
    assert (
        len(guess.product([(np.zeros(0, np.int32), np.zeros(0, np.float32))], 8, Sheet(8)).tokens)
        == 0
    )
