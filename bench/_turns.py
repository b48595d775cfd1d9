"""Contestants taking turns within one run, and what their times say.

A machine that is shared drifts by tens of percent within minutes. So every case is measured by
all contestants right after one another, again and again, and a ratio is the median of the ratios
within a round, not the ratio of two medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

SETTLE = 0.03
"""Seconds before each turn: pools of threads spin for a while after their last step."""
TIMED = 3
"""Steps that count in a turn, after one that warms caches and wakes threads."""


class Worker:
    """A contestant in a process of its own (`_worker.py`)."""

    def __init__(self, name: str, python: str, environment: dict[str, str], **order: Any) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.about: dict[str, Any] = self.ask(do="open", **order)

    def ask(self, **order: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Case:
    """One thing to measure, and who takes part; `every` so many rounds."""

    do: str
    rows: int
    past: int = 0
    chunk: int = 0
    _: KW_ONLY
    who: tuple[str, ...]
    every: int = 1

    @property
    def key(self) -> str:
        return f"{self.do} {self.rows} {self.past} {self.chunk}"


@dataclass
class Times:
    """Milliseconds by round: the median of a turn; and all single times."""

    rounds: dict[int, float] = field(default_factory=dict)
    single: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.single)

    def spread(self) -> tuple[float, float]:
        """The 10th and 90th percentile."""
        return percentiles(self.single)


Found = dict[tuple[str, str], Times]
"""Times by contestant and case."""


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return ordered[tenth], ordered[-1 - tenth]


def take_turns(
    workers: list[Worker],
    cases: list[Case],
    repetitions: int,
    tell: Callable[[str], None] = lambda text: None,
) -> Found:
    """Every case by every contestant in every round, who begins changing from round to round."""
    found: Found = {}
    for repetition in range(repetitions):
        tell(f"round {repetition + 1} of {repetitions}")
        order = workers if repetition % 2 else workers[::-1]
        for case in cases:
            if repetition % case.every:
                continue
            for worker in order:
                if worker.name in case.who:
                    _turn(worker, case, repetition, found)
    return found


def _turn(worker: Worker, case: Case, repetition: int, found: Found) -> None:
    time.sleep(SETTLE)
    long = case.do == "prefill"
    # A prompt takes long enough to warm up by itself, but for the first one.
    times = 1 + (repetition == 0) if long else 1 + TIMED
    order = {"rows": case.rows, "past": case.past, "chunk": case.chunk}
    seconds = worker.ask(do=case.do, **order, times=times)[-1 if long else -TIMED :]
    entry = found.setdefault((worker.name, case.key), Times())
    entry.single += [1e3 * second for second in seconds]
    entry.rounds[repetition] = 1e3 * statistics.median(seconds)


@dataclass(frozen=True)
class Ratio:
    """The median over the rounds, 10th and 90th percentile."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(found: Found, above: tuple[str, str], below: tuple[str, str]) -> Ratio | None:
    """How one time (contestant, case) relates to another; None where one was not measured."""
    one, other = found.get(above), found.get(below)
    if one is None or other is None:
        return None
    values = [one.rounds[i] / other.rounds[i] for i in one.rounds if i in other.rounds]
    return Ratio(statistics.median(values), *percentiles(values))


def difference(found: Found, name: str, more: Case, less: Case) -> Times | None:
    """What one case takes longer than another, round by round."""
    one, other = (found.get((name, case.key)) for case in (more, less))
    if one is None or other is None:
        return None
    rounds = {i: one.rounds[i] - other.rounds[i] for i in one.rounds if i in other.rounds}
    return Times(rounds, list(rounds.values()))
