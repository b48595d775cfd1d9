"""Subtitles and documents."""

from __future__ import annotations

import json

from edgedec.speech.transcript import Segment, Transcript, clock, srt, vtt

SEGMENTS = (
    Segment(0.0, 2.5, "Hello, you.", (1, 2)),
    Segment(3725.04, 3726.0, "a < b & c", (3,)),
)


def test_srt() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello, you.\n"
        "\n2\n01:02:05,040 --> 01:02:06,000\na < b & c\n"
    )


def test_vtt() -> None:
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello, you.\n"
        "\n01:02:05.040 --> 01:02:06.000\na &lt; b &amp; c\n"
    )


def test_nothing_said() -> None:
    assert srt(()) == ""
    assert vtt(()) == "WEBVTT\n"


def test_times_as_they_are_read() -> None:
    assert [clock(t) for t in (0, 75.25, 59.996, 3600)] == [
        "00:00.00", "01:15.25", "01:00.00", "01:00:00.00",
    ]  # fmt: skip


def test_the_document() -> None:
    found = Transcript("Hello", SEGMENTS, "en", "transcribe", 3.0, "stop")
    document = json.loads(json.dumps(found.to_json()))
    assert list(document) == [
        "schema", "text", "segments", "language", "task", "audio_seconds", "finish_reason",
    ]  # fmt: skip
    assert document["segments"][0] == {
        "start": 0.0, "end": 2.5, "text": "Hello, you.", "tokens": [1, 2],
    }  # fmt: skip
