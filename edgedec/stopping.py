"""Stop strings in streamed text. Knows nothing about tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from edgedec.errors import UsageError


class StopStrings:
    """Finds the first of several strings in a text that arrives in pieces.

    The text is cut before the match that starts first. What may still become a match is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the strings to stop at; none is fine.

        Raises:
            UsageError: one of them is empty, or is no string.
        """
        if isinstance(stops, str):
            stops = [stops]
        # As objects: compiled code would refuse what is no text itself, with a TypeError.
        for stop in cast("Sequence[object]", stops):
            if not isinstance(stop, str) or not stop:
                raise UsageError(f"stop {stop!r} is not usable: give text of one character or more")
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    def push(self, piece: str) -> tuple[str, bool]:
        """Take the next piece; returns the text that may be shown, and whether to stop.

        After a stop nothing more is given.
        """
        if not self._stops:
            return piece, False
        if self._stopped:
            return "", True
        text = self._held + piece
        found = [place for place in map(text.find, self._stops) if place >= 0]
        first = min(found, default=len(text))
        safe = min(first, self._first_beginning(text))
        if found and safe == first:
            self._stopped = True
            self._held = ""
            return text[:first], True
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """The text held back, at the end of a text that did not stop.

        A match that waited for a longer one starting before it cuts here.
        """
        text, self._held = self._held, ""
        found = [place for place in map(text.find, self._stops) if place >= 0]
        self._stopped = self._stopped or bool(found)
        return text[: min(found, default=len(text))]

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stopped

    def _first_beginning(self, text: str) -> int:
        """Where the longest suffix of `text` starts that is a proper beginning of a stop."""
        longest = max(map(len, self._stops), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            tail = text[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return start
        return len(text)
