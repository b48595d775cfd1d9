"""What the costs of a step mean for drafting, in sentences and in the few numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from edgedec.costs import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAST = 128
"""The length of past at which the sentences hold."""

MOST = 64
"""Rows that are looked at."""

RIGHT = (0.5, 0.8, 0.95)
"""How often guesses are right in the sentences: seldom, often (that is the plan), when copying."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best number of tokens to check in a step, where guesses are `right` so often.

    `gain` is how many times as fast as one by one that is, drafting not counted.
    """

    right: float
    checks: int
    gain: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What pays on a device.

    `checks` is how many tokens a step should check where 8 of 10 guesses are right, and `ratio`
    what that costs, in steps of one. `break_even[n]` is how often the n-th token must be right to
    be worth its time, `best` the number to check by how often guesses are right.
    """

    checks: int
    ratio: float
    break_even: dict[int, float]
    best: tuple[Best, ...]
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)


def plan(costs: Costs, past: int = PAST) -> Plan:
    """The plan that costs lead to, after so many tokens of past."""
    times = costs.step(past, MOST)
    times[1:] += costs.host
    best = tuple(_best(times, right) for right in RIGHT)
    usual = best[RIGHT.index(0.8)]
    even = break_even(times)
    return Plan(
        checks=usual.checks,
        ratio=float(times[usual.checks] / times[1]),
        break_even=even,
        best=best,
        sentences=_sentences(times, best, even),
    )


def break_even(times: NDArray[np.float64]) -> dict[int, float]:
    """By number of rows, how often the last of them must be right to be worth its time.

    `times` are T of 0, 1, ... rows. Its time is that of the lower convex hull: on a staircase a
    planner goes on to where the stair ends. It is worth it if its chance is more than that time
    would have given without drafting. Above 1 it never is.
    """
    hull = [1]
    for n in range(2, len(times)):
        while len(hull) > 1 and _slope(times, hull[-2], hull[-1]) >= _slope(times, hull[-1], n):
            hull.pop()
        hull.append(n)
    return {
        n: float(_slope(times, low, high) / times[1])
        for low, high in pairwise(hull)
        for n in range(low + 1, high + 1)
    }


def _slope(times: NDArray[np.float64], low: int, high: int) -> float:
    return float((times[high] - times[low]) / (high - low))


def _best(times: NDArray[np.float64], right: float) -> Best:
    """Tokens per step are 1 + p + p^2 + ...: a guess counts if those before it were right."""
    tokens = np.cumsum(right ** np.arange(len(times) - 1))
    rates = tokens / times[1:]
    index = int(np.argmax(rates))
    return Best(right, index + 1, float(rates[index] / rates[0]))


def _sentences(
    times: NDArray[np.float64], best: tuple[Best, ...], even: dict[int, float]
) -> tuple[str, ...]:
    seldom, often, copying = best
    shown = often.checks if often.checks > 1 else 2
    first = (
        f"On this machine checking {shown} tokens costs {times[shown] / times[1]:.1f}x a step of "
        f"one ({milliseconds(times[shown])} against {milliseconds(times[1])} ms)."
    )
    if copying.checks == 1:
        return first, "Checking more than one token does not pay here: auto writes one by one."
    repeats = f"in text that repeats itself ({percent(copying.right)} right)"
    if often.checks == 1:
        return (
            first,
            f"auto writes one by one but {repeats}: there it checks up to {copying.checks} tokens, "
            f"{copying.gain:.1f}x as fast.",
        )
    half = str(seldom.checks) if seldom.checks > 1 else "none"
    second = (
        f"auto checks up to {often.checks} tokens where 8 of 10 guesses are right, "
        f"{often.gain:.1f}x as fast as one by one; {half} where half of them are; "
        f"{copying.checks} {repeats}, {copying.gain:.1f}x as fast."
    )
    return first, second, _marginal(even, sorted({2, often.checks, copying.checks}))


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three digits or a little more."""
    value = 1e3 * seconds
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def _marginal(even: dict[int, float], chosen: list[int]) -> str:
    shares = [percent(even[n]) for n in chosen]
    if len(set(shares)) == 1:
        return f"One more token pays if it is right {shares[0]} of the time."
    listed = ", ".join(
        f"{_ordinal(n)} {share}" for n, share in zip(chosen[1:], shares[1:], strict=True)
    )
    return f"A 2nd token pays if it is right {shares[0]} of the time, {listed}."


def percent(share: float) -> str:
    """A share in whole percent, 1 at least."""
    return f"{max(round(100 * share), 1)} %"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    article = "an" if number in (8, 11, 18) else "a"
    return f"{article} {number}{'th' if number % 100 in (11, 12, 13) else ending}"
