"""What a transcription gives: timed segments, and the forms in which others read them.

Knows nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said from `start` to `end`, seconds into the sound; `tokens` with timestamps."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A finished transcription; the fields are the keys of the JSON document.

    `language` is the one that was given or heard, None where the model knows one only. Without
    timestamps there is one segment a window.
    """

    text: str
    segments: tuple[Segment, ...]
    language: str | None
    task: str
    audio_seconds: float
    finish_reason: Literal["stop", "cancelled"]

    def to_json(self) -> dict[str, Any]:
        """The document that `edgedec transcribe --json` prints for a file."""
        return {"schema": SCHEMA, **asdict(self)}


def srt(segments: Sequence[Segment]) -> str:
    """Subtitles in SubRip's form."""
    blocks = (
        f"{number}\n{_time(each.start, ',')} --> {_time(each.end, ',')}\n{each.text}\n"
        for number, each in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """Subtitles in WebVTT's form; what would read as markup is written as text."""
    blocks = (
        f"\n{_time(each.start, '.')} --> {_time(each.end, '.')}\n{_plain(each.text)}\n"
        for each in segments
    )
    return "WEBVTT\n" + "".join(blocks)


def clock(seconds: float) -> str:
    """A time as it is read: 75.25 is 01:15.25, with hours where there are some."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    shown = f"{minutes:02}:{rest // 100:02}.{rest % 100:02}"
    return f"{hours:02}:{shown}" if hours else shown


def _time(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{rest:03}"


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
