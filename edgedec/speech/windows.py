"""Long sound as a row of windows: where each begins, and what its tokens say about time.

Pure arithmetic on frames (or samples) and ids; knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """A part of what was said: from and to (seconds into the sound), and its ids."""

    start: float
    end: float
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """How ids stand for time: those from `first` on are `step` seconds apart.

    `rate` are the frames of sound in a second. `first` None: no id does.
    """

    rate: float
    first: int | None
    step: float = 0.02

    def timed(self, token: int) -> bool:
        """Whether an id stands for a time."""
        return self.first is not None and token >= self.first


def cut(tokens: Sequence[int], clock: Clock, begin: int, frames: int) -> tuple[list[Span], int]:
    """What was said in a window, and how many frames on the next one begins.

    The window has `frames` frames from `begin` on. Where the tokens hold two timestamps in a row,
    everything up to the last such pair is certain and the next window begins at it: what stands
    after it is said again there. Where a single timestamp ends the tokens, or there is no pair,
    the window is done.
    """
    timed = [clock.timed(token) for token in tokens]
    offset = begin / clock.rate
    pairs = [i + 1 for i in range(len(timed) - 1) if timed[i] and timed[i + 1]]
    if not pairs:
        return _whole(tokens, clock, offset, frames / clock.rate), frames
    single = timed[-1] and not timed[-2]
    if single:
        pairs.append(len(tokens))
    spans, last = [], 0
    for place in pairs:
        start, end = (offset + _seconds(tokens[i], clock) for i in (last, place - 1))
        # The last pair stays together, so that it can be told from a single timestamp.
        beyond = place + (place == pairs[-1] and not single)
        spans.append(Span(start, end, tuple(tokens[last:beyond])))
        last = place
    if single:
        return spans, frames
    reached = round(_seconds(tokens[last - 1], clock) * clock.rate)
    # No sound may be heard forever, whatever a model writes.
    return spans, reached if reached > 0 else frames


def _whole(tokens: Sequence[int], clock: Clock, offset: float, length: float) -> list[Span]:
    """One span, to its last timestamp if it has one that is no 0, or to the window's end."""
    if not tokens:
        return []
    end = length if clock.first is None else int(round(length / clock.step, 6)) * clock.step
    times = [_seconds(token, clock) for token in tokens if clock.timed(token)]
    if times and times[-1] > 0:
        end = times[-1]
    return [Span(offset, offset + end, tuple(tokens))]


def _seconds(token: int, clock: Clock) -> float:
    """The time in its window that an id stands for; a word stands for its beginning."""
    if clock.first is None or not clock.timed(token):
        return 0.0
    return (token - clock.first) * clock.step


def quietest(samples: NDArray[np.float32], least: int, most: int, rate: int) -> int:
    """Where to cut sound that is longer than a window: the quietest tenth of a second.

    Looked for between `least` and `most` samples; all of it if there are no more than `most`.
    """
    if len(samples) <= most:
        return len(samples)
    width = rate // 10
    power = np.concatenate([[0.0], np.cumsum(np.square(samples[least:most], dtype=np.float64))])
    if len(power) <= width:
        return most
    return least + int(np.argmin(power[width:] - power[:-width])) + width // 2
