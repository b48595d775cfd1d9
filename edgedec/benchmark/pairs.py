"""Pairs of runs, plain and drafted right after one another, and what can be said of many.

A machine drifts by tens of percent within minutes, so a speed-up is the median of the ratios within
pairs, never the ratio of two averages. It knows generations, and nothing of how they came about.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedec.generation import Generation

DRAWS = 2000
REPEATS = 0.6
"""A text with a smaller share of different runs of 4 tokens repeats itself."""


@dataclass(frozen=True)
class Work:
    """What one contestant did in one pair: an answer for each turn of each prompt."""

    answers: tuple[Generation, ...]

    @property
    def new_tokens(self) -> int:
        """The tokens of all answers."""
        return sum(answer.new_tokens for answer in self.answers)

    @cached_property
    def rate(self) -> float | None:
        """Tokens per second from each answer's first token on; None where none has two."""
        timed = [(a.new_tokens - 1, a.tokens_per_second) for a in self.answers]
        seconds = sum(tokens / rate for tokens, rate in timed if rate)
        return sum(tokens for tokens, rate in timed if rate) / seconds if seconds else None

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """The token ids of each answer."""
        return [answer.tokens for answer in self.answers]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same prompts answered twice."""

    plain: Work
    drafted: Work

    @property
    def ratio(self) -> float | None:
        """How many times as fast the drafted run was."""
        if self.plain.rate is None or self.drafted.rate is None:
            return None
        return self.drafted.rate / self.plain.rate

    @property
    def identical(self) -> bool:
        """Whether every token of every answer is the same."""
        return self.plain.tokens == self.drafted.tokens


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the 95 % interval that a bootstrap gives it."""

    median: float
    low: float
    high: float


def median(ratios: Sequence[float], seed: int = 0) -> Interval | None:
    """The median of ratios, and between what the medians of resamples lie; None without any.

    The bootstrap is seeded: the same ratios give the same interval.
    """
    return mean_of_medians([ratios], seed) if ratios else None


def mean_of_medians(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval | None:
    """The mean over groups of each group's median; resamples draw within each group."""
    if not groups:
        return None
    random = np.random.default_rng(seed)
    drawn = np.zeros(DRAWS)
    for group in groups:
        values = np.asarray(group, np.float64)
        picks = random.integers(0, len(values), (DRAWS, len(values)))
        drawn += np.median(values[picks], axis=1)
    low, high = np.percentile(drawn / len(groups), (2.5, 97.5))
    middle = statistics.fmean(statistics.median(group) for group in groups)
    return Interval(middle, float(low), float(high))


def distinct(texts: Iterable[Sequence[int]], size: int = 4) -> float | None:
    """The share of different runs of `size` tokens within a text, averaged over texts; None where
    no text is so long."""
    shares = []
    for text in texts:
        runs = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
        if runs:
            shares.append(len(set(runs)) / len(runs))
    return statistics.fmean(shares) if shares else None
