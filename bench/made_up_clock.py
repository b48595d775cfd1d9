"""What the planner makes of a machine that is made up: python bench/made_up_clock.py --help.

A real model writes, but the clock is ours: each step takes what a table says for its rows, each
drafter and the rest of a turn so many microseconds, with some noise, and for a while everything
takes half as long again. So two versions of the planner can be told apart within a minute, on
however noisy a machine: what is left is the chance of where a text falls. It says nothing of how
long anything takes.
"""

from __future__ import annotations

import math
import os
import random
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
STEPS = {
    # Microseconds of a step by rows: both models on Zen 4, and 135 M where rows are nearly free.
    "stories": (112, 142, 170, 197, 280, 355, 530, 700, 1050, 1400, 2800),
    "fix": (85, 105, 135, 160, 205, 250, 400, 540, 800, 1060, 2100),
    "135m": (2000, 2060, 2120, 2200, 2380, 2600, 3300, 4200, 6300, 8400, 16800),
}
PLAIN, DRAFTED = 12.0, 16.0
"""Microseconds of the host in a plain turn, and more in one in which somebody was asked."""
ASKED = {
    "Copyist": 10.0, "Counts": 5.0, "Editor": 10.0, "Lookup": 4.0, "Pool": 5.0, "Recycler": 16.0,
}  # fmt: skip
OTHERS = 330.0
"""What a drafter takes: one of these, or one that runs a part of its own."""
WARM = 0.75
"""A single row after another one finds everything in place, and takes so much of its time."""
NOISE, HELD_UP, CHANGES = 0.08, 0.002, 1 / 3000
"""The spread of a time, how often one is three times as long, and how often the machine changes
between its usual pace and 1.5 times that."""


class Clock:
    """Seconds that pass when something is said to take them."""

    def __init__(self, seed: int) -> None:
        self._now, self._random = 0.0, random.Random(seed)
        self.slow = 1.0

    def __call__(self) -> float:
        return self._now

    def take(self, microseconds: float) -> None:
        """So many, more or less."""
        noise = math.exp(self._random.gauss(0, NOISE))
        noise *= 3 if self._random.random() < HELD_UP else 1
        self._now += 1e-6 * microseconds * self.slow * noise

    def turn(self) -> None:
        """A turn is over."""
        if self._random.random() < CHANGES:
            self.slow = 1.0 if self.slow > 1 else 1.5


class Timed:
    """A session whose steps take what the table says."""

    def __init__(self, inner: Any, clock: Clock, table: tuple[int, ...]) -> None:
        self._inner, self._clock, self._table = inner, clock, table
        self.truncate, self.encode = inner.truncate, inner.encode
        self.asked, self._rows = False, 0

    @property
    def tokens(self) -> Any:
        return self._inner.tokens

    def step(self, rows: Any, layers: Any = None, want: Any = None) -> Any:
        count = len(rows.tokens)
        warm = WARM if count == self._rows == 1 else 1.0
        self._clock.take(warm * float(np.interp(count, ROWS, self._table)))
        self._rows = count
        return self._inner.step(rows, layers, want)

    def resume(self, handles: Any, layers: Any, want: Any = None) -> Any:
        self._clock.take(float(np.interp(len(handles), ROWS, self._table)))
        return self._inner.resume(handles, layers, want)

    def keep(self, leaves: Any) -> Any:
        self._clock.take(PLAIN + (DRAFTED if self.asked else 0))
        self._clock.turn()
        self.asked = False
        return self._inner.keep(leaves)


class Asked:
    """A drafter that takes its time."""

    def __init__(self, inner: Any, session: Timed, clock: Clock) -> None:
        self.inner, self._session, self._clock = inner, session, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def propose(self, context: Any, budget: int) -> Any:
        self._session.asked = True
        self._clock.take(ASKED.get(type(self.inner).__name__, OTHERS))
        return self.inner.propose(context, budget)


@dataclass(frozen=True)
class Case:
    """What is looked at."""

    model: str
    strategy: str
    machine: str
    texts: int


def opened(case: Case, clock: Clock) -> tuple[Any, Timed]:
    """The model under that clock, and its session."""
    from edgedec import api, drafting
    from edgedec.costs import Costs
    from edgedec.devices import EngineOptions
    from edgedec.model import Model

    table = STEPS[case.machine]
    chosen = drafting.choose(case.strategy)
    setup = api.assemble(case.model, EngineOptions(device=""), None, chosen)
    seconds = tuple(1e-6 * each for each in table)
    none = (0.0,) * len(ROWS)
    costs = Costs(ROWS, (0,), (seconds,), none, 1e-6 * PLAIN, setup.costs.depth)
    model = Model(replace(setup, clock=clock, costs=costs))
    session = model._session = model._loop._session = Timed(model._session, clock, table)
    return model, session


def run(case: Case, name: str, seed: int) -> tuple[float, float, float]:
    """The median and the mean speed-up of the texts of a workload, and their tokens a pass."""
    from edgedec.benchmark.workloads import shipped

    clock, ratios, tokens, passes = Clock(seed), [], 0, 0
    model, session = opened(case, clock)
    workload = shipped(name)
    for number in range(case.texts):
        model.forget()
        for source in model._planner._sources:
            if not isinstance(source.drafter, Asked):
                source.drafter = Asked(source.drafter, session, clock)
        prompt = workload.prompts[(number + 17 * seed) % len(workload.prompts)]
        given = prompt.turns[0]
        done = model.generate(
            [{"role": "user", "content": given}] if prompt.chat else given,
            max_new_tokens=workload.longest, temperature=workload.temperature, seed=number,
        )  # fmt: skip
        tokens, passes = tokens + done.new_tokens, passes + done.passes
        if done.tokens_per_second:
            plain = 1e-6 * (WARM * STEPS[case.machine][0] + PLAIN) * clock.slow
            ratios.append(done.tokens_per_second * plain)
    mean = len(ratios) / sum(1 / ratio for ratio in ratios)
    return statistics.median(ratios), mean, tokens / max(1, passes)


@click.command(help=__doc__)
@click.argument("workloads", nargs=-1)
@click.option("-m", "--model", default="stories", show_default=True)
@click.option("--strategy", default="auto", show_default=True)
@click.option("--machine", type=click.Choice(list(STEPS)), default="stories", show_default=True)
@click.option("--texts", default=60, show_default=True)
@click.option("--seeds", default=6, show_default=True)
def main(workloads: tuple[str, ...], model: str, strategy: str, machine: str, texts: int,
         seeds: int) -> None:  # fmt: skip
    # Compiled code asks the clock as it was when it was made.
    os.environ["EDGEDEC_COMPILED"] = "0"
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    case = Case(name, strategy, machine, texts)
    for workload in workloads or ("story", "story-0.8", "continue", "edit", "quote", "list"):
        found = [run(case, workload, seed) for seed in range(seeds)]
        median, mean, tokens = (statistics.mean(each) for each in zip(*found, strict=True))
        each = " ".join(f"{one[1]:.2f}" for one in found)
        click.echo(f"{workload:10} {median:.3f} (means {mean:.3f}: {each})  {tokens:.2f} a pass")


if __name__ == "__main__":
    main()
