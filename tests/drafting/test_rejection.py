"""The rules that are not exact: what they accept, and which distribution comes out."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec import rejection


def test_typical_takes_the_likeliest_guess_that_is_likely_enough() -> None:
    logits = np.log(np.array([0.7, 0.2, 0.06, 0.04], np.float32))
    assert rejection.typical(logits, np.array([1, 0], np.int32)) == 0
    assert rejection.typical(logits, np.array([3, 1], np.int32)) == 1
    assert rejection.typical(logits, np.array([3], np.int32)) is None
    assert rejection.typical(logits, np.zeros(0, np.int32)) is None
    # Where nothing is certain (entropy 1.3 nats), 0.3 / e^1.3 = 0.08 is enough.
    even = np.log(np.array([0.31, 0.3, 0.3, 0.0901], np.float32))
    assert rejection.typical(even, np.array([3], np.int32)) == 3


@pytest.mark.parametrize("guesses", [0, 1, 2, 4])
def test_recursive_rejection_keeps_the_distribution(guesses: int) -> None:
    """Guesses drawn from q without replacement; what comes out is p, by a chi-square test."""
    random = np.random.default_rng(guesses)
    p = np.array([0.4, 0.3, 0.2, 0.08, 0.02])
    q = np.array([0.1, 0.5, 0.05, 0.3, 0.05])
    logits = np.log(p).astype(np.float32)
    total = 8000
    counts = np.zeros(5)
    for index in range(total):
        drawn = random.choice(5, guesses, replace=False, p=q).astype(np.int32)
        counts[rejection.recursive(logits, q.astype(np.float32), drawn, (7, index))] += 1
    chi = ((counts - p * total) ** 2 / (p * total)).sum()
    assert chi < 18.5  # 4 degrees of freedom: 0.1 %


def test_a_guess_that_the_model_shares_is_accepted() -> None:
    logits = np.log(np.array([0.98, 0.01, 0.01], np.float32))
    law = np.array([0.98, 0.01, 0.01], np.float32)
    taken = [rejection.recursive(logits, law, np.array([0]), (1, i)) for i in range(50)]
    assert taken.count(0) == 50


def test_the_same_seed_gives_the_same_token() -> None:
    logits, law = np.zeros(9, np.float32), np.array([0, 0, 0.4, 0, 0.6, 0, 0, 0, 0], np.float32)
    guess = np.array([4, 2], np.int32)
    first = [rejection.recursive(logits, law, guess, (3, i)) for i in range(30)]
    assert first == [rejection.recursive(logits, law, guess, (3, i)) for i in range(30)]
    assert len(set(first)) > 1
