"""Who is asked, when drafting rests, and riders, on pretend drafters with a scripted clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedec import asking, draft
from edgedec.contracts import Context, Draft, Outcome
from edgedec.costs import Costs
from edgedec.errors import UsageError
from edgedec.pace import WIDEST, Clockwork, Pace
from edgedec.plan import Planner
from edgedec.strategies.plain import Silent

from .both import tree

if TYPE_CHECKING:
    from edgedec.contracts import Floats

VOCAB = 10
STEP = Costs((1, 2, 8, 64), (0,), ((1e-3, 1.1e-3, 1.6e-3, 8e-3),), (0.0,) * 4)


class Clock:
    """Time passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Guess(Silent):
    """Proposes token 3, and is right in turns of which `right` is true."""

    def __init__(self, clock: Clock, seconds: float, token: int = 3) -> None:
        self.clock, self.seconds, self.token = clock, seconds, token
        self.asked = self.heard = 0

    def propose(self, context: Context, budget: int) -> Draft:
        self.asked += 1
        self.clock.now += self.seconds
        return tree([self.token], [-1], [0.5])

    def observe(self, outcome: Outcome) -> None:
        self.heard += 1


def proposed(planner: Planner, context: Context) -> Draft:
    """What the loop gets: nothing while the planner rests."""
    if planner.rests:
        planner.rests -= 1
        planner.asked = False
        return draft.empty()
    return planner.propose(context, 1, 40, 9)


def turns(planner: Planner, clock: Clock, truth: list[int], host: float = 2e-5) -> list[int]:
    """Run turns in which `truth[i]` comes next; returns how many nodes each checked."""
    checked = []
    tokens = [1, 2]
    for token in truth:
        context, resting = Context(tokens, 1, 0), planner.rests > 0
        began = clock.now
        found = proposed(planner, context)
        took = clock.now - began
        right = [i for i in range(len(found.tokens)) if found.tokens[i] == token]
        emitted = (token, 0) if right else (token,)
        if planner.asked:
            outcome = Outcome(found, context, tuple(right[:1]), emitted)
            planner.observe(outcome, 1 + len(found.tokens))
        elif not resting:
            planner.peeked(emitted)
        rows = 1 + len(found.tokens)
        if not resting:
            planner.spent(rows, float(STEP.step(0, 64)[rows]), host + took)
        checked.append(len(found.tokens))
        tokens += emitted
    return checked


def test_a_drafter_that_is_right_is_checked_and_one_that_is_wrong_is_not() -> None:
    for right, share in ((True, 0.9), (False, 0.0)):
        clock = Clock()
        planner = Planner([(Guess(clock, 1e-6), False)], STEP, VOCAB, clock=clock)
        checked = turns(planner, clock, [3 if right else 4] * 200)
        assert np.mean(checked[100:]) >= share if right else np.mean(checked[100:]) <= 0.05


def test_a_drafter_that_costs_more_than_it_brings_is_hardly_asked() -> None:
    clock = Clock()
    cheap, dear = Guess(clock, 1e-6), Guess(clock, 5e-3, token=5)
    planner = Planner([(cheap, False), (dear, False)], STEP, VOCAB, clock=clock)
    turns(planner, clock, [3] * 300)
    assert cheap.asked > 250
    assert dear.asked < 30
    assert dear.heard == dear.asked  # it hears of the turns it was asked in, no others


