"""Log-mel features, as Whisper (2212.04356) was trained on them.

Frames of 25 ms every 10 ms under a Hann window, their power in bands of the mel scale, the
logarithm, and all that is 80 dB below the loudest raised to that. Knows no model.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgedec.speech.resample import RATE

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

HOP, WINDOW = 160, 400
FLOOR = 1e-10
_FRAMES = 1000
"""Frames transformed at a time."""


def features(samples: Floats, mels: int, least: int) -> Floats:
    """Log-mel frames [n, mels] of samples at 16 kHz, about -1 to 1.5.

    Sound of fewer than `least` frames is filled up with silence; of longer sound every frame is
    computed, and the loudest of all is what the others are measured by.
    """
    missing = least * HOP - len(samples)
    padded = np.pad(samples, (0, missing)) if missing > 0 else samples
    around = np.pad(padded, WINDOW // 2, mode="reflect")
    # One frame more than hops would fit; it is the one that training left out.
    windows = np.lib.stride_tricks.sliding_window_view(around, WINDOW)[::HOP][: len(padded) // HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    bands = filters(mels)
    found = np.empty((len(windows), mels), np.float32)
    for first in range(0, len(windows), _FRAMES):
        part = np.fft.rfft(windows[first : first + _FRAMES] * hann)
        power = np.square(part.real) + np.square(part.imag)
        found[first : first + _FRAMES] = np.log10(np.maximum(power @ bands, FLOOR))
    result: Floats = (np.maximum(found, found.max() - np.float32(8)) + np.float32(4)) / np.float32(
        4
    )
    return result


@lru_cache(maxsize=2)
def filters(mels: int) -> Doubles:
    """The share of each frequency of the transform in each band [WINDOW / 2 + 1, mels].

    Triangles of equal area on Slaney's mel scale from 0 to 8 kHz.
    """
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    edges = _hertz(np.linspace(0, _mel(RATE / 2), mels + 2))
    widths = np.diff(edges)
    distance = frequencies[:, None] - edges
    rising, falling = distance[:, :-2] / widths[:-1], -distance[:, 2:] / widths[1:]
    bands: Doubles = np.clip(np.minimum(rising, falling), 0, None) * 2 / (edges[2:] - edges[:-2])
    bands.flags.writeable = False
    return bands


_LINEAR = 200 / 3
"""Hertz per mel below 1 kHz; above, a mel is a factor."""

_KNEE, _FACTOR = 1000 / _LINEAR, np.log(6.4) / 27


def _mel(hertz: float) -> float:
    """Of a frequency above 1 kHz."""
    return float(_KNEE + np.log(hertz / 1000) / _FACTOR)


def _hertz(mel: Doubles) -> Doubles:
    return np.where(mel < _KNEE, mel * _LINEAR, 1000 * np.exp((mel - _KNEE) * _FACTOR))
