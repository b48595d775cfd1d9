"""The parts of T, measured on an engine: how long layers and head take, by rows and by past.

Numbers of rows and lengths of past take turns, in another order each round, so that a machine that
drifts slows all of them alike, and each step finds caches as another step left them. Between rounds
a single row, the anchor, is timed again; rounds between which it was slow do not count. What counts
gives medians. The clock is a parameter; nothing here knows a runtime.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from edgedec.costs import Costs
from edgedec.profiler.steps import Clock, Place, Watch, climb, widths

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Engine

Progress = Callable[[str, float], None]
"""Told a stage (`past` or `steps`) and the share of it that is done."""

DRIFT = 1.35
"""An anchor so many times slower than usual says that the machine was busy with something else."""

LEAST_ROUNDS = 3
"""Rounds that must fit into the time: where they would not, fewer cases are measured."""

USUAL_PAST = 128
"""Where the head is measured and the anchor stands."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What to measure: numbers of rows, lengths of past, and rounds, in so many seconds at most.

    A step that has begun is not interrupted, and a last one that takes longer than before is late.
    """

    rows: tuple[int, ...]
    pasts: tuple[int, ...]
    rounds: int
    seconds: float


QUICK = Effort((1, 2, 3, 4, 6, 8, 12, 16, 32), (128, 512), 9, 1.4)
FULL = Effort((1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64), (32, 128, 512, 2048), 50, 15.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """Costs and how well they are known.

    `spread` has the 10th and 90th percentile of the time of a step, in seconds by number of rows,
    at `past` tokens of past, an encoder having read `source` rows. `rounds` counted, `rejected` did
    not. With 0 rounds there was no time but for single steps.
    """

    costs: Costs
    spread: dict[int, tuple[float, float]]
    past: int
    rounds: int
    rejected: int
    seconds: float
    source: int = 0


def measure(
    engine: Engine,
    model: Architecture,
    effort: Effort = FULL,
    *,
    clock: Clock = time.perf_counter,
    tell: Progress = lambda stage, share: None,
) -> Measured:
    """Measure the parts of T of a decoder, with the threads that the engine was opened with."""
    watch = Watch(clock, clock(), effort.seconds)
    places = climb(engine, model, effort.pasts, watch, lambda share: tell("past", share))
    base = min(places, key=lambda place: abs(place.past - USUAL_PAST))
    room = model.limits.context - max(place.past for place in places)
    rows = widths(effort.rows, engine.capabilities, room)
    course = _Course(base, [place for place in places if place is not base], watch)
    course.probe(rows)
    while len(course.kept()) < effort.rounds and len(course.rounds) < 2 * effort.rounds:
        if not course.round():
            break
        done = max(len(course.kept()) / effort.rounds, watch.elapsed() / effort.seconds)
        tell("steps", min(done, 1.0))
    tell("steps", 1.0)
    found = course.result(model.layers, static=bool(engine.capabilities.row_widths))
    return replace(found, source=base.source)


@dataclass(slots=True)
class _Round:
    """Seconds by number of rows: of whole steps, of the layers at each place by its past."""

    whole: dict[int, float] = field(default_factory=dict)
    layers: dict[int, dict[int, float]] = field(default_factory=dict)


class _Course:
    """A measurement on its way. The base is the place at the usual past."""

    def __init__(self, base: Place, others: list[Place], watch: Watch) -> None:
        self._base, self._others, self._watch = base, others, watch
        self._first: dict[int, float] = {}
        self.rounds: list[_Round] = []
        self.anchors: list[float] = []

    def probe(self, rows: Sequence[int]) -> None:
        """Step once with each number of rows that can be afforded, and choose what to measure.

        Where time is short, many rows are left out first, then pasts, the longest of them last.
        """
        self._first[rows[0]] = min(self._base.seconds(rows[0], heads=True) for _ in range(2))
        for before, count in pairwise(rows):
            likely = self._first[before] * count / before
            after = LEAST_ROUNDS * (self._round_seconds(0) + 2 * likely) + likely
            if self._watch.left() < after:
                break
            found = self._base.seconds(count, heads=True)
            if found > 1.5 * likely:  # disturbed: more rows never take more than their share
                found = min(found, self._base.seconds(count, heads=True))
            self._first[count] = found
        needed = LEAST_ROUNDS * self._round_seconds(len(self._others))
        while self._others and self._watch.left() < needed:
            del self._others[0]
            needed = LEAST_ROUNDS * self._round_seconds(len(self._others))
        self.anchors.append(self._anchor())

    def _round_seconds(self, others: int) -> float:
        """What a round with so many places besides the base is likely to take."""
        one = self._first[min(self._first)]
        return sum(self._first.values()) * (2 + 1.2 * others) + one * (3 + others)

    def _anchor(self) -> float:
        """The time of the smallest step; of three, since a short one is easily disturbed."""
        count = min(self._first)
        found = [self._base.seconds(count, heads=True)]
        if found[0] < 5e-3:
            found += [self._base.seconds(count, heads=True) for _ in range(2)]
        return statistics.median(found)

    def round(self) -> bool:
        """Measure everything once more; False if the time ended before."""
        found, order = _Round(), random.Random(len(self.rounds))
        places = [self._base, *self._others]
        order.shuffle(places)
        for place in places:
            # The first step after another conversation's finds nothing of its past in the caches.
            place.seconds(min(self._first), heads=False)
            counts = list(self._first)
            order.shuffle(counts)
            found.layers[place.past] = {}
            for count in counts:
                if self._watch.left() < 2 * self._first[count]:
                    return False
                if place is self._base:
                    self._pair(count, found, whole_first=order.random() < 0.5)
                else:
                    found.layers[place.past][count] = place.seconds(count, heads=False)
        self.rounds.append(found)
        self.anchors.append(self._anchor())
        return True

    def _pair(self, count: int, found: _Round, whole_first: bool) -> None:
        """A whole step and one of the layers alone, right after one another."""
        layers = found.layers[self._base.past]
        if whole_first:
            found.whole[count] = self._base.seconds(count, heads=True)
        layers[count] = self._base.seconds(count, heads=False)
        if not whole_first:
            found.whole[count] = self._base.seconds(count, heads=True)

    def kept(self) -> list[_Round]:
        """The rounds that count: the anchor was as usual before and after them.

        Usual is the lower quartile of the anchors: on a machine that is busy half of the time the
        quiet half counts. Where too few rounds are quiet, the quietest ones count.
        """
        usual = sorted(self.anchors)[(len(self.anchors) - 1) // 4]
        slowest = [max(pair) for pair in pairwise(self.anchors)]
        quiet = [r for r, slow in zip(self.rounds, slowest, strict=True) if slow <= DRIFT * usual]
        if len(quiet) >= LEAST_ROUNDS:
            return quiet
        order = sorted(range(len(self.rounds)), key=lambda index: slowest[index])
        return [self.rounds[index] for index in order[:LEAST_ROUNDS]]

    def result(self, depth: int, *, static: bool) -> Measured:
        """Medians over what counts, rising with the number of rows."""
        kept, rows = self.kept(), tuple(self._first)
        if kept:
            pasts = sorted(kept[0].layers)
            layers = [[_median(r.layers[past][n] for r in kept) for n in rows] for past in pasts]
            base = self._base.past
            head = [_median(r.whole[n] - r.layers[base][n] for r in kept) for n in rows]
        else:
            pasts, layers, head = [self._base.past], [list(self._first.values())], [0.0] * len(rows)
        tables = [[max(t, 1e-9) for t in line] for line in layers]
        lines = [*tables, [max(t, 0.0) for t in head]]
        wide, lines = _staircase(rows, lines) if static else (rows, lines)
        *found, top = (tuple(rising(line)) for line in lines)
        return Measured(
            costs=Costs(wide, tuple(pasts), tuple(found), top, depth=depth),
            spread={n: _spread([r.whole[n] for r in kept]) for n in rows} if kept else {},
            past=self._base.past,
            rounds=len(kept),
            rejected=len(self.rounds) - len(kept),
            seconds=self._watch.elapsed(),
        )


def rising(times: Sequence[float]) -> list[float]:
    """The nearest numbers (least squares) that never fall: runs that do become their mean."""
    runs: list[tuple[float, int]] = []
    for value in times:
        mean, count = value, 1
        while runs and runs[-1][0] > mean:
            before, many = runs.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        runs.append((mean, count))
    return [mean for mean, count in runs for _ in range(count)]


def _staircase(
    widths: tuple[int, ...], lines: list[list[float]]
) -> tuple[tuple[int, ...], list[list[float]]]:
    """Tables for static widths: a step of n rows takes what the next width takes."""
    rows, steps = [widths[0]], [0]
    for index, (before, width) in enumerate(pairwise(widths), 1):
        if before + 1 < width:
            rows.append(before + 1)
            steps.append(index)
        rows.append(width)
        steps.append(index)
    return tuple(rows), [[line[index] for index in steps] for line in lines]


def _spread(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return ordered[tenth], ordered[-1 - tenth]


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))
