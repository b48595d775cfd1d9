"""Tokens to text as it is shown: chunk by chunk, without stop strings or broken characters.

Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable

from edgedec.detokenise import Detokenizer
from edgedec.generation import Chunk
from edgedec.stopping import StopStrings


class Writer:
    """Collects the text of one generation and hands out each piece as soon as it is certain."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopStrings,
        send: Callable[[Chunk], object] | None = None,
    ) -> None:
        self._detokenizer, self._stops, self._send = detokenizer, stops, send
        self._parts: list[str] = []
        self._length = 0
        self._waiting: list[int] = []

    @property
    def text(self) -> str:
        """All text handed out so far."""
        return "".join(self._parts)

    def push(self, token: int) -> bool:
        """Take the next token; returns whether a stop string ends the text here."""
        self._waiting.append(token)
        text, stopped = self._stops.push(self._detokenizer.push(token))
        if text:
            self._hand_out(text)
        return stopped

    def close(self) -> bool:
        """Hand out what was held back; returns whether a stop string ended the text.

        Half a character at the end is dropped.
        """
        text = self._stops.flush()
        if text or self._waiting:
            self._hand_out(text)
        return self._stops.stopped

    def _hand_out(self, text: str) -> None:
        tokens, offset = tuple(self._waiting), self._length
        self._parts.append(text)
        self._length += len(text)
        self._waiting.clear()
        if self._send is not None:
            self._send(Chunk(text, tokens, offset))
