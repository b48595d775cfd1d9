"""Whole transcriptions of random models against those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec.manifest import Decoding
from edgedec.speech import mel
from edgedec.speech.resample import RATE
from edgedec.speech.transcribe import Request, Voice, transcribe
from edgedec.speech.transcript import Transcript
from edgedec.speech.wav import Sound

from .hearing import DECODING, FIRST, GENERATION, MOONSHINE, SPEECH, WHISPER, Reference, Words
from .hearing import random_model as make

pytestmark = pytest.mark.full


def sound(seconds: float, seed: int) -> np.ndarray:
    """Noise that comes and goes, so that windows differ."""
    random = np.random.RandomState(seed)
    count = int(seconds * RATE)
    loud = np.repeat(random.rand(count // 800 + 1), 800)[:count]
    return (0.3 * loud * random.randn(count)).astype(np.float32)


def whisper_model(folder: Path, seed: int) -> Any:
    model = make(WHISPER, seed)
    for name, value in GENERATION.items():
        setattr(model.generation_config, name, value)
    model.generation_config.max_length = WHISPER["max_target_positions"]
    model.save_pretrained(folder)
    return model


def ours(folder: Path, samples: np.ndarray, **asked: Any) -> Transcript:
    ear = Reference(folder, WHISPER, DECODING)
    known = Voice(ear.architecture, Words(), SPEECH)  # type: ignore[arg-type]
    return transcribe(ear, known, Sound(samples, RATE), Request(**asked))


def theirs(model: Any, samples: np.ndarray, **asked: Any) -> dict[str, Any]:
    import torch

    features = mel.features(samples, WHISPER["num_mel_bins"], 2 * WHISPER["max_source_positions"])
    found = model.generate(
        torch.tensor(features.T[None]), return_segments=True, task="transcribe", **asked
    )
    return dict(found)


def check(found: Transcript, model: dict[str, Any]) -> None:
    seconds = found.audio_seconds
    segments = model["segments"][0]
    assert [list(each.tokens) for each in found.segments] == [
        each["tokens"].tolist() for each in segments
    ]
    for mine, other in zip(found.segments, segments, strict=True):
        for time, name in ((mine.start, "start"), (mine.end, "end")):
            assert time == pytest.approx(min(float(other[name]), seconds), abs=0.006)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("language", ["de", None])
def test_short_sound_without_timestamps(seed: int, language: str | None, tmp_path: Path) -> None:
    model, samples = whisper_model(tmp_path, seed), sound(2.0, seed)
    found = ours(tmp_path, samples, language=language)
    check(found, theirs(model, samples, language=language, return_timestamps=False))
    assert found.language in SPEECH.languages
    assert not any(token >= FIRST for each in found.segments for token in each.tokens)


@pytest.mark.parametrize("seed", range(2))
def test_short_sound_with_timestamps(seed: int, tmp_path: Path) -> None:
    model, samples = whisper_model(tmp_path, seed), sound(2.0, seed)
    found = ours(tmp_path, samples, language="en", timestamps=True)
    check(found, theirs(model, samples, language="en", return_timestamps=True))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("condition", [False, True])
def test_long_sound(seed: int, condition: bool, tmp_path: Path) -> None:
    model, samples = whisper_model(tmp_path, seed), sound(4.7, seed)
    found = ours(tmp_path, samples, language=None, condition=condition)
    check(found, theirs(model, samples, language=None, condition_on_prev_tokens=condition))
    assert len(found.segments) > 1


@pytest.mark.parametrize("seed", range(2))
def test_moonshine(seed: int, tmp_path: Path) -> None:
    import torch

    model, samples = make(MOONSHINE, seed), sound(2.3, seed)
    model.save_pretrained(tmp_path)
    ear = Reference(tmp_path, MOONSHINE, Decoding())
    known = Voice(ear.architecture, Words(), None)  # type: ignore[arg-type]
    found = transcribe(ear, known, Sound(samples, RATE))
    model.generation_config.max_length = int(len(samples) * 6.5 / RATE)
    other = model.generate(torch.tensor(samples)[None])[0].tolist()[1:]
    assert list(found.segments[0].tokens) == [token for token in other if token != 2]
    assert (found.segments[0].start, found.segments[0].end) == (0, 2.3)
