"""A part as tests make it up, and a loop whose time is told and not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgedec.accept import Rule
from edgedec.contracts import Draft, Engine, Layers, Needs, Outcome, Rows, Session, Source, Want
from edgedec.costs import Costs, flat
from edgedec.decode import Loop, Tally
from edgedec.host import Files, Scratch
from edgedec.plan import Planner
from edgedec.policies import BEST

SOURCE = Source((5, 9, 13, 2, 40, 7), "")


@dataclass
class Stub:
    """Vectors and matrices in numpy; `table` [V, D] are the model's embeddings."""

    about: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    table: np.ndarray | None = None

    def vectors(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def embed(self, ids: np.ndarray) -> np.ndarray:
        assert self.table is not None
        return self.table[ids]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        bias = self.tensors.get(f"{name}.bias", np.float32(0))
        return (x @ self.tensors[name].T + bias).astype(np.float32)


class Clock:
    """Time passes only where a step was taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A session whose steps take what a table says; it counts them."""

    def __init__(self, inner: Session, clock: Clock, costs: Costs) -> None:
        self._inner, self.clock = inner, clock
        self.times = costs.step(0, 1024)
        self.rows: list[Rows] = []
        self.early: list[Rows] = []
        """What was run through some of the layers only."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, rows: Rows, layers: Layers | None = None, want: Want | None = None) -> Any:
        result = self._inner.step(rows, layers, want)
        (self.rows if layers is None else self.early).append(rows)
        self.clock.now += float(self.times[len(rows.tokens)])
        return result


class Watch:
    """A drafter as it is, and what it proposed and heard."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.rides = getattr(inner, "rides", False)
        self.turns: list[tuple[Draft, list[int], int]] = []
        """What was proposed after which tokens, of which so many were not run yet."""
        self.heard: list[tuple[int, tuple[int, ...], list[list[int]]]] = []
        """How long the text was, the accepted nodes, and the riders of each row."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def propose(self, context: Any, budget: int) -> Draft:
        found = self.inner.propose(context, budget)
        kept = [array.copy() for array in (found.tokens, found.parents, found.score, found.rank)]
        self.turns.append((Draft(*kept, found.riders), list(context.tokens), context.pending))
        return found

    def observe(self, outcome: Outcome) -> None:
        self.inner.observe(outcome)
        below = [list(each) for each in outcome.tree.riders or ()]
        self.heard.append((len(outcome.context.tokens), outcome.accepted, below))


@dataclass
class Written:
    tokens: list[int]
    tally: Tally
    session: Timed
    drafters: list[Watch]


def write(
    engine: Engine,
    model: Any,
    strategies: Sequence[Any],
    prompt: Sequence[int],
    rule: Rule,
    *,
    costs: Costs | None = None,
    part: Any = None,
    session: Session | None = None,
    policy: str = BEST,
) -> Written:
    """What the loop writes with some strategies, or with none."""
    clock, costs = Clock(), costs or flat(growth=0.01)
    timed = Timed(session or engine.session(), clock, costs)
    host = Scratch(engine, timed, model, Files(lambda path: engine, open_part=lambda name: part))
    needs = [each.needs(host) for each in strategies]
    drafters = [Watch(each.open(host)) for each in strategies]
    pairs = [(each, need.topk > 0) for each, need in zip(drafters, needs, strict=True)]
    planner = Planner(pairs, costs, model.vocab, policy, clock)
    wanted = Needs(
        topk=max([0, *(need.topk for need in needs)]),
        hidden=tuple(sorted({layer for need in needs for layer in need.hidden})),
    )
    looped = Loop(timed, host, planner, wanted, clock)
    if model.encoder is not None:
        looped.encode(np.array(SOURCE.tokens, np.int32), SOURCE)
    tally = Tally()
    steps = looped.run(prompt, rule, tally)
    tokens = [each.token for step in steps for each in step]
    return Written(tokens, tally, timed, drafters)
