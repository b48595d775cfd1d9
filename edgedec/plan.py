"""What is checked in a turn: drafters are asked, their proposals merged, and what pays is kept.

It knows drafters by what they propose and cost, a device by its `Costs`, and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgedec import _tree, draft
from edgedec.contracts import Context, Draft, Drafter, Outcome
from edgedec.costs import Costs
from edgedec.errors import UsageError
from edgedec.policies import BEST, Policy, policy_named

WIDEST = 64
"""Rows of a drafted step: beyond them no device that decodes for one user gains."""
RETIME = 64
"""T is read anew when the past has grown by so many tokens."""
EXPLORE = 32
"""A drafter that does not pay is asked again every so many drafted turns, so that it can come
back."""
_EMPTY = draft.empty()


@dataclass(slots=True)
class _Average:
    """A moving average that follows the first values quickly and later ones at a slower pace.

    Where times are averaged, one slow turn (a cold cache, another process) must not count as many:
    a value above `most` times the average counts as that.
    """

    value: float = 0.0
    pace: float = 0.05
    most: float | None = None
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        if self.most is not None and self.value > 0:
            value = min(value, self.most * self.value)
        self.value += max(self.pace, 1 / self.count) * (value - self.value)


def _time() -> _Average:
    return _Average(most=3.0)


@dataclass(slots=True)
class _Source:
    """A drafter; the seconds a turn with it takes of the host, and the tokens it brings net of the
    rows that were checked for it."""

    drafter: Drafter
    topk: bool
    cost: _Average = field(default_factory=_time)
    gain: _Average = field(default_factory=lambda: _Average(pace=0.04))
    asked: bool = False
    spent: float = 0.0

    def pays(self, rate: float, budget: int) -> bool:
        """Whether it brings more than its time would give without it; so far unknown ones may."""
        expected = self.drafter.expected_cost(budget) or self.cost.value
        return self.gain.count < 8 or self.gain.value >= rate * expected


class _Pace:
    """Whether drafting as a whole pays: tokens per second of drafted turns against plain ones.

    Where it does not, turns are plain for a while, for twice as long each time in a row, and then
    drafting is tried again.
    """

    SHORTEST, LONGEST, TRIAL = 32, 256, 12

    def __init__(self, host: float) -> None:
        self.plain, self.drafted = _time(), _time()
        if host:
            self.plain.add(host)
        self._tokens, self._seconds = _Average(pace=0.06), _Average(pace=0.06)
        self._quiet, self._rest = 0, self.SHORTEST
        self._tried = self._turns = 0

    def drafts(self) -> bool:
        """Whether this turn is to be drafted; two early ones are not, to know what plain takes."""
        self._turns += 1
        if self._turns in (3, 4):
            return False
        if self._quiet:
            self._quiet -= 1
            return False
        return True

    def learn(self, tokens: float, step: float, plain_step: float) -> None:
        """A drafted turn gave so many tokens, with a step of `step` seconds."""
        self._tokens.add(tokens)
        self._seconds.add(step + self.drafted.value)
        self._tried += 1
        if self._tried < self.TRIAL:
            return
        if self._tokens.value * (plain_step + self.plain.value) < self._seconds.value:
            self._quiet, self._tried = self._rest, 0
            self._rest = min(2 * self._rest, self.LONGEST)
        elif self._tried > 4 * self.TRIAL:
            self._rest = self.SHORTEST


class Planner:
    """The drafters of one conversation and the choice among their proposals.

    Nodes are ordered by their calibrated path probability, riders by what they add to the next
    turn; the prefix that maximises value - rate * T wins (docs/design.md 2.4), or the one that
    another policy prefers. A drafter is asked if it brings more than its own time costs, and now
    and then all the same; if drafting as a whole does not pay, turns are plain.

    Raises:
        UsageError: too many drafters, or an unknown policy.
    """

    def __init__(
        self,
        drafters: Sequence[tuple[Drafter, bool]],
        costs: Costs,
        vocab: int,
        policy: str = BEST,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if len(drafters) > _tree.MAX_SOURCES:
            raise UsageError(
                f"{len(drafters)} drafters at once; at most {_tree.MAX_SOURCES} can be combined"
            )
        self._sources = [_Source(drafter, topk) for drafter, topk in drafters]
        self._costs, self._vocab, self._clock = costs, vocab, clock
        self._policy: Policy | None = policy_named(policy)
        self._pace = _Pace(costs.host)
        self._times = costs.step(0, WIDEST)
        self._core = _tree.Planner(len(drafters), float(self._times[1]) + costs.host)
        self._sheet = draft.Sheet(WIDEST)
        self._credits = np.zeros(2 * len(drafters), np.float32)
        self._turn = self._timed = self._kept = self._pending = 0
        self._asked = self._merged = False
        self._typical = 8.0

    @property
    def drafts(self) -> bool:
        """Whether there is any drafter."""
        return bool(self._sources)

    @property
    def wants_topk(self) -> bool:
        """Whether a drafter that was asked in this turn learns from the likeliest tokens."""
        return any(source.asked and source.topk for source in self._sources)

    @property
    def rate(self) -> float:
        """Tokens per second of late, by the times of the table."""
        return self._core.rate

    def propose(self, context: Context, pending: int, budget: int, depth: int) -> Draft:
        """The tree to check: at most `budget` nodes and riders, `depth` levels.

        `pending` rows are stepped in any case. The arrays are views, valid until the next turn.

        Raises:
            UsageError: a drafter proposed something that is no tree of tokens.
        """
        self._kept, self._pending, self._merged, self._asked = 0, pending, False, False
        if not self._sources:
            return _EMPTY
        for source in self._sources:
            source.asked = False
        budget = min(budget, WIDEST - pending)
        if budget < 1 or depth < 1 or (self._policy is None and not self._pace.drafts()):
            return _EMPTY
        past = len(context.tokens) - pending
        if abs(past - self._timed) >= RETIME:
            self._times, self._timed = self._costs.step(past, WIDEST), past
        drafts = self._ask(context, min(budget, int(2 * self._typical) + 8))
        if all(each is None for each in drafts):
            return _EMPTY
        return self._plan(drafts, budget, depth)

    def _ask(self, context: Context, budget: int) -> list[Draft | None]:
        self._turn += 1
        self._asked = True
        rate, explore = self.rate, self._turn % EXPLORE == 0 or self._policy is not None
        drafts: list[Draft | None] = []
        for source in self._sources:
            if not (source.pays(rate, budget) or explore):
                drafts.append(None)
                continue
            source.asked = True
            before = self._clock()
            found = source.drafter.propose(context, budget)
            source.spent = self._clock() - before
            drafts.append(found if len(found.tokens) or found.riders else None)
        return drafts

    def _plan(self, drafts: list[Draft | None], budget: int, depth: int) -> Draft:
        whole = next((each for each in drafts if each is not None and each.whole), None)
        if whole is not None:
            return draft.cut(draft.check(whole, self._vocab), budget, depth)
        try:
            kept, total = self._core.plan(
                drafts, self._pending, budget, depth, self._vocab, self._times, *self._sheet.arrays
            )
        except ValueError as error:
            for each in filter(None, drafts):
                draft.check(each, self._vocab)
            raise UsageError(f"a drafter's proposal is refused: {error}") from None
        self._merged = True
        if self._policy is not None:
            tree = self._sheet.draft(total)
            chosen = self._policy.choose(tree, self._times[self._pending :])
            self._kept = len(chosen)
            return tree if self._kept == total else draft.select(tree, chosen)
        self._kept = kept
        self._typical += 0.1 * (kept - self._typical)
        riders = self._riders(drafts, kept)
        if not kept and riders is None:
            return _EMPTY
        return self._sheet.draft(kept, riders)

    def _riders(self, drafts: list[Draft | None], kept: int) -> list[tuple[int, ...]] | None:
        """The riders that pay, of the root and of each node kept; None where there are none."""
        if all(each is None or each.riders is None for each in drafts):
            return None
        found: list[tuple[int, ...]] = []
        for source, entry, count in self._core.riders(kept):
            given = drafts[source] if source >= 0 else None
            found.append(tuple(given.riders[entry][:count]) if given and given.riders else ())
        return found if any(found) else None

    # --- learning --------------------------------------------------------------------------------

    def observe(self, outcome: Outcome, rows: int, topk_seconds: float = 0.0) -> None:
        """Learn from a turn of `rows` rows. A drafter hears of turns in which it was asked."""
        if not self._asked:
            self._core.pace(len(outcome.emitted), self._step(rows) + self._pace.plain.value)
            return
        if self._merged:
            self._core.learn(outcome.emitted, self._kept, self._credits)
        else:
            self._credits[:] = 0
        if self._policy is not None and len(outcome.tree.tokens):
            self._policy.learn(len(outcome.tree.tokens), len(outcome.accepted))
        self._tell(outcome, rows, topk_seconds)
        step = self._step(rows)
        self._core.pace(len(outcome.emitted), step + self._pace.drafted.value)
        if self._policy is None and self._pending == 1:
            # What was to be expected says more than what came: it varies less.
            tokens = 1 + self._core.value if self._merged else len(outcome.emitted)
            self._pace.learn(tokens, step, float(self._times[1]))

    def _tell(self, outcome: Outcome, rows: int, topk_seconds: float) -> None:
        """Every drafter that was asked learns, and is judged by what it brought."""
        credits, count, rate = self._credits.tolist(), len(self._sources), self.rate
        price = 0.0
        if rows > self._pending:
            added = self._step(rows) - self._step(self._pending)
            price = rate * added / (rows - self._pending)
        for index, source in enumerate(self._sources):
            if not source.asked:
                continue
            before = self._clock()
            source.drafter.observe(outcome)
            source.spent += self._clock() - before + (topk_seconds if source.topk else 0.0)
            source.cost.add(source.spent)
            source.gain.add(credits[index] - price * credits[count + index])

    def _step(self, rows: int) -> float:
        return float(self._times[min(rows, WIDEST)])

    def spent(self, host: float) -> None:
        """The turn took `host` seconds outside of its step."""
        (self._pace.drafted if self._asked else self._pace.plain).add(host)

    def reset(self) -> None:
        """The conversation is forgotten; what was learned about drafters stays."""
        for source in self._sources:
            source.drafter.reset()
