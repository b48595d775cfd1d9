"""Riders share the step, are heard of, and never come out."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec import draft
from edgedec.accept import Rule
from edgedec.contracts import Began, Context, Draft, Needs, Outcome
from edgedec.costs import flat
from edgedec.decode import Tally
from edgedec.errors import UsageError
from edgedec.plan import Planner
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.plain import Silent

from .looped import VOCAB, drafted, fake, run


class Prompting(Silent):
    """Guesses one token, right every other time, with two riders below the root and the guess."""

    def __init__(self, truth: list[int]) -> None:
        self._truth = truth
        self.outcomes: list[tuple[int, int, np.ndarray]] = []

    def propose(self, context: Context, budget: int) -> Draft:
        right = self._truth[context.index] if context.index < len(self._truth) else 0
        token = right if context.index % 2 else (right + 1) % VOCAB
        return Draft(
            np.array([token], np.int32),
            np.array([-1], np.int32),
            np.array([0.9], np.float32),
            np.zeros(1, np.int32),
            riders=[[VOCAB, VOCAB + 1], [VOCAB]],
            gains=(0.9, 0.8),
        )

    def observe(self, outcome: Outcome) -> None:
        assert outcome.topk is not None
        riders = sum(map(len, outcome.tree.riders or ()))
        self.outcomes.append((len(outcome.tree.tokens), riders, outcome.topk[0].copy()))


def test_riders_change_no_word_and_their_rows_are_told() -> None:
    rule = Rule(Sampler.build(Sampling(temperature=0.7, seed=3)), frozenset(), 40)
    plain = run(fake(), Silent(), [3, 4], rule).tokens
    engine = fake()
    engine.learn(np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    drafter = Prompting(plain)
    looped, _ = drafted(engine, engine.session(), [drafter], Needs(topk=2))
    tokens = [each.token for step in looped.run([3, 4], rule, Tally()) for each in step]
    assert tokens == plain
    assert all(token < VOCAB for token in tokens)
    assert any(riders for _, riders, _ in drafter.outcomes)
    for nodes, riders, best in drafter.outcomes:
        assert best.shape == (1 + nodes + riders, 2)


def test_riders_in_lanes_are_chains_beside_each_other() -> None:
    tree = Draft(
        np.array([5, 6], np.int32), np.array([-1, 0], np.int32), np.ones(2, np.float32),
        np.zeros(2, np.int32), riders=[[90, 91, 92, 93, 94, 95], [], [90, 91]], lanes=2,
    )  # fmt: skip
    rows = draft.rows([1, 2], tree, None, 10)
    assert rows.tokens.tolist() == [1, 2, 5, 6, 90, 91, 92, 93, 94, 95, 90, 91]
    assert rows.parents.tolist() == [-1, 10, 11, 12, 11, 11, 14, 15, 16, 17, 13, 13]
    begun, handles = draft.resumed(2, tree, Began(1, [3, -1, 4]), 10)
    assert begun.tokens.tolist() == [5, 90, 91, 92, 93, 94, 95, 90, 91]
    assert begun.parents.tolist() == [3, 3, 3, 11, 12, 13, 14, 4, 4]
    assert handles == [3, 10, 4, *range(11, 19)]


@pytest.mark.parametrize("lanes", [0, -1])
def test_riders_stand_in_lanes(lanes: int) -> None:
    none = np.zeros(0, np.int32)
    given = Draft(none, none, np.zeros(0, np.float32), none, [[VOCAB]], (1.0,), lanes=lanes)
    with pytest.raises(UsageError, match="lanes"):
        draft.check(given, VOCAB)
    with pytest.raises(UsageError, match="lanes"):
        planner(Offer(given)).propose(Context([1], 1, 0), 1, 40, 9)


class Offer(Silent):
    """Proposes what it was given, and keeps what it hears."""

    def __init__(self, given: Draft) -> None:
        self.given = given
        self.worth: list[float] | None = None

    def propose(self, context: Context, budget: int) -> Draft:
        return self.given

    def observe(self, outcome: Outcome) -> None:
        self.worth = list(outcome.worth)


def planner(*drafters: Offer, growth: float = 1e-3) -> Planner:
    return Planner([(each, False) for each in drafters], flat(growth=growth), VOCAB)


def chain(tokens: list[int], riders: int, gains: tuple[float, ...], lanes: int = 1) -> Draft:
    count = len(tokens)
    below = [range(VOCAB, VOCAB + riders)] * (count + 1) if riders else None
    return Draft(
        np.array(tokens, np.int32), np.arange(-1, count - 1, dtype=np.int32),
        np.full(count, 0.9, np.float32), np.zeros(count, np.int32), below, gains, lanes=lanes,
    )  # fmt: skip


def test_only_whole_levels_of_riders_run() -> None:
    """The third rider alone pays, but not the second of its level."""
    given = chain([], 6, (0.9, 0.9, 0.9, 0.0, 0.0, 0.0), lanes=2)
    found = planner(Offer(given), growth=0.02).propose(Context([1], 1, 0), 1, 40, 9)
    assert (found.riders, found.lanes) == (((VOCAB, VOCAB + 1),), 2)


def test_riders_hang_below_what_others_propose_and_not_beyond_the_text() -> None:
    rides, guesses = Offer(chain([3], 2, (0.9, 0.5))), Offer(chain([4, 5, 6], 0, ()))
    found = planner(rides, guesses).propose(Context([1], 1, 0), 1, 40, 3)
    depths = {3: 1, 4: 1, 5: 2, 6: 3}
    assert sorted(found.tokens.tolist()) == [3, 4, 5, 6]
    assert found.riders is not None
    assert len(found.riders[0]) == 2
    for token, riders in zip(found.tokens.tolist(), found.riders[1:], strict=True):
        assert len(riders) == min(2, 3 - depths[token])


def test_nodes_are_worth_their_chance_less_their_price_shared_by_what_was_said_for_them() -> None:
    rides, guesses = Offer(chain([3, 4], 1, (0.9,))), Offer(chain([3], 0, ()))
    planned = planner(rides, guesses, growth=0.05)
    context = Context([1], 1, 0)
    found = planned.propose(context, 1, 40, 9)
    assert found.tokens.tolist() == [3, 4]
    rows = 3 + draft.riders(found)
    rate = planned.rate
    planned.observe(Outcome(found, context, (), (7,)), rows)
    price = rate * 1e-3 * 0.05
    chance = found.score.tolist()
    wanted = [(chance[0] - price) / 2, chance[0] * chance[1] - price]
    assert rides.worth == pytest.approx(wanted, rel=0.05)


def test_what_riders_promise_counts_in_the_turn_that_they_prepare() -> None:
    """A drafter whose riders promise much and whose guesses are wrong does not seem to pay."""
    given = chain([3], 3, (0.9, 0.9, 0.9))
    planned = planner(Offer(given), growth=0.2)
    context, ridden = Context([1], 1, 0), 0
    for _ in range(80):
        found = planned.propose(context, 1, 40, 9)
        if planned.rests:
            break
        rows = 1 + len(found.tokens) + draft.riders(found)
        ridden += draft.riders(found) > 0
        planned.observe(Outcome(found, context, (), (7,)), rows)
        planned.spent(rows, 1e-3 * (1 + 0.2 * (rows - 1)), 1e-6)
    assert 0 < ridden < 40
