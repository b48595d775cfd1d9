"""Training of layers that guess from where rows leave the model early: Kangaroo and EESD.

The rows of a text leave the frozen model behind layer E, run through the learned layers as a chain,
and are to say what the whole model says of them (self-distillation). What sort of layers, the two
strategies' own modules know.

Shapes: b texts, T rows, D width, V' ids that can be drafted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from edgedec.errors import UsageError
from edgedec.training.draft_vocabulary import MOST, distance_to
from edgedec.training.layers import Own, Sight
from edgedec.training.own_model import DEPTH, OwnModel, chains, filled, holed, real, weighed
from edgedec.training.teacher import Teacher
from edgedec.training.trainee import Options, Trainee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from edgedec.export.to_part import PartSource
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts
    from edgedec.training.trainee import Batch, Tally


@dataclass(frozen=True)
class ExitOptions(Options):
    """Rows leave behind `exit` layers (0: a fifth of them). `hard` is the share of the model's
    first choice in what is learned, `most` the ids that can be drafted; the share `holes` of the
    texts has one."""

    warmup: int = 50
    exit: int = 0
    hard: float = 0.5
    most: int = MOST
    holes: float = 0.3


class ExitTrainee(Trainee):
    """Learned layers behind layer E of a frozen model."""

    def __init__(
        self, strategy: str, frozen: Frozen, options: ExitOptions, layer: int, own: OwnModel
    ) -> None:
        super().__init__()
        self._strategy, self._options, self._exit, self.own = strategy, options, layer, own
        self._teacher = Teacher(
            frozen, own.vocabulary, options.hard, states=lambda trunk: trunk.states[layer]
        )

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The distance to what the whole model says, of all rows."""
        said, weights = self._teacher.says(batch), weighed(batch)[real(batch)]
        left = self._left(batch, said.states, holed(batch, self._options.holes))
        rows = weights > 0
        guessed = self.own.logits(left[rows])
        apart = distance_to(guessed, said.places[rows], said.shares[rows], weights[rows])
        return {"loss": apart}

    def _left(self, batch: Batch, states: Tensor, seen: Tensor | None) -> Tensor:
        """What the learned layers give for all rows [n, D]."""
        rows = filled(states, batch)
        positions = torch.arange(rows.shape[1])[None].expand(len(rows), -1)
        found: Tensor = self.own.layers(rows, Sight(positions, seen))[real(batch)]
        return found

    @torch.no_grad()
    def acceptance(self, batch: Batch) -> Tally:
        """A guess behind right ones is what it is behind the text: the rows are the same."""
        said = self._teacher.says(batch)
        left = self._left(batch, said.states, None)
        guesses = filled(self.own.vocabulary.tokens(self.own.logits(left)), batch)
        return chains([guesses] * DEPTH, filled(said.best, batch), batch)

    def part(self, bundle: str) -> PartSource:
        """The layers and their head."""
        return self.own.source(self._strategy, bundle, {"exit": self._exit}, {})


def build(
    strategy: str,
    frozen: Frozen,
    options: ExitOptions,
    texts: Texts,
    layers: Callable[[Frozen, int], Own],
) -> ExitTrainee:
    """Begin with the layers that `layers` makes for an exit.

    Raises:
        UsageError: the exit is none of the model's layers but the last.
    """
    layer = options.exit or max(1, frozen.layers // 5)
    if not 1 <= layer < frozen.layers:
        raise UsageError(
            f"exit is {layer}; rows of this model can leave behind the layers 1 to "
            f"{frozen.layers - 1}"
        )
    own = OwnModel(frozen, layers(frozen, layer), texts, options.most)
    return ExitTrainee(strategy, frozen, options, layer, own)
