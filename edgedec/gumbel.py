"""Counter-based Gumbel noise: a pure function of (seed, output index, token id).

It has no state, so a token's noise is the same whatever else was drawn, in whatever order: a tree
of drafts, plain decoding and another device all see the same numbers. The definition is portable
to C, all in unsigned 64-bit arithmetic that wraps, M being the finaliser of SplitMix64:

    M(z)  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;
          z ^= z >> 31
    key   = M(M(seed + 0x9E3779B97F4A7C15) ^ (index * 0xD1342543DE82EF95))
    h     = M(key + (token + 1) * 0x9E3779B97F4A7C15)
    u     = ((h >> 11) | 1) / 2^53
    noise = -log(-log(u))                            (double precision)

For a fixed key the tokens' hashes are the stream of a SplitMix64 generator started at `key`. The
lowest of the 53 bits is set, so that u is exact and neither 0 nor 1: noise lies in [-3.7, 36.8].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_INDEX = 0xD1342543DE82EF95
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def gumbel(seed: int, index: int, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """Standard Gumbel noise for token ids (any shape, 0 or above) at one output index.

    `seed` and `index` are taken modulo 2^64.
    """
    return _gumbel(uniform(seed, index, tokens))


def _gumbel(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """From uniform numbers, in their place."""
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


def gumbel_rows(
    seed: int, indices: Sequence[int], tokens: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The noise of token ids [n, k] whose rows have output indices of their own."""
    keys = np.array([_key(seed, index) for index in indices], np.uint64)
    return _gumbel(_uniform(_hash(keys[:, None], tokens)))


def uniform(seed: int, index: int, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """The numbers between 0 and 1 that the noise is made of."""
    return _uniform(_hash(_key(seed, index), tokens))


def _key(seed: int, index: int) -> int:
    return _mix((_mix(seed + _GAMMA) ^ (index * _INDEX)) & _WORD)


def _mix(z: int) -> int:
    z &= _WORD
    z = ((z ^ (z >> 30)) * _FIRST) & _WORD
    z = ((z ^ (z >> 27)) * _SECOND) & _WORD
    return z ^ (z >> 31)


def _hash(key: int | NDArray[np.uint64], tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    z = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
    z += np.asarray(key, np.uint64)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return z


def _uniform(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    numbers = ((hashes >> np.uint64(11)) | np.uint64(1)).astype(np.float64)
    numbers *= 2.0**-53
    return numbers
