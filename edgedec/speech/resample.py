"""Any sample rate to the 16 kHz that models hear, by a windowed sinc.

A low-pass filter under both rates' halves, evaluated where the new samples lie: of every `up`
outputs each has its own filter, so the work is one short product per output. Knows no file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RATE = 16_000
_CROSSINGS = 48
"""Zero crossings of the sinc on each side: 12 % of the band lie between passing and not."""

_PASS = 0.94
"""Of the lower rate's half, where the filter has fallen to a half; at 1 nothing is left."""

_WINDOW = (0.35875, 0.48829, 0.14128, 0.01168)
"""Blackman and Harris's four cosines, which take 92 dB off what must not pass."""

_ROWS = 512
"""Outputs computed at a time: what they read stays in the cache."""


def resample(samples: Floats, rate: int) -> Floats:
    """Samples [n] at `rate` per second as samples at 16 kHz, ceil(n * 16000 / rate) of them.

    What is at 16 kHz already comes back as it is.
    """
    if rate == RATE:
        return samples
    common = math.gcd(rate, RATE)
    up, down = RATE // common, rate // common
    cutoff = _PASS * min(1.0, up / down)
    reach = math.ceil(_CROSSINGS / cutoff)
    count = -(-len(samples) * up // down)
    padded = np.pad(samples, (reach, reach + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    result = np.empty(count, np.float32)
    for phase in range(min(up, count)):
        # Outputs phase, phase + up, ... lie equally far beyond an input, `down` inputs apart.
        first, beyond = divmod(phase * down, up)
        taps = _filter(beyond / up, cutoff, reach)
        mine, places = result[phase::up], windows[first::down]
        for begin in range(0, len(mine), _ROWS):
            rows = slice(begin, min(begin + _ROWS, len(mine)))
            mine[rows] = np.ascontiguousarray(places[rows]) @ taps
    return result


def _filter(beyond: float, cutoff: float, reach: int) -> Floats:
    """What the inputs from -reach to +reach weigh for an output `beyond` inputs after the first."""
    distance = np.arange(-reach, reach + 1) - beyond
    turn = np.pi * np.clip(distance * cutoff / _CROSSINGS, -1, 1)
    window = sum(share * np.cos(order * turn) for order, share in enumerate(_WINDOW))
    taps = np.sinc(cutoff * distance) * window
    # A constant stays the same constant, whatever the phase.
    result: Floats = (taps / taps.sum()).astype(np.float32)
    return result
