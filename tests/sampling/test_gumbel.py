"""The noise against its definition in plain integers, and against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgedec.gumbel import _uniform, gumbel, gumbel_rows

WORD = (1 << 64) - 1
TINY = 1e-4


def mix(z: int) -> int:
    z &= WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def hashed(seed: int, index: int, token: int) -> int:
    key = mix(mix(seed + 0x9E3779B97F4A7C15) ^ ((index * 0xD1342543DE82EF95) & WORD))
    return mix(key + (token + 1) * 0x9E3779B97F4A7C15)


def noise(seed: int, index: int, token: int) -> float:
    uniform = ((hashed(seed, index, token) >> 11) | 1) / 2**53
    return -math.log(-math.log(uniform))


def chance(statistic: float, degrees: int) -> float:
    """P(chi-square >= statistic) for an even number of degrees of freedom (a closed form)."""
    assert degrees % 2 == 0
    half = statistic / 2
    return math.fsum(
        math.exp(i * math.log(half) - half - math.lgamma(i + 1)) for i in range(degrees // 2)
    )


def uniform(seed: int, index: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.exp(-np.exp(-gumbel(seed, index, tokens)))


# (seed, index, token) -> hash, noise: what a twin in another language must give.
GOLDEN = [
    (0, 0, 0, 0x568A9B0B1A2C05EC, -0.08116903215863935),
    (0, 0, 1, 0x44E5B8B147EF718B, -0.2719792283174781),
    (0, 1, 0, 0xF30429728E32FA04, 2.9555677686376263),
    (1, 0, 0, 0x6EC85F1F8547BC0C, 0.1772064934697003),
    (42, 7, 49151, 0x22C72641FD1DF3B2, -0.6912426308950536),
    (WORD, 1 << 40, 262143, 0x35DD2DFE47AA4765, -0.44386202555102444),
]


@pytest.mark.parametrize(("seed", "index", "token", "hash_", "value"), GOLDEN)
def test_golden_values(seed: int, index: int, token: int, hash_: int, value: float) -> None:
    assert hashed(seed, index, token) == hash_
    assert gumbel(seed, index, np.array([token]))[0] == pytest.approx(value, rel=1e-14)


def test_is_the_definition_for_every_token_and_order() -> None:
    tokens = np.random.default_rng(0).integers(0, 1 << 31, 500)
    expected = [noise(3, 11, int(token)) for token in tokens]
    np.testing.assert_allclose(gumbel(3, 11, tokens), expected, rtol=1e-12)
    np.testing.assert_array_equal(gumbel(3, 11, tokens[::-1])[::-1], gumbel(3, 11, tokens))
    np.testing.assert_array_equal(gumbel(3, 11, tokens.astype(np.int32)), gumbel(3, 11, tokens))


def test_rows_have_the_noise_of_their_index() -> None:
    tokens = np.random.default_rng(1).integers(0, 1 << 20, (3, 7)).astype(np.int32)
    indices = [11, 0, 1 << 40]
    expected = [gumbel(5, index, line) for index, line in zip(indices, tokens, strict=True)]
    np.testing.assert_array_equal(gumbel_rows(5, indices, tokens), expected)
    assert gumbel_rows(5, [], tokens[:0]).shape == (0, 7)


def test_extreme_hashes_give_finite_noise() -> None:
    values = _uniform(np.array([0, 1, WORD - 1, WORD], np.uint64))
    assert values.min() > 0
    assert values.max() < 1
    assert np.isfinite(-np.log(-np.log(values))).all()


@pytest.mark.parametrize("seed", [0, 1, 2, 1 << 63])
def test_noise_is_gumbel(seed: int) -> None:
    values = uniform(seed, 5, np.arange(100_000))
    counts = np.bincount((values * 65).astype(int), minlength=65)
    expected = 100_000 / 65
    assert chance(float(((counts - expected) ** 2 / expected).sum()), 64) > TINY
    assert gumbel(seed, 5, np.arange(100_000)).mean() == pytest.approx(0.57722, abs=0.02)


PAIRS = {
    "tokens": lambda i: (uniform(9, i, np.arange(500)), uniform(9, i, np.arange(1, 501))),
    "indices": lambda i: (uniform(9, i, np.arange(500)), uniform(9, i + 1, np.arange(500))),
    "seeds": lambda i: (uniform(i, 3, np.arange(500)), uniform(i + 1, 3, np.arange(500))),
    "seed and index": lambda i: (uniform(i, 0, np.arange(500)), uniform(0, i, np.arange(500))),
    "high bit of seed": lambda i: (
        uniform(i, 3, np.arange(500)),
        uniform(i + (1 << 63), 3, np.arange(500)),
    ),
    "distant tokens": lambda i: (
        uniform(9, i, np.arange(500)),
        uniform(9, i, np.arange(500) + (1 << 16)),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_neighbours_are_independent(pair: str) -> None:
    """A 5 x 5 table of 100,000 pairs; 24 degrees of freedom, the margins being known."""
    table = np.zeros((5, 5))
    # Steps of 2 keep the pairs themselves disjoint; 0 would pair (0, 0) with itself.
    for i in range(2, 402, 2):
        left, right = PAIRS[pair](i)
        if pair == "tokens":
            left, right = left[::2], right[::2]
        np.add.at(table, ((left * 5).astype(int), (right * 5).astype(int)), 1)
    expected = table.sum() / 25
    assert chance(float(((table - expected) ** 2 / expected).sum()), 24) > TINY


def test_first_bits_over_seeds_of_one_token() -> None:
    """Consecutive seeds, as users choose them, are as good as any: the same cell over seeds."""
    values = np.array([uniform(seed, 0, np.arange(4)) for seed in range(20_000)])
    for column in values.T:
        counts = np.bincount((column * 33).astype(int), minlength=33)
        expected = len(values) / 33
        assert chance(float(((counts - expected) ** 2 / expected).sum()), 32) > TINY