class Reading(Guess):
    """It follows hidden states, and tells where it was asked without having seen the last."""

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Nothing to remember."""


@pytest.mark.parametrize("kind", [Guess, Reading])
@pytest.mark.parametrize("seconds", [5e-3, 1e-3])
def test_a_lone_dear_drafter_that_is_wrong_takes_no_more_than_its_share(
    kind: type[Guess], seconds: float
) -> None:
    """Whether drafting rests or is tried again after a rest: a turn takes 1 ms, it 1 or 5."""
    clock = Clock()
    guess = kind(clock, seconds)
    planner = Planner([(guess, False)], STEP, VOCAB, clock=clock)
    turns(planner, clock, [4] * 20)
    assert guess.asked == (2 if seconds > 4e-3 else 8), "then it is known"
    turns(planner, clock, [4] * 4500)
    assert guess.asked * seconds <= 1.2 * asking.SHARE * 4500 * 1e-3 + 8 * seconds
    assert guess.asked > 6, "it is asked again all the same"


def test_a_lone_dear_drafter_that_became_right_comes_back() -> None:
    clock = Clock()
    guess = Reading(clock, 0.3e-3)
    planner = Planner([(guess, False)], STEP, VOCAB, clock=clock)
    turns(planner, clock, [4] * 300)
    checked = turns(planner, clock, [3] * 1500)
    assert np.mean(checked[-200:]) > 0.9


def test_a_drafter_that_became_right_comes_back() -> None:
    clock = Clock()
    guess = Guess(clock, 1e-6)
    planner = Planner([(guess, False)], STEP, VOCAB, clock=clock)
    turns(planner, clock, [4] * 400)
    checked = turns(planner, clock, [3] * 800)
    assert np.mean(checked[-200:]) > 0.9


def test_where_drafting_takes_longer_than_it_saves_turns_are_plain() -> None:
    """Right half of the time, but drafted turns take a whole step's time of the host."""
    clock = Clock()
    guess = Guess(clock, 1e-6)
    planner = Planner([(guess, False)], STEP, VOCAB, clock=clock)
    tokens = [1]
    asked = []
    for turn in range(600):
        before = guess.asked
        context = Context(tokens, 1, 0)
        found = proposed(planner, context)
        token = 3 if turn % 2 else 4
        hit = bool(len(found.tokens)) and token == 3
        outcome = Outcome(found, context, (0,) if hit else (), (token, 0) if hit else (token,))
        if planner.asked:
            planner.observe(outcome, 1 + len(found.tokens))
        rows = 1 + len(found.tokens)
        host = 1.5e-3 if guess.asked > before else 1e-5
        planner.spent(rows, float(STEP.step(0, 64)[rows]), host)
        asked.append(guess.asked > before)
    assert np.mean(asked[:8]) >= 0.5
    assert np.mean(asked[300:]) < 0.15


def test_other_policies_are_always_asked() -> None:
    clock = Clock()
    guess = Guess(clock, 1e-6)
    planner = Planner([(guess, False)], STEP, VOCAB, "fixed", clock)
    assert turns(planner, clock, [4] * 50) == [1] * 50


def test_no_room_no_draft() -> None:
    clock = Clock()
    guess = Guess(clock, 1e-6)
    planner = Planner([(guess, False)], STEP, VOCAB, clock=clock)
    context = Context([1], 1, 0)
    for pending, budget, depth in ((1, 0, 9), (1, 9, 0), (WIDEST, 9, 9)):
        assert len(planner.propose(context, pending, budget, depth).tokens) == 0
    assert guess.asked == 0


