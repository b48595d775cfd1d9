"""Steps as the loop makes them, timed: sessions with some past, and trees below their last token.

Knows what a step is, not how many are worth making.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import TRUNK, Capabilities, Engine, Rows, Session, Want
from edgedec.profiler import sources

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Ints

Clock = Callable[[], float]
Tell = Callable[[float], None]
"""Told the share that is done, 0 to 1."""

CHUNK = 32
"""Rows of a prompt in one step: small, so that a slow device is not held up for long."""

PREFILL_SHARE = 0.3
"""The share of the time that may go into making pasts."""

LEVELS = 8
"""Positions that must be free behind a past: trees of up to 255 rows have no more levels."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A clock and the time at which to stop. Times are the clock's, in seconds."""

    clock: Clock
    started: float
    seconds: float

    def left(self) -> float:
        """Seconds until the end, below 0 after it."""
        return self.started + self.seconds - self.clock()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started


class Place:
    """A session with so much past; times steps there and drops their rows."""

    def __init__(self, session: Session, past: int, vocab: int, clock: Clock) -> None:
        self.past, self.source = past, session.source_rows
        self._session, self._vocab, self._clock = session, vocab, clock
        self._trees: dict[int, Rows] = {}

    def seconds(self, count: int, *, heads: bool) -> float:
        """Seconds of one step of `count` rows: with the logits of all of them, or of the layers."""
        if count not in self._trees:
            self._trees[count] = tree(count, self._vocab)
        rows, want = self._trees[count], Want(logits=tuple(range(count)) if heads else ())
        started = self._clock()
        result = self._session.step(rows, want=want)
        if heads:
            result.argmax()
        ended = self._clock()
        self._session.keep([TRUNK])
        return ended - started


def tree(count: int, vocab: int) -> Rows:
    """The last token and count - 1 drafts below it, two below each: the past is all they share."""
    parents = np.array([TRUNK, *((row - 1) // 2 for row in range(1, count))], np.int32)
    return Rows(_ids(count, vocab), parents)


def widths(wanted: Sequence[int], capabilities: Capabilities, room: int) -> tuple[int, ...]:
    """The numbers of rows to measure: those wanted, or the ones that a static graph has.

    A tree of n rows needs as many free positions as it has levels; `room` is how many there are.
    """
    most = capabilities.max_rows
    if capabilities.row_widths:
        usual = sorted(width for width in capabilities.row_widths if width <= max(wanted))
        wanted, most = usual or [min(capabilities.row_widths)], max(capabilities.row_widths)
    return tuple(n for n in wanted if n <= most and n.bit_length() <= room) or (wanted[0],)


def climb(
    engine: Engine, model: Architecture, pasts: Sequence[int], watch: Watch, tell: Tell
) -> list[Place]:
    """Places with the wanted lengths of past, as far as context and time allow; at least one.

    Where the first cannot be reached in time, there is one with as much past as could be made.
    """
    prompt = _Prompt(engine, model, watch)
    fitting = [past for past in pasts if past + LEVELS <= model.limits.context]
    goals = fitting or [model.limits.context // 2]
    found: list[Place] = []
    for goal in goals:
        reached = prompt.grow(goal, tell=lambda length: tell(length / goals[-1]))
        if reached or not found:
            found.append(Place(prompt.fork(), prompt.length, model.vocab, watch.clock))
        if not reached:
            break
    return found


class _Prompt:
    """A session whose past grows while there is time for it."""

    def __init__(self, engine: Engine, model: Architecture, watch: Watch) -> None:
        self.length = 0
        self._session, self._vocab, self._watch = engine.session(), model.vocab, watch
        if model.encoder is not None:
            self._session.encode(sources.usual(model))
        self._widths = engine.capabilities.row_widths
        self._stop_at = watch.left() * (1 - PREFILL_SHARE)
        self._row_seconds: float | None = None
        # A first step may read weights from the disk: its time is only a bound.
        narrowest = min(self._widths or (1,))
        place = Place(self._session, 0, self._vocab, watch.clock)
        row = place.seconds(narrowest, heads=False) / narrowest
        affordable = int((watch.left() - self._stop_at) / max(row, 1e-9))
        widest = max(self._widths) if self._widths else engine.capabilities.max_rows
        self._chunk = max(1, min(CHUNK, widest, affordable))

    def grow(self, goal: int, tell: Callable[[int], None]) -> bool:
        """Whether the past could be made so long in time; the first chunk is made in any case."""
        while self.length < goal:
            if self._row_seconds is not None:
                needed = (goal - self.length) * self._row_seconds
                if self._watch.left() - needed < self._stop_at:
                    return False
            self._extend(min(self._chunk, goal - self.length))
            tell(self.length)
        return True

    def _extend(self, count: int) -> None:
        """A chain below the trunk; what fills up a static width hangs beside it."""
        width = min(w for w in self._widths if w >= count) if self._widths else count
        parents = [TRUNK, *range(count - 1), *[TRUNK] * (width - count)]
        rows = Rows(_ids(width, self._vocab), np.array(parents, np.int32))
        started = self._watch.clock()
        result = self._session.step(rows, want=Want(logits=()))
        self._session.keep([result.handles[count - 1]])
        self._row_seconds = (self._watch.clock() - started) / count
        self.length += count

    def fork(self) -> Session:
        """A session with the past so far."""
        return self._session.fork()


def _ids(count: int, vocab: int) -> Ints:
    """Some ids, far apart as those of a text are."""
    return ((np.arange(count, dtype=np.int64) * 7919 + 31) % vocab).astype(np.int32)
