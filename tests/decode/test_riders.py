"""Riders share the step, are heard of, and never come out."""

from __future__ import annotations

import numpy as np

from edgedec.accept import Rule
from edgedec.contracts import Context, Draft, Needs, Outcome
from edgedec.decode import Tally
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
    engine.set_learned(np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    drafter = Prompting(plain)
    looped, _ = drafted(engine, engine.session(), [drafter], Needs(topk=2))
    tokens = [each.token for step in looped.run([3, 4], rule, Tally()) for each in step]
    assert tokens == plain
    assert all(token < VOCAB for token in tokens)
    assert any(riders for _, riders, _ in drafter.outcomes)
    for nodes, riders, best in drafter.outcomes:
        assert best.shape == (1 + nodes + riders, 2)
