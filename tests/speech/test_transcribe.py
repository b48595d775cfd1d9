"""Whole transcriptions over a scripted ear: prompts, windows, what is told and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.generation import Cancel
from edgedec.manifest import Speech
from edgedec.models import describe, mu
from edgedec.speech import mel
from edgedec.speech.resample import RATE
from edgedec.speech.rules import OneOf, Timestamps
from edgedec.speech.transcribe import Listeners, Request, Voice, heard, transcribe
from edgedec.speech.transcript import Segment, Transcript
from edgedec.speech.wav import Sound

from .hearing import END, FIRST, MOONSHINE, NO_TIMES, SPEECH, START, Scripted, Words, voice

EN, DE, TASK = 52, 53, 56


def at(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


def noise(seconds: float, seed: int = 0) -> Sound:
    count = round(seconds * RATE)
    return Sound((0.1 * np.random.RandomState(seed).randn(count)).astype(np.float32), RATE)


def told(ear: Scripted, known: Voice, sound: Sound, **asked: Any) -> tuple[Transcript, list[Any]]:
    """The transcript, and everything that listeners heard, in order."""
    events: list[Any] = []
    listeners = Listeners(
        text=events.append,
        segment=events.append,
        progress=lambda done, total: events.append((round(done, 3), total)),
    )
    return transcribe(ear, known, sound, Request(**asked), listeners), events


def test_a_short_sound() -> None:
    ear = Scripted([[1, 2, 3]])
    found, events = told(ear, voice(), noise(1.5), language="en")
    assert found == Transcript(
        text="w1 w2 w3",
        segments=(Segment(0.0, 1.5, "w1 w2 w3", (1, 2, 3)),),
        language="en",
        task="transcribe",
        audio_seconds=1.5,
        finish_reason="stop",
    )
    assert ear.prompts == [[START, EN, TASK, NO_TIMES]]
    assert ear.rules == [[]]
    assert events == [(0, 1.5), "w1", " w2", " w3", found.segments[0], (1.5, 1.5)]
    assert ear.closed == 1


def test_it_hears_what_the_model_was_trained_on() -> None:
    ear, sound = Scripted([[1]]), noise(1.5)
    told(ear, voice(), sound, language="en")
    np.testing.assert_array_equal(ear.heard[0], mel.features(sound.samples, 20, 200))


def test_the_language_is_heard_once() -> None:
    ear = Scripted([[DE], [1], [2]])
    found, _ = told(ear, voice(), noise(3), timestamps=False)
    assert found.language == "de"
    assert ear.prompts == [[START], *[[START, DE, TASK, NO_TIMES]] * 2]
    assert ear.rules[0] == [OneOf((52, 53, 54))]
    assert ear.limits[0] == 1
    assert len(ear.heard) == 2


def test_translation() -> None:
    ear = Scripted([[1]])
    assert told(ear, voice(), noise(1), language="fr", task="translate")[0].task == "translate"
    assert ear.prompts == [[START, 54, 55, NO_TIMES]]


def test_long_sound_goes_on_at_the_last_timestamp() -> None:
    lines = [[at(0), 1, at(0.8), at(0.9), 2, at(1.6), at(1.6), 3], [at(0), 4, at(1)]]
    ear, sound = Scripted(lines), noise(3)
    found, events = told(ear, voice(), sound, language="en")
    assert ear.prompts == [[START, EN, TASK]] * 2
    assert ear.rules[0] == [Timestamps(FIRST, END, NO_TIMES, 50)]
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (0, 0.8, "w1"), (0.9, 1.6, "w2"), (1.6, 2.6, "w4"),
    ]  # fmt: skip
    assert found.text == "w1 w2 w4"
    whole = mel.features(sound.samples, 20, 200)
    np.testing.assert_array_equal(ear.heard[0], whole[:200])
    np.testing.assert_array_equal(ear.heard[1][:140], whole[160:])
    assert not ear.heard[1][140:].any()
    # Words are told when they are certain, progress before each window.
    assert [each for each in events if not isinstance(each, Segment)] == [
        (0, 3), "w1", " w2", (1.6, 3), " w4", (3, 3),
    ]  # fmt: skip


def test_short_sound_with_timestamps_ends_where_the_sound_does() -> None:
    """The silence that fills a window up is not transcribed by itself."""
    ear = Scripted([[at(0), 1, at(1), at(1)], [at(0), 2, at(0.1)]])
    found, _ = told(ear, voice(), noise(1.2), language="en", timestamps=True)
    assert [(s.start, s.end) for s in found.segments] == [(0, 1), (1, 1.1)]
    assert len(ear.heard) == 2
    assert len(ear.heard[1]) == 200


def test_a_timestamp_beyond_the_end_is_the_end() -> None:
    ear = Scripted([[at(0), 1, at(1.9)]])
    found, _ = told(ear, voice(), noise(1.2), language="en", timestamps=True)
    assert found.segments[0].end == 1.2


def test_windows_may_know_what_was_said() -> None:
    lines = [[at(0), 1, at(1), at(1)], [at(0), 2, at(2)], [3]]
    ear = Scripted(lines)
    told(ear, voice(), noise(4), language="en", condition=True)
    assert ear.prompts[1] == [58, at(0), 1, at(1), START, EN, TASK]
    assert ear.prompts[2] == [58, at(0), 1, at(1), at(0), 2, at(2), START, EN, TASK]


def test_no_more_of_it_than_half_the_context() -> None:
    ear = Scripted([list(range(1, 31)), [2]])
    told(ear, voice(), noise(3), language="en", timestamps=False, condition=True)
    assert ear.prompts[1] == [58, *range(12, 31), START, EN, TASK, NO_TIMES]


def test_a_model_of_one_language() -> None:
    only = Speech(no_timestamps=NO_TIMES, first_timestamp=FIRST)
    ear = Scripted([[1]])
    found, _ = told(ear, voice(speech=only), noise(1))
    assert ear.prompts == [[START, NO_TIMES]]
    assert found.language is None


@pytest.mark.parametrize("seconds", [2.3, 2.9])
def test_a_waveform(seconds: float) -> None:
    ear, sound = Scripted([[1, 2]]), noise(seconds)
    known = voice(MOONSHINE, None)
    found, _ = told(ear, known, sound)
    # 6.5 tokens a second at most, of which the first is the one it begins with.
    assert ear.limits == [int(seconds * 6.5) - 1]
    assert ear.prompts[0] == [known.architecture.tokens.decoder_start]
    assert np.array_equal(ear.heard[0], sound.samples[:, None])
    assert found.text == "w1 w2"


def test_a_long_waveform_is_cut_where_it_is_quiet() -> None:
    sound = noise(6)
    quiet = slice(round(2.6 * RATE), round(2.8 * RATE))
    sound.samples[quiet] = 0
    ear = Scripted([[1], [2], [3]])
    known = voice(MOONSHINE, None)
    found, _ = told(ear, known, sound)
    assert np.array_equal(np.concatenate(ear.heard)[:, 0], sound.samples)
    assert 2.6 < found.segments[0].end < 2.8
    assert found.segments[1].start == found.segments[0].end
    assert all(limit < known.architecture.limits.context for limit in ear.limits)
    assert found.text == "w1 w2 w3"


def test_other_rates_are_converted() -> None:
    ear = Scripted([[1]])
    found, _ = told(ear, voice(), Sound(np.ones(44_100, np.float32), 44_100), language="en")
    assert found.audio_seconds == 1


def test_cancelling_gives_what_there_is() -> None:
    cancel, ear = Cancel(), Scripted([[1, 2, 3], [4]])
    pieces: list[str] = []

    def hear(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            cancel.set()

    asked = Request(language="en", timestamps=False)
    found = transcribe(ear, voice(), noise(3), asked, Listeners(text=hear, cancel=cancel))
    assert found.text == "w1 w2"
    assert found.finish_reason == "cancelled"
    assert [each.tokens for each in found.segments] == [(1, 2)]
    assert ear.closed == 1


@pytest.mark.parametrize(
    ("speech", "asked", "kind", "says"),
    [
        (SPEECH, {"language": "xx"}, UsageError, "the model knows: de, en, fr"),
        (SPEECH, {"task": "sing"}, UsageError, "the model knows: transcribe, translate"),
        (None, {"language": "en"}, UnsupportedError, "one language only"),
        (None, {"task": "translate"}, UnsupportedError, "it transcribes only"),
        (None, {"timestamps": True}, UnsupportedError, "no timestamps"),
    ],
)
def test_what_a_model_cannot_do(
    speech: Speech | None, asked: dict[str, Any], kind: type[Exception], says: str
) -> None:
    ear = Scripted([])
    with pytest.raises(kind, match=says):
        told(ear, voice(speech=speech), noise(1), **asked)
    assert not ear.heard


def test_a_model_that_reads() -> None:
    architecture, _ = describe(mu.TINY)
    known = Voice(architecture, Words())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="it does not hear"):
        told(Scripted([]), known, noise(1), language="en")


def test_too_little_sound() -> None:
    with pytest.raises(InputError, match="length is zero"):
        told(Scripted([]), voice(), Sound(np.zeros(0, np.float32), RATE))
    with pytest.raises(InputError, match=r"0.050 s long: too short"):
        told(Scripted([]), voice(MOONSHINE, None), noise(0.05))
    ear = Scripted([[1]])
    assert told(ear, voice(), Sound(np.zeros(1, np.float32), RATE), language="en")[0].text == "w1"


def test_a_bundle_that_does_not_say_how_to_begin() -> None:
    known = voice()
    tokens = replace(known.architecture.tokens, decoder_start=None)
    known = Voice(replace(known.architecture, tokens=tokens), known.text, SPEECH)
    with pytest.raises(UnsupportedError, match="export the model again"):
        told(Scripted([]), known, noise(1), language="en")


def test_what_counts_as_sound() -> None:
    samples = np.array([0.5, -0.5])
    assert heard(samples).samples.dtype == np.float32
    assert heard(samples).rate == RATE
    for wrong in (np.zeros((2, 2)), np.zeros(3, np.int16)):
        with pytest.raises(UsageError, match="must be samples"):
            heard(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no numbers"):
        heard(np.array([np.nan]))
