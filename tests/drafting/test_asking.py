"""Who is asked: what pays, what is hardly a price, and now and then what did not pay of late."""

from __future__ import annotations

import pytest

from edgedec import asking
from edgedec.asking import EXPLORE, SHARE, Source, Trials
from edgedec.strategies.plain import Silent

RATE, TURN = 1000.0, 1e-3


def source(seconds: float, gain: float) -> Source:
    found = Source.of(Silent(), topk=False)
    for _ in range(20):
        found.cost.add(seconds)
        found.gain.add(gain)
    found.turns = 20
    return found


def test_it_is_asked_if_it_brings_more_than_its_time() -> None:
    assert source(0.5e-3, 0.6).wanted(RATE)
    assert not source(0.5e-3, 0.4).wanted(RATE)
    assert source(0.01e-3, -1.0).wanted(RATE), "its time is worth nothing"
    assert Source.of(Silent(), topk=False).wanted(RATE), "nothing is known of it"


def turns(sources: list[Source], count: int) -> list[int]:
    """How often each is asked in so many turns that take TURN each and what is asked besides."""
    trials, asked = Trials(), [0] * len(sources)
    for _ in range(count):
        trials.explore(sources, RATE)
        found = [each.wanted(RATE) for each in sources]
        spent = sum(s.cost.value for s, yes in zip(sources, found, strict=True) if yes)
        trials.earn(TURN + spent, sources)
        asked = [a + yes for a, yes in zip(asked, found, strict=True)]
    return asked


@pytest.mark.parametrize("dear", [[5e-3], [2e-3, 8e-3, 3e-3]])
def test_dear_ones_take_no_more_than_their_share_of_the_time(dear: list[float]) -> None:
    count = 4000
    asked = turns([source(seconds, 0.0) for seconds in dear], count)
    spent = sum(a * s for a, s in zip(asked, dear, strict=True))
    assert spent <= 1.1 * SHARE * (count * TURN + spent) + 2 * max(dear)
    assert min(asked) >= 2, "each comes back some time"


def test_cheap_ones_come_back_soon() -> None:
    (asked,) = turns([source(0.05e-3, 0.0)], 10 * (EXPLORE + 2))
    assert asked == pytest.approx(20, abs=3)


def test_two_turns_make_a_trial() -> None:
    each = source(0.05e-3, 0.0)
    each.idle = EXPLORE
    Trials().explore([each], RATE)
    assert [each.wanted(RATE) for _ in range(4)] == [True, True, False, False]


def test_a_peek_costs_little_or_is_left_out() -> None:
    trials, cheap, dear = Trials(), source(0.05e-3, 0.0), source(5e-3, 0.0)
    assert trials.peek(cheap, RATE)
    assert not trials.peek(dear, RATE)
    trials.earn(5e-3 / SHARE, [cheap, dear])
    assert not trials.peek(dear, RATE), "what a trial needs is left"
    trials.earn(10e-3 / SHARE, [cheap, dear])
    assert trials.peek(dear, RATE)
    trials.pay(5e-3)
    assert not trials.peek(dear, RATE), "the time is spent"
    trials.pay(11e-3)
    assert not trials.peek(cheap, RATE), "many that cost little cost much"


def test_after_a_rest_those_are_tried_whom_time_is_left_for() -> None:
    cheap, near, far = source(0.05e-3, 0.0), source(4e-3, 0.0), source(9e-3, 0.0)
    trials = Trials()
    trials.again([far, near, cheap], RATE)
    assert (cheap.trial, near.trial, far.trial) == (2, 0, 0)
    trials.earn(8e-3 / SHARE, [far, near, cheap])
    trials.again([far, near, cheap], RATE)
    assert (near.trial, far.trial) == (2, 0)


def test_what_could_never_pay_is_known_sooner() -> None:
    for seconds, turns in ((2e-3, 8), (10e-3, 2)):
        each = Source.of(Silent(), topk=False)
        asked = 0
        while each.wanted(RATE):
            each.cost.add(seconds)
            each.gain.add(0.0)
            asked += 1
        assert asked == turns


def test_what_hardly_costs_is_free() -> None:
    assert asking.free([source(1e-3, 0), source(0.05e-3, 0), source(0.02e-3, 0)], RATE) == 0b110


def test_dear_ones_are_left_out_before_drafting_rests() -> None:
    dear, cheap = source(0.5e-3, 0.9), source(0.01e-3, 0.5)
    for each in (dear, cheap):
        assert each.wanted(RATE)
        each.asked = True
    assert asking.leave_out([dear, cheap], RATE)
    assert [each.wanted(RATE) for each in (dear, cheap)] == [False, True]
    dear.asked = False
    assert not asking.leave_out([dear, cheap], RATE), "then there is nobody to leave out"
    alone = source(0.5e-3, 0.9)
    alone.asked = True
    assert not asking.leave_out([alone], RATE), "nor anybody else to go on with"
