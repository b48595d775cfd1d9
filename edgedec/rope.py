"""Rotary positions (2104.09864) as numbers: frequencies and the cos and sin of positions.

Knows the spec's `Rope` and nothing about models, tensors or runtimes. Everything that rotates
reads its angles from here, so that all forms of a model agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)
from edgedec.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Floats = NDArray[np.float32]


def rotated(rope: Rope, head_dim: int) -> int:
    """How many dimensions of a head are turned; the rest pass through.

    Raises:
        UnsupportedError: the number is odd or zero, so that it does not make pairs.
    """
    count = int(head_dim * rope.fraction)
    if count < 2 or count % 2:
        raise UnsupportedError(
            f"rotary positions over {count} of {head_dim} dimensions: an even number is needed"
        )
    return count


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[Doubles, float]:
    """Radians per position for each pair [rotated / 2], and the magnitude of cos and sin."""
    count = rotated(rope, head_dim)
    plain = rope.theta ** -(np.arange(0, count, 2, dtype=np.float64) / count)
    match rope.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor=factor):
            return plain / factor, 1.0
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling), 1.0
        case YarnScaling() as scaling:
            return _yarn(plain, scaling, rope.theta), scaling.magnitude
        case LongRopeScaling(factors=factors, magnitude=magnitude):
            return _longrope(plain, factors), magnitude


def cos_sin(
    rope: Rope, head_dim: int, positions: Sequence[int] | NDArray[np.integer]
) -> tuple[Floats, Floats]:
    """Cos and sin of every position and pair, each [n, rotated / 2], magnitude folded in."""
    frequencies, magnitude = inverse_frequencies(rope, head_dim)
    angles = np.outer(np.asarray(positions, dtype=np.float64), frequencies)
    cos, sin = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    return cos.astype(np.float32), sin.astype(np.float32)


def _llama3(plain: Doubles, scaling: Llama3Scaling) -> Doubles:
    turns = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(plain: Doubles, scaling: YarnScaling, theta: float) -> Doubles:
    count = 2 * len(plain)

    def dimension_turning(times: float) -> float:
        wavelength = scaling.original_context / (times * 2 * math.pi)
        return count * math.log(wavelength) / (2 * math.log(theta))

    low, high = dimension_turning(scaling.beta_fast), dimension_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, count - 1)
    # transformers' guard against a ramp of no width
    width = high - low or 0.001
    divided = np.clip((np.arange(len(plain)) - low) / width, 0, 1)
    mixed: Doubles = divided * plain / scaling.factor + (1 - divided) * plain
    return mixed


def _longrope(plain: Doubles, factors: Sequence[float]) -> Doubles:
    if len(factors) != len(plain):
        raise UnsupportedError(
            f"longrope has {len(factors)} factors for {len(plain)} frequencies: they must be equal"
        )
    return plain / np.asarray(factors, dtype=np.float64)
