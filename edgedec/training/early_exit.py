"""Finds where to leave the model early, and how far to look ahead (LayerSkip, 2404.16710).

Nothing is trained: the model's own head reads the output of its first layers. Each exit guesses
along texts that were held out, and the pair of exit and depth that is worth most is kept, with the
table it was chosen from. A model that was trained to leave early, as the paper's and `stories`,
guesses well; any other hardly at all, and then its part says that it does not pay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from edgedec import draft
from edgedec.errors import UnsupportedError, UsageError
from edgedec.export.to_part import PartSource
from edgedec.training import trainee, worth
from edgedec.training.reach import following, held, right_along
from edgedec.training.trainee import Batch, Hear, Tally, Work, points

if TYPE_CHECKING:
    from torch import Tensor

    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.texts import Texts

TURN = 2
NEARLY = 0.97
"""Looking further ahead is chosen where it is worth so much of the best."""


@dataclass(frozen=True)
class Options(trainee.Options):
    """Up to `depth` guesses in a turn, from `points` places of each text. `exit` is the number of
    layers to leave after, 0: the best is found."""

    steps: int = 0
    depth: int = 8
    points: int = 24
    exit: int = 0


class Trainee(trainee.Trainee):
    """One exit. It has nothing to learn."""

    def __init__(self, frozen: Frozen, options: Options, texts: Texts) -> None:
        super().__init__()
        self._frozen, self._options, self._texts = frozen, options, texts
        self.search, self.best = list[dict[str, Any]](), dict[str, Any]()

    def prepare(self, hear: Hear = lambda share: None) -> None:
        """Search for the best exit."""
        self.search = searched(self._frozen, self._options, self._texts, hear)
        self.best = max(self.search, key=lambda line: float(line["speedup"]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing to lose."""
        return {"loss": torch.zeros(())}

    def acceptance(self, batch: Batch) -> Tally:
        """How often each guess of the best exit is what the model says."""
        trunk = self._frozen.trunk(batch)
        p, valid = points(batch, self._options.points, self._options.depth)
        (found,) = guessed(self._frozen, trunk, p, self._options.depth, [self.best["exit"]])
        return _measured(self._frozen, trunk, (p, valid), found)

    def part(self, bundle: str) -> PartSource:
        """The exit, how far to look ahead, and the table."""
        shares = self.best["right"]
        about = {
            "exit": self.best["exit"],
            "depth": self.best["depth"],
            "acceptance": shares,
            "speedup": self.best["speedup"],
            "automatic": self.best["speedup"] > 1,
            "search": self.search,
        }
        return PartSource("early_exit", bundle, about)


def build(frozen: Frozen, options: Options, texts: Texts) -> Trainee:
    """The best exit of the model.

    Raises:
        UnsupportedError: the model has one layer.
        UsageError: an exit that it does not have, or another option that makes no sense.
    """
    draft.check_options(options, depth=(1, 32), points=(1, 1024))
    if frozen.layers < 2:
        raise UnsupportedError("early_exit leaves between two layers; this model has one")
    if options.exit and not 1 <= options.exit < frozen.layers:
        raise UsageError(
            f"exit is {options.exit}; this model can be left after 1 to {frozen.layers - 1} of its "
            f"{frozen.layers} layers"
        )
    return Trainee(frozen, options, texts)


def searched(
    frozen: Frozen, options: Options, texts: Texts, hear: Hear = lambda share: None
) -> list[dict[str, Any]]:
    """For each exit the depth that is worth most, and how often its guesses are right."""
    exits = [options.exit] if options.exit else list(range(1, frozen.layers))
    tallies = [Tally()] * len(exits)
    batches = held(texts, options)
    work = Work(len(batches), hear)
    for batch in batches:
        trunk, at = frozen.trunk(batch), points(batch, options.points, options.depth)
        for index, found in enumerate(guessed(frozen, trunk, at[0], options.depth, exits)):
            tallies[index] = tallies[index].plus(_measured(frozen, trunk, at, found))
        work.add()
    return [
        valued(frozen, layer, tally.shares) for layer, tally in zip(exits, tallies, strict=True)
    ]


def valued(frozen: Frozen, layer: int, shares: list[float]) -> dict[str, Any]:
    """How far it pays to look ahead from an exit."""
    costs = worth.by_size(frozen.architecture)
    times = costs.step(worth.PAST, len(shares) + 1)
    plain = float(times[1])
    one = costs.part(worth.PAST, 1, layer, heads=1)
    gains = []
    for depth in range(1, len(shares) + 1):
        # The rows of the last token and of all guesses but the last ran the first layers already;
        # that one goes through them alone.
        late = costs.part(worth.PAST, depth + 1, frozen.layers - layer, heads=depth + 1)
        early = costs.part(worth.PAST, 1, layer)
        gains.append(worth.tokens(shares[:depth])[-1] * plain / (depth * one + early + late))
    # Drafting stops where nothing is likely enough, so what is hardly worth less is worth more.
    depth = max(at for at, gain in enumerate(gains) if gain >= NEARLY * max(gains)) + 1
    return {
        "exit": layer,
        "depth": depth,
        "speedup": round(max(gains), 4),
        "right": [round(share, 4) for share in shares],
    }


@torch.no_grad()
def guessed(frozen: Frozen, trunk: Trunk, p: Tensor, depth: int, exits: list[int]) -> list[Tensor]:
    """What each exit says next at p [b, P] and the places behind: ids [b, P, depth] of each.

    Rows behind p are those of the text, as if all guesses before were right.
    """
    rows = (p[:, :, None] + torch.arange(depth)).flatten(1)
    index = rows[:, :, None].expand(-1, -1, frozen.dim)
    return [
        frozen.head(trunk.states[layer].gather(1, index)).argmax(-1).reshape(*p.shape, depth)
        for layer in exits
    ]


def _measured(frozen: Frozen, trunk: Trunk, at: tuple[Tensor, Tensor], found: Tensor) -> Tally:
    """How often guesses [b, P, n] are what the whole model says."""
    (p, valid), count = at, found.shape[-1]
    (wanted,) = guessed(frozen, trunk, p, count, [frozen.layers])
    return right_along(found, wanted, following(trunk, p, count), valid)
