"""What is checked in a turn: drafters are asked, their proposals merged, and what pays is kept.

It knows drafters by what they propose and cost, a device by its `Costs`, and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedec import _tree, asking, draft, riders
from edgedec.asking import Source, Trials
from edgedec.contracts import Context, Draft, Drafter, Outcome
from edgedec.costs import Costs
from edgedec.errors import UsageError
from edgedec.pace import WIDEST, Average, Clockwork, Pace, gain_average, time_average
from edgedec.policies import BEST, Policy, policy_named
from edgedec.trail import states_of_text

if TYPE_CHECKING:
    from edgedec.contracts import Floats

CAUTION = 0.8
"""What expected tokens count for where it is not known yet that drafting pays."""
_EMPTY = draft.empty()


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
        self._sources = [Source.of(*each) for each in drafters]
        self._readers = [source for source in self._sources if source.reads]
        self._learners = [source for source in self._sources if source.topk]
        self._trials = Trials()
        self._vocab, self._clock, self._clockwork = vocab, clock, Clockwork(costs)
        self._policy: Policy | None = policy_named(policy)
        self._times = self._clockwork.times
        self._known: dict[bool, _Experience] = {}
        self._sampling, self._host = False, costs.host
        self._take_up(self._unexperienced())
        self._sheet, self._ends = draft.Sheet(WIDEST), np.zeros(0, np.int32)
        self._credits = np.zeros(2 * len(drafters), np.float32)
        self._turn = self._kept = self._pending = 0
        self.asked = self._merged = self._peeking = False
        """`asked`: whether any drafter was asked in this turn, and wants to hear how it went."""
        self.rests = 0
        """For how many turns nobody needs to be asked again."""
        self._typical, self._expected, self._saved = 8.0, (1.0, 0.0), 0.0
        self._claims: tuple[float, ...] = ()

    @property
    def wants_topk(self) -> bool:
        """Whether a drafter that was asked in this turn learns from the likeliest tokens."""
        return self.asked and True in [each.asked for each in self._learners]

    @property
    def wants_hidden(self) -> bool:
        """Whether a drafter is to be told the hidden states of this turn."""
        return self.asked and True in [each.follows for each in self._readers]

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
        self._kept, self._pending, self._saved = 0, pending, 0.0
        self._expected, self._claims = (1.0, self._step(1)), ()
        self._merged = self.asked = self._peeking = False
        if not self._sources:
            return _EMPTY
        mode = self._pace.mode() if self._policy is None else "draft"
        if mode == "peek" and not self._may_peek():
            mode = "plain"
        if mode == "plain":
            self.rests = self._pace.skip()
            # This turn's own time is told when it is over; of those that follow nobody hears.
            self._trials.earn(self.rests * self._plain, self._sources)
        if mode == "plain" or budget < 1 or depth < 1:
            return _EMPTY
        if pending >= WIDEST:
            return self._ahead(context, budget, depth) if mode == "draft" else _EMPTY
        budget = min(budget, WIDEST - pending)
        self._peeking = mode == "peek"
        self._clockwork.follow(len(context.tokens) - pending)
        self._times = self._clockwork.times
        asks = int(1.5 * self._typical) + 4 if self._policy is None else self._policy.asks
        drafts = self._ask(context, min(budget, asks))
        if drafts.count(None) == len(drafts):
            return _EMPTY
        return self._plan(drafts, budget, depth)

    def _ahead(self, context: Context, room: int, depth: int) -> Draft:
        """Nothing but riders: below the end of a long prompt they cost hardly anything."""
        found = _EMPTY
        for source in self._sources:
            source.asked, source.riders = source.rides and not self.asked, 0
            if source.asked:
                found = riders.alone(source.drafter.propose(context, 1), room, depth)
                source.riders, self.asked = draft.riders(found), True
        return found

    def _ask(self, context: Context, budget: int) -> list[Draft | None]:
        rate, everyone = self.rate, self._policy is not None
        if not self._peeking:
            self._turn += 1
            if self._pace.retries:
                self._pace.retries = False
                self._trials.again(self._sources, rate)
            self._trials.explore(self._sources, rate)
        before = self._clock()
        drafts: list[Draft | None] = []
        cheapest = self._cheapest if self._peeking else None
        for source in self._sources:
            if cheapest is None:
                source.asked = source.wanted(rate) or everyone
            else:
                source.asked = source is cheapest
            source.riders, source.silent = 0, True
            if not source.asked:
                drafts.append(None)
                continue
            found = source.drafter.propose(context, budget)
            now = self._clock()
            source.spent, before = now - before, now
            source.began = found.began is not None
            source.silent = not (len(found.tokens) or found.riders or found.began)
            self.asked = not self._peeking
            drafts.append(None if source.silent else found)
        if not self.asked and not self._peeking:
            self._pace.rest()
        return drafts

    def _may_peek(self) -> bool:
        cheapest = self._cheapest
        return cheapest is not None and self._trials.peek(cheapest, self.rate)

    @property
    def _cheapest(self) -> Source | None:
        # Those that follow hidden states do not know where they are while drafting rests.
        knowing = [source for source in self._sources if not source.reads]
        return min(knowing, key=lambda source: source.cost.value) if knowing else None

    @property
    def _plain(self) -> float:
        """Seconds of a plain turn."""
        return self._clockwork.plain + self._pace.host(self._clockwork, drafted=False)

    def _plan(self, drafts: list[Draft | None], budget: int, depth: int) -> Draft:
        whole = [each for each in drafts if each is not None and each.whole]
        if whole:
            self._wake()
            return draft.cut(draft.check(whole[0], self._vocab), budget, depth)
        try:
            kept, total = self._core.plan(
                drafts, self._pending, budget, depth, self._vocab, self._times, self._ends,
                *self._sheet.arrays,
            )  # fmt: skip
        except ValueError as error:
            for each in filter(None, drafts):
                draft.check(each, self._vocab)
            raise UsageError(f"a drafter's proposal is refused: {error}") from None
        self._merged = True
        if self._policy is not None:
            tree = self._sheet.draft(total)
            chosen = self._policy.choose(tree, self._times[self._pending :])
            self._kept = len(chosen)
            if chosen != range(self._kept):
                return self._begun(drafts, draft.select(tree, chosen))
            # Those who prepare a turn ahead take part as well, whatever it costs.
            found = riders.chosen(self._core, self._kept, drafts, budget - self._kept)
            self._claims = found.claims
            below = found.below if found.count else None
            return self._begun(drafts, self._sheet.draft(self._kept, below, found.lanes))
        found = riders.chosen(self._core, kept, drafts)
        below = found.below if found.count else None
        tree = self._sheet.draft(kept, below, found.lanes)
        tokens, step = 1 + self._core.value, self._step(self._pending + kept + found.count)
        # What riders are worth comes in the next turn, and is counted there.
        self._expected = tokens if below is None else sum(riders.paths(tree), 1.0), step
        trying = asking.trying(self._sources, self.rate)
        if self._peeking or (self._pace.on_trial and not trying):
            # What looks best among much that was hardly checked yet is seldom as good as it looks.
            if not self._pace.worth(1 + (tokens - 1) * CAUTION, step, self._clockwork):
                # Nothing is checked, so nothing comes of it either.
                self._expected = 1.0, self._step(1)
                return _EMPTY
            if self._peeking:
                self._trials.pay(sum([each.spent for each in self._sources if each.asked], 0.0))
                self._pace.wake()
                self._wake()
        self._kept, self._claims = kept, found.claims
        self._typical += 0.1 * (kept - self._typical)
        for source, count in zip(self._sources, found.shares, strict=True):
            source.riders = count
        return self._begun(drafts, tree)

    def _wake(self) -> None:
        """The turn is a drafted one; who was asked for a peek goes on being asked for a while."""
        for each in self._sources:
            if self._peeking and each.asked:
                each.begin(asking.LATELY)
        self._peeking, self.asked = False, True

    def _begun(self, drafts: Sequence[Draft | None], tree: Draft) -> Draft:
        """The tree, with the early rows that one of the drafters has run already."""
        found = [each for each in drafts if each is not None and each.began is not None]
        began = draft.begun(tree, found[0]) if found else None
        if began is None:
            return tree
        rows = len(tree.tokens) + 1 + draft.riders(tree)
        ready = sum(handle >= 0 for handle in began.handles)
        early = self._clockwork.early
        self._saved = early(rows, began.layer) - early(rows - ready, began.layer)
        tokens, step = self._expected
        self._expected = tokens, max(step - self._saved, 0.0)
        return replace(tree, began=began)

    # --- learning --------------------------------------------------------------------------------

    def observe(self, outcome: Outcome, rows: int, topk_seconds: float = 0.0) -> None:
        """Learn from a turn of `rows` rows. A drafter hears of turns in which it was asked."""
        if self._merged:
            free = asking.free(self._sources, self._core.rate)
            self._core.learn(outcome.emitted, self._kept, self._credits, free)
        else:
            self._credits[:] = 0
        if self._policy is not None and len(outcome.tree.tokens):
            self._policy.learn(len(outcome.tree.tokens), len(outcome.accepted))
        self._tell(outcome, rows, topk_seconds)
        step = self._step(rows) - self._saved
        self._core.pace(len(outcome.emitted), step + self._pace.host(self._clockwork, drafted=True))
        if self._policy is None and self._pending == 1:
            came = len(outcome.emitted)
            tokens, taken = self._expected if self._merged else (float(came), step)
            if self._pace.learn(tokens, came, taken, self._clockwork):
                self._retreat()

    def _retreat(self) -> None:
        """Drafting does not pay as it is: dear drafters are left out first, then it rests."""
        if asking.leave_out(self._sources, self.rate):
            self._pace.wake()
            self._pace.drafted = time_average()
        else:
            self._pace.rest()

    def _tell(self, outcome: Outcome, rows: int, topk_seconds: float) -> None:
        """Every drafter that was asked learns, and is judged by what it brought."""
        credits, count = self._credits.tolist(), len(self._sources)
        shared = topk_seconds / max(1, sum([each.asked for each in self._learners]))
        price = 0.0
        if rows > self._pending:
            added = self._step(rows) - self._step(self._pending)
            price = self._core.rate * added / (rows - self._pending)
        # Costs vary little: now and then is enough. A prompt's turn is no measure of the others.
        costs = self._pending == 1 and (self._turn % 4 == 0 or self._turn < 16)
        if self._claims:
            worth = riders.worth(outcome.tree, self._claims, price)
            outcome = replace(outcome, worth=worth)
        before = self._clock()
        for index, source in enumerate(self._sources):
            if not source.asked:
                if source.follows:
                    source.tell(*states_of_text(outcome))
                continue
            source.drafter.observe(outcome)
            now = self._clock() if costs else before
            told, before = now - before, now
            if source.silent and source.reads:
                # It did not know where it was, which says nothing of what it is worth.
                continue
            if costs:
                # Early rows that the step did not have to run are no price.
                spent = max(source.spent + told - self._saved * source.began, 0.0)
                source.cost.add(spent + shared if source.topk else spent)
            checked = credits[count + index] + source.riders
            source.gain.add(credits[index] - price * checked)

    def _step(self, rows: int) -> float:
        return self._clockwork.seconds[rows if rows < WIDEST else WIDEST]

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """The hidden states of rows of the text that ran before anybody was asked."""
        for source in self._readers:
            source.tell(start, hidden)

    def peeked(self, emitted: Sequence[int]) -> None:
        """A turn in which nothing was checked shows all the same what would have been right."""
        if self._peeking and self._merged:
            self._core.learn(emitted, 0, self._credits)

    def spent(self, rows: int, step: float, host: float) -> None:
        """The turn took `step` seconds for a step of so many rows, and `host` outside of it."""
        # The first turn after a prompt reads the whole of it: no measure of the others.
        if self._pending > 1:
            return
        if self.asked:
            self._pace.took(self._step(rows) - self._saved, step, self._clockwork)
        self._clockwork.add(rows, step + self._saved, not self.asked and not self._peeking)
        self._trials.earn(step + host, self._sources)
        if self._peeking:
            # What others' processes took is nobody's to pay.
            usual = sum([each.cost.value for each in self._sources if each.asked], 0.0)
            most = 2 * (usual + self._pace.host(self._clockwork, drafted=True))
            more = host - self._pace.host(self._clockwork, drafted=False)
            self._trials.pay(min(max(more, 0.0), most))
        else:
            # Finding out whether someone pays is no price of those who do.
            host -= sum([each.spent for each in self._sources if each.asked and each.tried], 0.0)
            self._pace.spent(max(host, 0.0), self._clockwork, drafted=self.asked)

    def begin(self, temperature: float = 0.0, ends: Collection[int] = ()) -> None:
        """A prompt is to be answered; its text ends before one of the tokens `ends`.

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
        self._ends = np.array(sorted(ends), np.int32)

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
        self._core.forget()
        for source, drafter in zip(self._sources, drafters, strict=True):
            source.drafter = drafter

    def reset(self) -> None:
        """The conversation is forgotten; what was learned about drafters stays."""
        for source in self._sources:
            source.drafter.reset()
