"""What a step costs on this device: the table that the planner reads.

`edgedec.profiler` measures it; nothing here measures or knows a runtime. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Costs:
    """The parts of the time T of a step, measured for some numbers of rows and lengths of past.

    `layers[p][r]` is the time of all layers for `rows[r]` rows after `pasts[p]` tokens, `head[r]`
    that of the final norm and the logits of so many rows, and `host` what one turn of the loop
    costs outside of the step. `depth` is the number of layers that `layers` stands for.

    What is read never falls with more rows or a longer past, whatever noise there is in the tables.
    Between measured numbers it is interpolated, below the first it is the first's. A longer past
    than the last goes on with the last slope; each row beyond the last costs what a row costs on
    average there, as in several steps of that width: where a curve was measured only as long as it
    is flat, nothing is promised beyond.

    Raises:
        UsageError: the tables do not fit together, or hold something that is no time.
    """

    rows: tuple[int, ...]
    pasts: tuple[int, ...]
    layers: tuple[tuple[float, ...], ...]
    head: tuple[float, ...]
    host: float = 0.0
    depth: int = 1
    _layers: Times = field(init=False, repr=False, compare=False)
    _head: Times = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, numbers, least in (("rows", self.rows, 1), ("pasts", self.pasts, 0)):
            rising = all(a < b for a, b in pairwise(numbers))
            if not numbers or not rising or numbers[0] < least:
                raise UsageError(f"costs: {name} must rise from {least} or more, found {numbers}")
        fits = all(len(line) == len(self.rows) for line in (*self.layers, self.head))
        if not fits or len(self.layers) != len(self.pasts) or self.depth < 1:
            raise UsageError("costs: a time is needed for every number of rows and length of past")
        times = np.array([*(t for line in self.layers for t in line), *self.head, self.host])
        if not np.isfinite(times).all() or times.min() < 0 or not np.min(self.layers) > 0:
            raise UsageError("costs: times must be finite, and those of layers above 0")
        rising_rows = np.maximum.accumulate(np.array(self.layers, np.float64), axis=1)
        object.__setattr__(self, "_layers", np.maximum.accumulate(rising_rows, axis=0))
        object.__setattr__(self, "_head", np.maximum.accumulate(np.array(self.head, np.float64)))

    def step(self, past: int, most: int) -> Times:
        """T [most + 1] of steps of 0, 1, ... `most` rows, all with logits, after `past` tokens."""
        found = self._along_rows(self._at(past) + self._head, np.arange(most + 1))
        found[0] = 0.0
        return found

    def part(self, past: int, rows: int, layers: int, heads: int = 0) -> float:
        """The time of `layers` layers for `rows` rows, and of logits for `heads` of them."""
        times = 0.0
        if rows > 0:
            whole = float(self._along_rows(self._at(past), np.array([rows]))[0])
            times += whole * layers / self.depth
        if heads > 0:
            times += float(self._along_rows(self._head, np.array([heads]))[0])
        return times

    def _at(self, past: int) -> Times:
        """The times of all layers at a length of past [rows measured]."""
        found: Times = self._layers[0]
        if len(self.pasts) == 1 or past <= self.pasts[0]:
            return found
        right = min(int(np.searchsorted(self.pasts, past)), len(self.pasts) - 1)
        low, high = self.pasts[right - 1], self.pasts[right]
        share = (past - low) / (high - low)
        found = self._layers[right - 1] * (1 - share) + self._layers[right] * share
        # Beyond the last past, slopes that differ by noise could cross.
        return np.maximum.accumulate(found) if share > 1 else found

    def _along_rows(self, times: Times, wanted: NDArray[np.integer]) -> Times:
        found: Times = np.interp(wanted, self.rows, times)
        return found * np.maximum(wanted / self.rows[-1], 1.0)


def flat(seconds: float = 1e-3, growth: float = 0.05) -> Costs:
    """Costs where nothing was measured: each further row adds the share `growth` of the first."""
    rows = (1, 1024)
    last = seconds * (1 + growth * (rows[1] - 1))
    return Costs(rows, (0,), ((seconds, last),), (0.0, 0.0))
