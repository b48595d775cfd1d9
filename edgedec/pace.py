"""What drafting costs and gives of late: averages, T as it is now, and when drafting should rest.

It knows times and tokens, no drafter and no tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec.costs import Costs

if TYPE_CHECKING:
    from edgedec.costs import Times

WIDEST = 64
"""Rows of a drafted step: beyond them no device that decodes for one user gains."""
RETIME = 64
"""T is read anew when the past has grown by so many tokens."""
MARGIN = 1.03
"""Drafting must promise so much more than it costs: a plain step that is measured among drafted
ones takes some percent longer than one in a row of plain ones."""
REMEMBERED = 0.99
"""Of what was expected and came, the share that counts in the next turn as well."""
EXPECTED = 16.0
"""At first it is as if so much had come as expected, in tokens or in plain steps."""


@dataclass(slots=True)
class Average:
    """A moving average that follows the first values quickly and later ones at a slower pace.

    Where times are averaged, one slow turn (a cold cache, another process) must not count as many:
    a value above `most` times the average counts as that. Of the first `cold` values, which are
    those of code that never ran before, only the least counts.
    """

    value: float = 0.0
    pace: float = 0.05
    most: float | None = None
    count: int = 0
    cold: int = 0

    def add(self, value: float) -> None:
        """Take in the next value."""
        self.count += 1
        if 1 < self.count <= self.cold:
            self.value = min(self.value, value)
            return
        if self.most is not None and value > self.most * self.value > 0:
            value = self.most * self.value
        share = 1 / self.count
        self.value += (share if share > self.pace else self.pace) * (value - self.value)


def time_average() -> Average:
    """An average of times."""
    return Average(most=3.0, cold=8)


def gain_average() -> Average:
    """An average of tokens that a drafter brings in a turn."""
    return Average(pace=0.04)


@dataclass(slots=True)
class Bias:
    """What came, as a share of what was to be expected, over the last hundred turns or so.

    Choosing what looks best means choosing what is overrated, so in the long run too much is
    expected; where texts or times vary, too little at times.
    """

    said: float = 0.0
    came: float = 0.0

    def add(self, said: float, came: float) -> None:
        """So much was to be expected of a turn, and so much came."""
        self.said = REMEMBERED * self.said + said
        self.came = REMEMBERED * self.came + came

    @property
    def factor(self) -> float:
        """By what the next expectation is to be multiplied."""
        return (self.came + EXPECTED) / (self.said + EXPECTED)


class Clockwork:
    """T as it is now: the table's times for the past at hand, corrected by what steps really took.

    A busy or hot machine is slower than when it was measured, and not by the same factor for all
    numbers of rows; so there is one for each of some groups of them. Plain steps that follow plain
    ones have their own besides: they find everything in place, and take up to a third less time
    than one of the same single row between wider ones. They are seldom measured while text is
    drafted, so it is remembered how much less, and the single rows that drafting leaves say the
    rest.
    """

    GROUPS: ClassVar = (1, 4, 8, 16, WIDEST)
    EVERY: ClassVar = 16
    SUDDEN: ClassVar = 0.06
    STEADY: ClassVar = 0.05
    LATE: ClassVar = 0.25
    """What a plain step among many counts in their average, and what one does that comes after 100
    drafted ones: the machine may be another by then."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        # The table counts as four turns of what it says.
        self._drift = [Average(1.0, most=4.0, count=4) for _ in self.GROUPS]
        self._single = Average(1.0, pace=self.SUDDEN, most=2.0, count=4)
        self._even, self._was_plain = Average(1.0, most=4.0, count=1), False
        self._since = 0
        self._group = np.searchsorted(self.GROUPS, np.arange(WIDEST + 1)).tolist()
        self._past = self._turns = 0
        self._tabled: list[float] = []
        self._turn_over(costs.step(0, WIDEST))
        self._take(self._table)

    def follow(self, past: int) -> None:
        """Bring T up to date: the past has grown, or some turns were timed."""
        moved = abs(past - self._past) >= RETIME
        if moved:
            self._past = past
            self._turn_over(self._costs.step(past, WIDEST))
        if moved or self._turns >= self.EVERY:
            self._turns = 0
            factors = np.array([each.value for each in self._drift])[self._group]
            self._take(np.maximum.accumulate(self._table * factors))

    def _turn_over(self, table: Times) -> None:
        self._table, self._tabled = table, table.tolist()

    def _take(self, times: Times) -> None:
        self.times: Times = times
        self.seconds: list[float] = times.tolist()
        """The same as a list: single times are read from it sooner."""

    @property
    def plain(self) -> float:
        """Seconds of a plain step among plain ones, now."""
        return self.usual * self._single.value

    @property
    def usual(self) -> float:
        """The same, if a single row takes as long as in the table."""
        return self._tabled[1] * self._even.value

    @property
    def longer(self) -> float:
        """How many times as long as in the table a single row takes of late."""
        return self._single.value

    def early(self, rows: int, layers: int) -> float:
        """Seconds that some rows take for so many layers, without logits."""
        return self._costs.part(self._past, rows, layers)

    def add(self, rows: int, seconds: float, plain: bool) -> None:
        """A step of so many rows took so long. `plain`: nobody drafted for it."""
        if rows > WIDEST:
            return
        self._turns += 1
        drift = seconds / self._tabled[rows]
        self._drift[self._group[rows]].add(drift)
        even = plain and self._was_plain
        if rows == 1:
            self._single.add(drift / self._even.value if even else drift)
        if even:
            late = self._since >= 100
            self._even.pace, self._even.most = (self.LATE, 2.0) if late else (self.STEADY, 4.0)
            self._even.add(drift / self._single.value)
            self._since = 0
        self._since += not plain
        self._was_plain = plain