class Rider(Silent):
    """Two guesses with riders."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def propose(self, context: Context, budget: int) -> Draft:
        riders = [[VOCAB, VOCAB + 1], [VOCAB], []]
        return tree([3, 4], [-1, 0], [0.9, 0.9], None, riders, (self.gain, self.gain / 2))


def test_riders_are_kept_where_they_pay() -> None:
    flat = Costs((1, 64), (0,), ((1e-3, 1.01e-3),), (0.0, 0.0))
    found = Planner([(Rider(0.9), False)], flat, VOCAB).propose(Context([1], 1, 0), 1, 40, 9)
    assert found.tokens.tolist() == [3, 4]
    assert found.riders is not None
    assert [list(each) for each in found.riders] == [[VOCAB, VOCAB + 1], [VOCAB], []]
    steep = Costs((1, 64), (0,), ((1e-3, 1e-3 * 64),), (0.0, 0.0))
    found = Planner([(Rider(0.9), False)], steep, VOCAB).propose(Context([1], 1, 0), 1, 40, 9)
    assert found.riders is None


def test_too_many_drafters_are_refused() -> None:
    with pytest.raises(UsageError, match="9 drafters at once; at most 8"):
        Planner([(Silent(), False)] * 9, STEP, VOCAB)


def test_times_follow_what_steps_really_take() -> None:
    """The table says that eight rows cost 1.6 times one; they take ten times as long: none pay."""
    for factor, expected in ((1.0, 1.0), (10.0, 0.0)):
        clock = Clock()
        planner = Planner([(Guess(clock, 1e-6), False)], STEP, VOCAB, clock=clock)
        tokens, checked = [1], []
        for turn in range(300):
            found = proposed(planner, Context(tokens, 1, 0))
            rows = 1 + len(found.tokens)
            hit = bool(rows > 1) and turn % 10 < 6
            outcome = Outcome(found, Context(tokens, 1, 0), (0,) if hit else (), (3, 0)[: 1 + hit])
            if planner.asked:
                planner.observe(outcome, rows)
            slow = factor if rows > 1 else 1.0
            planner.spent(rows, slow * float(STEP.step(0, 64)[rows]), 1e-5)
            checked.append(rows > 1)
        assert abs(np.mean(checked[-100:]) - expected) < 0.3


def test_a_machine_that_was_slow_is_not_believed_to_be_so_for_long() -> None:
    """Plain steps were measured in a slow phase; while drafting goes on, few of them are."""
    clockwork = Clockwork(STEP)
    for _ in range(60):
        clockwork.add(1, 1.6e-3, plain=True)
    assert clockwork.plain == pytest.approx(1.6e-3, rel=0.1)
    for turn in range(5 * 128):
        plain = turn % 128 in (2, 3)
        clockwork.add(1 if plain else 4, 1e-3 if plain else 1.2e-3, plain)
    assert clockwork.plain < 1.2e-3


def test_a_machine_that_is_slow_for_a_while_is_so_for_plain_steps_as_well() -> None:
    """While text is drafted plain steps are seldom measured: single rows between others tell."""
    clockwork, pace = Clockwork(STEP), Pace()
    for turn in range(200):
        clockwork.add(1, 0.8e-3 if turn % 4 > 1 else 1e-3, plain=turn % 4 > 0)
        pace.spent(1e-5, clockwork, drafted=False)
    assert clockwork.plain == pytest.approx(0.8e-3, rel=0.02)
    for turn in range(180):
        clockwork.add(1 if turn % 3 == 0 else 4, 1.5e-3 if turn % 3 == 0 else 2e-3, plain=False)
    assert clockwork.plain == pytest.approx(1.2e-3, rel=0.05)
    # So does what it takes the host, which was measured when it was not slow.
    assert pace.host(clockwork, drafted=False) == pytest.approx(1.5e-5, rel=0.05)
    pace.spent(4.5e-5, clockwork, drafted=True)
    assert pace.host(clockwork, drafted=True) == pytest.approx(4.5e-5)
    assert pace.worth(1.5, 1.35e-3, clockwork)
    assert not pace.worth(1.5, 1.75e-3, clockwork)


def test_a_plain_step_among_plain_ones_has_a_time_of_its_own() -> None:
    clockwork = Clockwork(STEP)
    for turn in range(400):
        drafted, rows = turn % 8 < 4, 1 + 7 * (turn % 2)
        if drafted:
            clockwork.add(rows, 1e-3 if rows == 1 else 1.6e-3, plain=False)
        else:
            clockwork.add(1, 1e-3 if turn % 8 == 4 else 0.6e-3, plain=True)
    clockwork.follow(0)
    assert clockwork.plain == pytest.approx(0.6e-3, rel=0.01)
    assert 0.6e-3 < clockwork.times[1] < 1e-3
    assert clockwork.times[8] == pytest.approx(1.6e-3, rel=0.01)
