"""What is trained: a batch of texts, and the protocol between the frame and one trainer.

A trainer is a module of this folder with the name of its strategy, a class `Options` and a function
`build(frozen, options, texts) -> Trainee`. It knows nothing about schedules or files.

Shapes: b texts, T rows, P points.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgedec.export.to_part import PartSource


@dataclass(frozen=True)
class Batch:
    """Texts of one length or filled up with 0 on the right.

    `tokens` [b, T]; `lengths` [b] of the texts; `prompts` [b]: so many first tokens were given to
    the model. With an encoder `sources` [b, s] are what it read. All that is random in a step is
    drawn from `dice`, so that a training that is resumed goes the same way.
    """

    tokens: Tensor
    lengths: Tensor
    prompts: Tensor
    dice: torch.Generator
    sources: Tensor | None = None
    source_lengths: Tensor | None = None


class Stopped(Exception):
    """The end was asked for in the middle of something long."""


Hear = Callable[[float], object]
"""Told now and then the share of something long that is done; raises `Stopped` where the end was
asked for."""


@dataclass
class Work:
    """Something long, in units that take about as long as one another."""

    total: int
    hear: Hear = lambda share: None
    done: int = 0

    def add(self, units: int = 1) -> None:
        """So many are done.

        Raises:
            Stopped: `hear` said so.
        """
        self.done += units
        self.hear(self.done / self.total)


class Tally(NamedTuple):
    """How often guesses were right: `right[d]` of `asked[d]` guesses d + 1 tokens deep.

    A guess is asked for where all shallower ones were right.
    """

    right: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        depth = max(len(self.right), len(other.right))
        pads = [(*each, *(0,) * (depth - len(each))) for each in (*self, *other)]
        right, asked, more, others = pads
        return Tally(
            tuple(a + b for a, b in zip(right, more, strict=True)),
            tuple(a + b for a, b in zip(asked, others, strict=True)),
        )

    @property
    def shares(self) -> list[float]:
        """The share of right guesses at each depth."""
        return [right / max(1, asked) for right, asked in zip(*self, strict=True)]

    @property
    def expected(self) -> float:
        """Expected accepted tokens of a chain: the running products of the shares, added up."""
        return expected(self.shares)


def expected(shares: Sequence[float]) -> float:
    """Expected accepted tokens of a chain whose guesses are right with these shares."""
    return sum(itertools.accumulate(shares, operator.mul), 0.0)


def tally(hits: Tensor) -> Tally:
    """Of hits bool [n, depth]: whether each guess at each of n points was right."""
    right = hits.long().cumprod(1)
    asked = torch.cat((torch.ones_like(right[:, :1]), right[:, :-1]), 1)
    return Tally(tuple(right.sum(0).tolist()), tuple(asked.sum(0).tolist()))


def points(batch: Batch, count: int, room: int) -> tuple[Tensor, Tensor]:
    """Points in what the model wrote: rows p, rising, with `room` real rows after each.

    They are drawn without replacement from the batch's dice. Returns p [b, count], and bool
    [b, count]: which are points at all, where a text has fewer.
    """
    batch_size, length = batch.tokens.shape
    rows = torch.arange(length)[None]
    first = (batch.prompts[:, None] - 1).clamp_min(0)
    free = (rows >= first) & (rows + room < batch.lengths[:, None])
    drawn = torch.rand(batch_size, length, generator=batch.dice).masked_fill(~free, -1.0)
    chances, chosen = drawn.topk(min(count, length), dim=1)
    # Those that are none come last and read row 0, which is always there.
    place = torch.where(chances >= 0, chosen, length)
    place, order = place.sort(1)
    valid = chances.gather(1, order) >= 0
    return place.masked_fill(~valid, 0), valid


@dataclass(frozen=True)
class Options:
    """What every trainer can be told: the schedule of AdamW and the size of a step.

    `rate` falls from its peak to 2 % along a cosine over `steps`, after `warmup` steps. A step has
    `batch` texts of at most `length` tokens. Every `every` steps it is measured on texts that were
    held out; after `patience` times without progress it ends.
    """

    rate: float = 1e-3
    steps: int = 1000
    batch: int = 8
    length: int = 256
    warmup: int = 0
    decay: float = 0.0
    clip: float = 1.0
    every: int = 100
    patience: int = 6


class Trainee(nn.Module):
    """One strategy in training; its parameters are what is learned."""

    def prepare(self, hear: Hear = lambda share: None) -> None:
        """Find out what must be known before anything is learned; most trainers need nothing.

        Raises:
            Stopped: `hear` said so.
        """

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The loss of a batch under "loss", and parts of it worth showing."""
        raise NotImplementedError

    def acceptance(self, batch: Batch) -> Tally:
        """How often the guesses are what the model goes on with; without a gradient."""
        raise NotImplementedError

    def part(self, bundle: str) -> PartSource:
        """What is written into the bundle with this hash."""
        raise NotImplementedError