class Pace:
    """Whether drafting as a whole pays: tokens per second of drafted turns against plain ones.

    Where it does not, turns are plain for a while. Now and then, and soon after a prompt, one is a
    peek: only the cheapest drafter is asked, and if what it proposes is worth it, drafting goes on.
    After a long rest, twice as long each time in a row, it is tried again without such a reason.

    What the host takes of a turn, `plain` or `drafted`, was measured at one time or another; it is
    kept as if a single row had taken as long as in the table.
    """

    SHORTEST: ClassVar = 128
    LONGEST: ClassVar = 1024
    TRIAL: ClassVar = 8
    DOUBTFUL: ClassVar = 12
    PROVEN: ClassVar = 32
    """Drafted turns until it may be found not to pay, until it is no longer on trial, and until the
    next rest is a short one again."""
    PEEK: ClassVar = 16
    EARLY: ClassVar = range(3, 7)
    MEASURED: ClassVar = 128

    def __init__(self) -> None:
        self.plain, self.drafted = time_average(), time_average()
        self._tokens, self._seconds = Average(pace=0.06), Average(pace=0.06)
        self._gains, self._times = Bias(), Bias()
        self._rest, self._quiet, self._tried, self._turns = self.SHORTEST, 0, 0, 0
        self._began, self.retries = 0, False
        """`retries`: a rest is over, and everyone may be asked once more."""

    def mode(self) -> str:
        """What this turn is: draft, peek or plain. Two now and then are plain, to be measured."""
        self._turns += 1
        if self._turns % self.MEASURED in (3, 4):
            return "plain"
        if not self._quiet:
            return "draft"
        self._quiet -= 1
        if not self._quiet:
            self.retries = True
        early = self._turns - self._began in self.EARLY
        return "peek" if early or not self._quiet % self.PEEK else "plain"

    def skip(self) -> int:
        """How many plain turns follow a plain one for certain; they count as over."""
        if self._turns - self._began < self.EARLY.stop - 1:
            return 0
        turns = max(0, self._quiet % self.PEEK - 1)
        self._quiet -= turns
        self._turns += turns
        return turns

    def begin(self) -> None:
        """A new prompt: it may be of another kind than the text before."""
        self._began = self._turns

    @property
    def on_trial(self) -> bool:
        """Whether it is not known yet that drafting pays: then only what surely does is checked."""
        return self._tried < self.DOUBTFUL

    def spent(self, host: float, clock: Clockwork, drafted: bool) -> None:
        """A turn took the host so many seconds."""
        (self.drafted if drafted else self.plain).add(host / clock.longer)

    def host(self, clock: Clockwork, drafted: bool) -> float:
        """Seconds that a turn takes it now."""
        return (self.drafted if drafted else self.plain).value * clock.longer

    def worth(self, tokens: float, step: float, clock: Clockwork) -> bool:
        """Whether so many expected tokens pay a drafted turn with a step of `step` seconds."""
        return self._pays(tokens, step / clock.longer, clock)

    def _pays(self, tokens: float, usual: float, clock: Clockwork) -> bool:
        return tokens * (clock.usual + self.plain.value) > MARGIN * (usual + self.drafted.value)

    def wake(self) -> None:
        """A peek found something: drafting goes on, and is judged anew."""
        self._quiet = self._tried = 0
        self._tokens.count = self._seconds.count = 0

    def rest(self) -> None:
        """Drafting does not pay for now."""
        self.wake()
        self._quiet, self._rest = self._rest, min(2 * self._rest, self.LONGEST)

    def took(self, said: float, seconds: float, clock: Clockwork) -> None:
        """A drafted turn's step was said to take so long, and took so many seconds."""
        # One that another process held up says nothing of the next.
        self._times.add(said / clock.plain, min(seconds, 2 * said) / clock.plain)

    def learn(self, tokens: float, came: int, step: float, clock: Clockwork) -> bool:
        """A drafted turn was worth so many tokens, with a step of `step` seconds, and so many came.

        What was to be expected says more than what came, since it varies less; but in the long run
        it must be the same. Returns whether drafting should rest by now, or go on with fewer
        drafters.
        """
        self._gains.add(tokens, came)
        self._tokens.add(tokens * self._gains.factor)
        self._seconds.add(step / clock.longer * self._times.factor)
        self._tried += 1
        # What drafting costs is known when its code has run some times.
        if self._tried < self.TRIAL or self.drafted.count < 2 * self.drafted.cold:
            return False
        if not self._pays(self._tokens.value, self._seconds.value, clock):
            return True
        if self._tried > self.PROVEN:
            self._rest = self.SHORTEST
        return False
