"""What a model of speech may write next: Whisper's rules (2212.04356) as processors.

They are pure like those of `edgedec.processors`: every node of a draft tree can hold a state of
its own. Ids that must never come, or not first, are masked before these rules see the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedec.processors import Stateless, log_total

Floats = NDArray[np.float32]
_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class Written:
    """What a window's output so far says about the next timestamp.

    `last` and `before` say whether the last token and the one before it are timestamps; `latest`
    is the last timestamp of all, None before the first.
    """

    count: int = 0
    last: bool = False
    before: bool = True
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Timestamps come first, in pairs between segments, and never go back.

    Ids from `first` on are timestamps, all ids below `end` (the end of the text) are words. The
    first one is at most `latest_first` steps in. Where all timestamps together are likelier than
    any single word, one of them has to come.
    """

    first: int
    end: int
    no_timestamps: int
    latest_first: int | None = None

    def start(self, prompt: Sequence[int]) -> Written:
        """Nothing is written yet; timestamps in the prompt belong to other windows."""
        return Written()

    def advance(self, state: Written, token: int, logits: Floats) -> Written:
        """The state with one more token."""
        timed = token >= self.first
        return Written(
            count=state.count + 1,
            last=timed,
            before=state.last or not state.count,
            latest=token if timed else state.latest,
        )

    def apply(self, state: Written, logits: Floats) -> Floats:
        """Mask what would break the rules."""
        masked = logits.copy()
        masked[self.no_timestamps] = _NEVER
        if state.last:
            # After the end of a segment comes the next one's beginning or the end of the text;
            # after that beginning, words.
            hidden = slice(self.first, None) if state.before else slice(None, self.end)
            masked[hidden] = _NEVER
        if state.latest is not None:
            # A segment may begin where the last one ended, but not end where it began.
            begins = state.last and not state.before
            masked[self.first : state.latest + (not begins)] = _NEVER
        if not state.count:
            masked[: self.first] = _NEVER
            if self.latest_first is not None:
                masked[self.first + self.latest_first + 1 :] = _NEVER
        if log_total(masked[self.first :]) > masked[: self.first].max():
            masked[: self.first] = _NEVER
        return masked


@dataclass(frozen=True, slots=True)
class OneOf(Stateless):
    """Only these ids: to ask which language is spoken."""

    ids: tuple[int, ...]

    def apply(self, state: None, logits: Floats) -> Floats:
        """Mask all others."""
        masked = np.full_like(logits, _NEVER)
        masked[list(self.ids)] = logits[list(self.ids)]
        return masked
