"""The exact gelu and the error function behind it, which numpy lacks. Knows no model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SERIES = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x * Phi(x), with the normal distribution's Phi (1606.08415); of any shape."""
    return (0.5 * x * (1 + erf(x / np.sqrt(2.0)))).astype(np.float32)


def erf(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x, dtype=np.float64))
    total = t * np.polynomial.polynomial.polyval(t, _SERIES)
    result: NDArray[np.float64] = np.sign(x) * (1 - total * np.exp(-np.square(x, dtype=np.float64)))
    return result
