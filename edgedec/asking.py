"""Who is asked in a turn: those that pay, and now and then the others, as time for it allows.

It knows drafters by what they cost and bring, no tree and no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from edgedec.contracts import Drafter
from edgedec.pace import Average, gain_average, time_average

if TYPE_CHECKING:
    from edgedec.contracts import Floats

EXPLORE = 32
"""A drafter that does not pay is asked again after so many drafted turns, so that it can come
back."""
NOTHING = 0.02
"""A drafter whose time is worth fewer tokens than this is asked in any case: who agrees with whom
says much."""
CHEAP = 0.1
"""One whose time is worth fewer tokens than this may be asked again whenever it is its turn. What
several proposed is theirs."""
SHARE = 0.01
"""Of all time, what may be spent on asking dear drafters that did not pay of late."""
TURNS = 2
"""A trial's turns: some only know after one in which they were asked where they are."""
KNOWN = 8
"""After so many turns it is known what a drafter brings, and what it costs when its code has run
some times. Texts are copied from behind their first words on, if at all."""
HOPELESS = 4.0
"""One whose time is worth more tokens than this is known after two: no guess is right so often."""
LATELY = 4
"""What is found out in a trial counts as if no more turns had come before."""


class Reader(Protocol):
    """A drafter that follows the hidden states of a text."""

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Those of the rows `start`, `start` + 1, ... [rows, D] by layer: views."""


@dataclass(slots=True)
class Source:
    """A drafter; the seconds a turn with it takes of the host, and the tokens it brings net of the
    rows that were checked for it.

    `turns` are those in which it was asked, `idle` the drafted ones since then, `trial` those in
    which it is asked all the same, `riders` its riders in the latest step: what they prepare is
    lost if it is not asked next. `tried`: it is asked to see whether it pays.
    """

    drafter: Drafter
    topk: bool
    cost: Average = field(default_factory=time_average)
    gain: Average = field(default_factory=gain_average)
    asked: bool = False
    reads: bool = False
    rides: bool = False
    began: bool = False
    silent: bool = False
    tried: bool = False
    spent: float = 0.0
    turns: int = 0
    idle: int = 0
    trial: int = 0
    riders: int = 0

    @classmethod
    def of(cls, drafter: Drafter, topk: bool) -> Source:
        """A drafter that nothing is known of."""
        reads, rides = hasattr(drafter, "read"), hasattr(drafter, "rides")
        return cls(drafter, topk, reads=reads, rides=rides)

    @property
    def follows(self) -> bool:
        """Whether it is told the hidden states of this turn: where it was asked of late."""
        return self.reads and (self.asked or self.idle <= 1)

    def tell(self, start: int, hidden: dict[int, Floats]) -> None:
        """See `Reader`."""
        cast("Reader", self.drafter).read(start, hidden)

    def price(self, rate: float) -> float:
        """What its time is worth, in tokens, by what it took of late."""
        return rate * self.cost.value

    def cheap(self, rate: float) -> bool:
        """Whether it costs hardly anything."""
        return self.price(rate) < CHEAP

    def pays(self, rate: float) -> bool:
        """Whether it brings more than its time would give without it; so far unknown ones may."""
        price = self.price(rate)
        known = self.turns >= (2 if price > HOPELESS else KNOWN) and self.gain.count > 1
        return not known or self.gain.value >= price or price < NOTHING

    def begin(self, turns: int) -> None:
        """It is asked for some turns, and what it brings in them counts much."""
        self.trial, self.idle = turns, 0
        self.gain.count = min(self.gain.count, LATELY)

    def wanted(self, rate: float) -> bool:
        """Whether it is asked in this turn."""
        pays = self.riders > 0 or self.pays(rate)
        found = pays or self.trial > 0
        self.tried = self.gain.count < LATELY or (found and not pays)
        self.trial -= self.trial > 0
        self.turns += found
        self.idle = 0 if found else self.idle + 1
        return found


class Trials:
    """Time that was put aside for asking drafters that did not pay of late."""

    def __init__(self) -> None:
        self._left = 0.0

    def earn(self, seconds: float, sources: Sequence[Source]) -> None:
        """Some time has passed, of which a share is put aside; not more than three trials need."""
        dearest = max([0.0, *[each.cost.value for each in sources]])
        self._left = min(self._left + SHARE * seconds, max(self._left, 3 * TURNS * dearest))

    def _affords(self, source: Source, turns: int, rate: float) -> bool:
        seconds = turns * source.cost.value
        if source.cheap(rate):
            return True
        if seconds > self._left:
            return False
        self._left -= seconds
        return True

    def peek(self, source: Source, rate: float) -> bool:
        """Whether one may be asked once, to see whether drafting pays by now.

        What a trial after the rest needs is not spent on peeks, which would take all there is.
        """
        needed = 0.0 if source.cheap(rate) else (1 + TURNS) * source.cost.value
        return self._left >= needed

    def pay(self, seconds: float) -> None:
        """A peek took so long: however little, on a small model many are felt."""
        self._left -= seconds

    def explore(self, sources: Sequence[Source], rate: float) -> None:
        """Give those a trial that were not asked for long, the longest first.

        Who cannot be afforded yet is waited for: others would take the time again and again.
        """
        if True not in [each.idle >= EXPLORE for each in sources]:
            return
        waited = False
        for each in sorted(sources, key=lambda source: -source.idle):
            if each.idle < EXPLORE:
                return
            if not waited or each.cheap(rate):
                waited |= not self._try(each, rate)

    def again(self, sources: Sequence[Source], rate: float) -> None:
        """After a rest: all that can be afforded, the cheapest first."""
        for each in sorted(sources, key=lambda source: source.cost.value):
            self._try(each, rate)

    def _try(self, source: Source, rate: float) -> bool:
        found = self._affords(source, TURNS, rate)
        if found:
            source.begin(TURNS)
        return found


def free(sources: Sequence[Source], rate: float) -> int:
    """The set of those that cost hardly anything."""
    return sum([1 << i for i, each in enumerate(sources) if each.cheap(rate)])


def trying(sources: Sequence[Source], rate: float) -> bool:
    """Whether one is asked to see whether it pays by now, with time that was put aside for it."""
    return any(
        each.asked and each.tried and each.gain.count >= LATELY and not each.cheap(rate)
        for each in sources
    )


def leave_out(sources: Sequence[Source], rate: float) -> bool:
    """Take from those asked that cost much the trust that they pay; whether that leaves somebody.

    They come back by a trial that goes well.
    """
    dear = [each for each in sources if each.asked and not each.tried]
    dear = [each for each in dear if not each.cheap(rate) and each.gain.value > 0]
    if not dear or len(dear) == sum(each.asked for each in sources):
        return False
    for each in dear:
        each.gain.value = 0.0
    return True
