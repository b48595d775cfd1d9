"""Log-mel features against stored ones of transformers, and against it live.

    python tests/speech/test_mel.py

writes `mel.npz` anew (needs transformers).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedec.speech.mel import features, filters
from edgedec.speech.resample import RATE

STORED = Path(__file__).with_name("mel.npz")
KEPT = [0, 1, 2, 37, 98, 99, 100, 101, 199, 2999]
"""Frames that are stored: edges of the sound, its middle, and silence."""


def sounds() -> dict[str, np.ndarray]:
    random, times = np.random.RandomState(0), np.arange(RATE) / RATE
    found = {
        "noise": 0.1 * random.randn(RATE),
        "tone": np.sin(2 * np.pi * 440 * times),
        "sweep": 0.5 * np.sin(2 * np.pi * (50 + 3000 * times) * times),
        "loud and quiet": np.sin(2 * np.pi * 1000 * times) + 1e-4 * random.randn(RATE),
        "click": np.eye(1, RATE, 800)[0],
        "silence": np.zeros(999),
    }
    return {name: samples.astype(np.float32) for name, samples in found.items()}


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("name", sounds())
def test_stored_features(name: str, mels: int) -> None:
    found = features(sounds()[name], mels, 3000)
    assert found.shape == (3000, mels)
    assert found.dtype == np.float32
    with np.load(STORED) as stored:
        np.testing.assert_allclose(found[KEPT], stored[f"{name} {mels}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("samples", "least", "frames"),
    [(1, 1, 1), (16_000, 1, 100), (16_159, 1, 100), (16_160, 1, 101), (16_160, 300, 300)],
)
def test_how_many_frames(samples: int, least: int, frames: int) -> None:
    assert len(features(np.ones(samples, np.float32), 20, least)) == frames


def test_frames_in_parts_are_frames_at_once() -> None:
    """A frame depends on its own samples, and on the loudest frame."""
    random = np.random.RandomState(1)
    samples = (0.1 * random.randn(RATE * 13)).astype(np.float32)
    whole = features(samples, 40, 1)
    part = features(samples[160 * 1000 :], 40, 1)
    np.testing.assert_allclose(whole[1002:1298], part[2:298], atol=1e-6)


def test_bands_cover_the_frequencies_once() -> None:
    bands = filters(80)
    assert bands.shape == (201, 80)
    assert (bands >= 0).all()
    # Each is one hump, and the humps follow each other.
    peaks = bands.argmax(0)
    assert (np.diff(peaks) >= 0).all()
    # All have the same area, 1 over the frequencies.
    wide = filters(20).sum(0) * RATE / 400
    np.testing.assert_allclose(wide, 1, atol=0.1)


def extract(samples: np.ndarray, mels: int, **options: object) -> np.ndarray:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=mels)
    given = extractor(samples, sampling_rate=RATE, return_tensors="np", **options)
    return np.ascontiguousarray(given.input_features[0].T, np.float32)


@pytest.mark.full
@pytest.mark.parametrize("mels", [80, 128])
def test_live_features(mels: int) -> None:
    for samples in sounds().values():
        theirs = extract(samples, mels)
        np.testing.assert_allclose(features(samples, mels, 3000), theirs, atol=1e-4, rtol=0)
    long = (0.1 * np.random.RandomState(2).randn(RATE * 33 + 77)).astype(np.float32)
    theirs = extract(long, mels, truncation=False, padding="longest")
    np.testing.assert_allclose(features(long, mels, 3000), theirs, atol=1e-4, rtol=0)


if __name__ == "__main__":
    arrays = {
        f"{name} {mels}": extract(samples, mels)[KEPT]
        for name, samples in sounds().items()
        for mels in (80, 128)
    }
    np.savez_compressed(STORED, **arrays)
