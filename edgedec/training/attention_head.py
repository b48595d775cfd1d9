"""Train a head with an attention layer on fused hidden states, EAGLE-3 style (2503.01840).

Row p of the layer holds the token after row p of the text, and what the model made of row p: states
of three of its layers, fused to one. It guesses the token after next. Behind the text the model has
made nothing yet, so there the layer's own output stands for it. Training does what drafting will do
("training-time test"): each further step replaces the fused states by the output of the step
before, and sees what a drafted row would see, true rows before and drafted ones of its own chain.

Shapes: b texts, T rows, D width, V' ids that can be drafted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedec.training.draft_vocabulary import distance_to
from edgedec.training.heads import HeadOptions, scaled
from edgedec.training.layers import Sight, block
from edgedec.training.own_model import DEPTH, OwnModel, chains, copied, filled, holed, weighed
from edgedec.training.teacher import Teacher, level
from edgedec.training.trainee import Trainee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedec.export.to_part import PartSource
    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.layers import Pair
    from edgedec.training.texts import Texts
    from edgedec.training.trainee import Batch, Tally

TURN = 70
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(HeadOptions):
    """Those of any head; `depth` are the steps of drafting that are trained, and the share `holes`
    of the texts has a hole."""

    rate: float = 1e-3
    depth: int = 3
    holes: float = 0.3


class FusedHead(Trainee):
    """The two mixing matrices, the layer and its head."""

    def __init__(
        self, frozen: Frozen, options: Options, layers: tuple[int, ...], own: OwnModel
    ) -> None:
        super().__init__()
        self._frozen, self._options, self._layers = frozen, options, layers
        self._teacher = Teacher(frozen, own.vocabulary, options.hard, states=self._read)
        self.own, dim = own, frozen.dim
        # Embeddings enter at a mean square of about one; the matrix is stored for them as they are.
        self._scale = float(frozen.embed(torch.arange(frozen.vocab)).square().mean().rsqrt())
        # It begins as the model's first layers do: a token enters as it is, and what was made of
        # the row before it counts for nothing yet.
        self.fuse = nn.Parameter(torch.cat([torch.zeros(dim, 2 * dim), torch.eye(dim)], 1))
        own_size = torch.eye(dim) / self._scale
        self.enter = nn.Parameter(torch.cat([own_size, torch.zeros(dim, dim)], 1))

    def _read(self, trunk: Trunk) -> Tensor:
        """The states that are fused [b, T, 3 D]."""
        return torch.cat([level(trunk.states[index]) for index in self._layers], -1)

    def _steps(self, batch: Batch, states: Tensor, count: int, seen: Tensor | None) -> list[Tensor]:
        """What the layer gives [b, T - 1, D] for every row, `count` steps from known states
        [b, T, 3 D]."""
        length = batch.tokens.shape[1] - 1
        near = self._frozen.embed(batch.tokens[:, 1:]) * self._scale
        from_text = states[:, :-1] @ self.fuse.T
        positions = torch.arange(length)[None].expand(len(states), -1)
        layer, weights = self.own.layers.layers[0], self.own.layers.of(0)
        true = torch.ones(1, length, length, dtype=torch.bool).tril()
        true = true if seen is None else seen[:, :-1, :-1]
        given, keys = from_text, positions
        past: Pair | None = None
        sights: list[Tensor] = []
        found = []
        for step in range(count):
            x = torch.cat([near, level(given)], -1) @ self.enter.T
            own = torch.eye(length, dtype=torch.bool)[None] if step else true
            sights = [*map(_of_row_before, sights), own]
            rows = [each.expand(len(x), -1, -1) for each in sights]
            out, pair = block(x, layer, weights, Sight(positions, torch.cat(rows, 2), keys), past)
            past = pair if past is None else _both(past, pair)
            keys = torch.cat([keys, positions], 1)
            found.append(out)
            # The row behind takes it for what the model would have made of this one.
            given = torch.cat([from_text[:, :1], out[:, :-1]], 1)
        return found

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The distance to what the model says, at every step of drafting."""
        said, options = self._teacher.says(batch), self._options
        seen = holed(batch, options.holes)
        states, weights = filled(said.states, batch), weighed(batch)
        places, shares = filled(said.places, batch), filled(said.shares, batch)
        shown: dict[str, Tensor] = {}
        total, share, whole = torch.zeros(()), 1.0, 0.0
        for step, out in enumerate(self._steps(batch, states, options.depth, seen)):
            # Row p guesses behind the token of row p + 1. A drafted one has others before it.
            rows = weights > 0
            rows[:, : step + 1] = False
            guessed = self.own.logits(out[rows[:, 1:]])
            apart = distance_to(guessed, places[rows], shares[rows], weights[rows])
            total, whole = total + share * apart, whole + share
            shown[f"depth_{step + 1}"], share = apart.detach(), share * options.fading
        return {"loss": total / whole, **shown}

    @torch.no_grad()
    def acceptance(self, batch: Batch) -> Tally:
        """Every chain of guesses, each knowing the layer's own output where drafting would."""
        said, guesses = self._teacher.says(batch), []
        for out in self._steps(batch, filled(said.states, batch), DEPTH, None):
            found = self.own.vocabulary.tokens(self.own.logits(out))
            guesses.append(torch.cat([torch.zeros_like(found[:, :1]), found], 1))
        return chains(guesses, filled(said.best, batch), batch, first=1)

    def part(self, bundle: str) -> PartSource:
        """The matrices, the layer and its head."""
        about = {"layers": list(self._layers)}
        enter = scaled(self.enter, slice(self._frozen.dim), self._scale)
        matrices = {"fuse": self.fuse, "enter": enter}
        return self.own.source("attention_head", bundle, about, matrices)


def _both(past: Pair, pair: Pair) -> Pair:
    return torch.cat((past[0], pair[0]), 2), torch.cat((past[1], pair[1]), 2)


def _of_row_before(seen: Tensor) -> Tensor:
    """For each row, what the row before it sees."""
    return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)


def build(frozen: Frozen, options: Options, texts: Texts) -> FusedHead:
    """Begin with a copy of the model's first layer."""
    count = frozen.layers
    layers = (max(1, count // 5), max(1, count // 2), count)
    own = OwnModel(frozen, copied(frozen, 0), texts, options.most)
    return FusedHead(frozen, options, layers, own)
