"""Training of rows that are inserted behind points of a text and guess ahead.

k rows stand behind a point, perhaps in several lanes that do not see each other; the i-th guesses
what the model says of the real row i places behind the point. Many points of a text are trained at
a time. It knows no strategy.

Shapes: b texts, T rows, P points, m points of all texts, k guesses, n lanes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgedec.training import trainee
from edgedec.training.trainee import Batch, Tally, points, tally

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen, Trunk


@dataclass(frozen=True)
class Options(trainee.Options):
    """`points` of a text are trained in a step; each guess counts `fading` times the one before."""

    points: int = 32
    fading: float = 0.8


class Ahead(trainee.Trainee):
    """Learns what the model says of the `k` real rows behind a point."""

    def __init__(self, frozen: Frozen, options: Options, k: int) -> None:
        super().__init__()
        self._frozen, self._k = frozen, k
        self._points, self._fading = options.points, options.fading

    def guessed(self, trunk: Trunk, place: Tensor) -> Tensor:
        """The logits [b, P, k, V] that its rows behind points [b, P] give."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """Sum over the k guesses of fading^i times the divergence from what the model says."""
        guessed, real = self._both(batch)
        return {"loss": apart(guessed, real, self._fading)}

    @torch.no_grad()
    def acceptance(self, batch: Batch) -> Tally:
        """How often each guess is the token that the model finds likeliest."""
        guessed, real = self._both(batch)
        return tally(guessed.argmax(-1) == real.argmax(-1))

    def _both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits [m, k, V] at all points, as they are guessed and as they are."""
        place, valid = points(batch, self._points, self._k)
        trunk = self._frozen.trunk(batch)
        real = wanted(self._frozen, trunk, place, self._k)
        return self.guessed(trunk, place)[valid], real[valid]


def behind(place: Tensor, k: int, n: int = 1) -> Tensor:
    """The positions [b, P * k * n] of rows behind points [b, P]; lanes of a depth together."""
    ahead = torch.arange(1, k + 1).repeat_interleave(n)
    return (place[:, :, None] + ahead).flatten(1)


def sight(place: Tensor, length: int, k: int, n: int = 1) -> Tensor:
    """What rows behind points [b, P] see: real rows up to their point, and of one another those
    before them in their lane. Bool [b, P * k * n, length + P * k * n].
    """
    batch, count = place.shape
    rows = place.repeat_interleave(k * n, 1)
    real = torch.arange(length) <= rows[:, :, None]
    point = torch.arange(count * k * n) // (k * n)
    within = torch.arange(k * n).repeat(count)
    depth, lane = within // n, within % n
    own = (point[:, None] == point) & (lane[:, None] == lane) & (depth[:, None] >= depth)
    return torch.cat((real, own.expand(batch, -1, -1)), 2)


def wanted(frozen: Frozen, trunk: Trunk, place: Tensor, k: int) -> Tensor:
    """The model's logits [b, P, k, V] at the real rows behind each point."""
    rows = place[:, :, None] + torch.arange(1, k + 1)
    # Where a text is too short for any point, row 0 stands for one: what it gives is not counted.
    rows = rows.clamp_max(trunk.tokens.shape[1] - 1)
    with torch.no_grad():
        return frozen.head(trunk.states[-1][torch.arange(len(place))[:, None, None], rows])


def apart(guessed: Tensor, real: Tensor, fading: float) -> Tensor:
    """How far guessed logits [m, k, V] diverge from the real ones: the mean over m of KL(real,
    guessed), each further guess counting `fading` times the one before, added up."""
    if not len(guessed):
        return guessed.sum() * 0.0
    known = real.log_softmax(-1)
    each = (known.exp() * (known - guessed.log_softmax(-1))).sum(-1).mean(0)
    return (fading ** torch.arange(len(each)) * each).sum()
