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
from edgedec.pace import WIDEST, Average, Clockwork, Pace, gain_average, time_average
from edgedec.policies import BEST, Policy, policy_named

EXPLORE = 32
"""A drafter that does not pay is asked again every so many drafted turns, so that it can come
back."""
NOTHING = 0.02
"""A drafter whose time is worth fewer tokens than this is asked in any case: who agrees with whom
says much."""
CAUTION = 0.8
"""What expected tokens count for where it is not known yet that drafting pays."""
_EMPTY = draft.empty()


@dataclass(slots=True)
class _Source:
    """A drafter; the seconds a turn with it takes of the host, and the tokens it brings net of the
    rows that were checked for it."""

    drafter: Drafter
    topk: bool
    cost: Average = field(default_factory=time_average)
    gain: Average = field(default_factory=gain_average)
    asked: bool = False
    spent: float = 0.0

    def pays(self, rate: float, budget: int) -> bool:
        """Whether it brings more than its time would give without it; so far unknown ones may."""
        price = rate * (self.drafter.expected_cost(budget) or self.cost.value)
        return self.gain.count < 4 or self.gain.value >= price or price < NOTHING


@dataclass(slots=True)
class _Experience:
    """What was learned of one kind of text: calibration, whether drafting pays, who brings what."""

    core: _tree.Planner
    pace: Pace
    gains: list[Average]


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
        self._vocab, self._clock, self._clockwork = vocab, clock, Clockwork(costs)
        self._policy: Policy | None = policy_named(policy)
        self._times = self._clockwork.times
        self._known: dict[bool, _Experience] = {}
        self._sampling, self._host = False, costs.host
        self._take_up(self._unexperienced())
        self._sheet = draft.Sheet(WIDEST)
        self._credits = np.zeros(2 * len(drafters), np.float32)
        self._turn = self._kept = self._pending = 0
        self.asked = self._merged = self._peeking = False
        """`asked`: whether any drafter was asked in this turn, and wants to hear how it went."""
        self.rests = 0
        """For how many turns nobody needs to be asked again."""
        self._typical, self._expected = 8.0, (1.0, 0.0)

    @property
    def wants_topk(self) -> bool:
        """Whether a drafter that was asked in this turn learns from the likeliest tokens."""
        return any(each.asked and each.topk for each in self._sources)

    @property
    def rate(self) -> float:
        """Tokens per second of late, by the times of the table."""
        return self._core.rate

    @property
    def host(self) -> float:
        """Seconds of a plain turn outside of its step, of late."""
        return self._pace.plain.value

    @property
    def drafter_costs(self) -> list[float]:
        """Seconds that each drafter takes in a turn, of late."""
        return [source.cost.value for source in self._sources]

    def propose(self, context: Context, pending: int, budget: int, depth: int) -> Draft:
        """The tree to check: at most `budget` nodes and riders, `depth` levels.

        `pending` rows are stepped in any case. The arrays are views, valid until the next turn.

        Raises:
            UsageError: a drafter proposed something that is no tree of tokens.
        """
        self._kept, self._pending, self._expected = 0, pending, (1.0, self._step(1))
        self._merged = self.asked = self._peeking = False
        if not self._sources:
            return _EMPTY
        mode = self._pace.mode() if self._policy is None else "draft"
        budget = min(budget, WIDEST - pending)
        if mode == "plain":
            self.rests = self._pace.skip()
        if mode == "plain" or budget < 1 or depth < 1:
            return _EMPTY
        self._peeking = mode == "peek"
        self._clockwork.follow(len(context.tokens) - pending)
        self._times = self._clockwork.times
        drafts = self._ask(context, min(budget, int(1.5 * self._typical) + 4))
        if all(each is None for each in drafts):
            return _EMPTY
        return self._plan(drafts, budget, depth)

    def _ask(self, context: Context, budget: int) -> list[Draft | None]:
        rate, explore = self.rate, self._policy is not None or self._pace.retries > 0
        if not self._peeking:
            self._turn += 1
            self._pace.retries -= self._pace.retries > 0
            explore |= self._turn % EXPLORE == 0
        before = self._clock()
        drafts: list[Draft | None] = []
        cheapest = self._cheapest if self._peeking else None
        for source in self._sources:
            pays = source is cheapest if cheapest else source.pays(rate, budget) or explore
            source.asked = pays
            if not pays:
                drafts.append(None)
                continue
            found = source.drafter.propose(context, budget)
            now = self._clock()
            source.spent, before = now - before, now
            self.asked = not self._peeking
            drafts.append(found if len(found.tokens) or found.riders else None)
        if not self.asked and not self._peeking:
            self._pace.rest()
        return drafts

    @property
    def _cheapest(self) -> _Source:
        return min(self._sources, key=lambda source: source.cost.value)

    def _plan(self, drafts: list[Draft | None], budget: int, depth: int) -> Draft:
        whole = next((each for each in drafts if each is not None and each.whole), None)
        if whole is not None:
            self._peeking, self.asked = False, True
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
            first = chosen == range(self._kept)
            return self._sheet.draft(self._kept) if first else draft.select(tree, chosen)
        self._expected = 1 + self._core.value, self._step(self._pending + kept)
        if self._peeking or self._pace.on_trial:
            # What looks best among much that was hardly checked yet is seldom as good as it looks.
            tokens, step = self._expected
            if not self._pace.worth(1 + (tokens - 1) * CAUTION, step, self._clockwork.plain):
                return _EMPTY
            if self._peeking:
                self._pace.wake()
                self._peeking, self.asked = False, True
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
            tokens, taken = self._expected if self._merged else (len(outcome.emitted), step)
            self._pace.learn(tokens, taken, self._clockwork.plain)

    def _tell(self, outcome: Outcome, rows: int, topk_seconds: float) -> None:
        """Every drafter that was asked learns, and is judged by what it brought."""
        credits, count, rate = self._credits.tolist(), len(self._sources), self.rate
        shared = topk_seconds / max(1, sum(s.asked and s.topk for s in self._sources))
        price = 0.0
        if rows > self._pending:
            added = self._step(rows) - self._step(self._pending)
            price = rate * added / (rows - self._pending)
        # Costs vary little: now and then is enough. A prompt's turn is no measure of the others.
        costs = self._pending == 1 and (self._turn % 4 == 0 or self._turn < 16)
        before = self._clock()
        for index, source in enumerate(self._sources):
            if not source.asked:
                continue
            source.drafter.observe(outcome)
            now = self._clock()
            if costs:
                spent = source.spent + now - before
                source.cost.add(spent + shared if source.topk else spent)
            before = now
            source.gain.add(credits[index] - price * credits[count + index])

    def _step(self, rows: int) -> float:
        return float(self._times[min(rows, WIDEST)])

    def peeked(self, emitted: Sequence[int]) -> None:
        """A turn in which nothing was checked shows all the same what would have been right."""
        if self._peeking and self._merged:
            self._core.learn(emitted, 0, self._credits)

    def spent(self, rows: int, step: float, host: float) -> None:
        """The turn took `step` seconds for a step of so many rows, and `host` outside of it."""
        # The first turn after a prompt reads the whole of it: no measure of the others.
        if self._pending > 1:
            return
        self._clockwork.add(rows, step, not self.asked and not self._peeking)
        if not self._peeking:
            (self._pace.drafted if self.asked else self._pace.plain).add(host)

    def begin(self, temperature: float = 0.0) -> None:
        """A prompt is to be answered.

        Guesses that are often right in greedy text are often wrong in sampled text, so what was
        learned of the two is kept apart.
        """
        if (temperature > 0) != self._sampling:
            gains = [source.gain for source in self._sources]
            self._known[self._sampling] = _Experience(self._core, self._pace, gains)
            self._sampling = temperature > 0
            known = self._known.get(self._sampling)
            self._take_up(known or self._unexperienced())
        self._pace.begin()

    def _unexperienced(self) -> _Experience:
        core = _tree.Planner(len(self._sources), float(self._times[1]) + self._host)
        return _Experience(core, Pace(), [gain_average() for _ in self._sources])

    def _take_up(self, known: _Experience) -> None:
        self._core, self._pace = known.core, known.pace
        for source, gain in zip(self._sources, known.gains, strict=True):
            source.gain = gain

    def reopen(self, drafters: Sequence[Drafter]) -> None:
        """Go on with other drafters of the same kinds, in the same order.

        What was learned of texts is gone with the old ones; how well each kind guesses, and what
        it costs, stays.
        """
        for source, drafter in zip(self._sources, drafters, strict=True):
            source.drafter = drafter

    def reset(self) -> None:
        """The conversation is forgotten; what was learned about drafters stays."""
        for source in self._sources:
            source.drafter.reset()
