"""Resampling against tones whose samples are known at every rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedec.speech.resample import RATE, resample

RATES = (8_000, 11_025, 22_050, 44_100, 48_000, 96_000)


def tone(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    return np.sin(2 * np.pi * frequency * times + 0.4).astype(np.float32)


def test_what_is_at_16_khz_stays_as_it_is() -> None:
    samples = tone(440, RATE)
    assert resample(samples, RATE) is samples


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_that_tone(rate: int) -> None:
    for frequency in (60, 1000, 0.42 * min(rate, RATE)):
        found = resample(tone(frequency, rate), rate)
        expected = tone(frequency, RATE)
        inside = slice(400, min(len(found), len(expected)) - 400)
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_what_16_khz_cannot_hold_is_taken_off(rate: int) -> None:
    for frequency in (8_200, 10_900):
        found = resample(tone(frequency, rate), rate)
        assert np.abs(found[400:-400]).max() < 1e-4


@pytest.mark.parametrize("rate", [*RATES, 44_101])
@pytest.mark.parametrize("count", [1, 2, 700])
def test_its_length(rate: int, count: int) -> None:
    found = resample(np.ones(count, np.float32), rate)
    assert len(found) == math.ceil(count * RATE / rate)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_it_is_a_weighted_sum_of_what_is_near() -> None:
    """Linear, and the same in parts as at once."""
    random = np.random.RandomState(0)
    one, other = random.randn(2, 30_000).astype(np.float32)
    both = resample(one + other, 48_000)
    np.testing.assert_allclose(both, resample(one, 48_000) + resample(other, 48_000), atol=1e-5)
    late = resample(np.concatenate([np.zeros(3 * 700, np.float32), one]), 48_000)
    np.testing.assert_allclose(late[700:], resample(one, 48_000), atol=1e-6)
