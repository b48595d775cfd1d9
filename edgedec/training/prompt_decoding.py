"""Prompt tokens that foresee: the trainer of `strategies/prompt_decoding.py` (2405.18628).

k learned embeddings stand behind a real token; what the frozen model makes of the i-th is its guess
of the token i + 1 places on. With an ensemble of n there are n lanes of them, which do not see each
other and whose logits are averaged. Many points of a text are trained at a time: the prompt tokens
of a point see the real rows up to it, and of one another those before them in their lane.

Shapes: b texts, T rows, P points, k prompt tokens, n lanes, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from edgedec.export.to_part import PartSource
from edgedec.training import ahead
from edgedec.training.ahead import behind, sight
from edgedec.training.heads import array

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.texts import Texts

TURN = 10
"""Its place where everything is trained."""


@dataclass(frozen=True)
class Options(ahead.Options):
    """`prompts` tokens in each of `ensemble` lanes."""

    rate: float = 1e-2
    steps: int = 800
    batch: int = 4
    points: int = 64
    prompts: int = 3
    ensemble: int = 1


def build(frozen: Frozen, options: Options, texts: Texts) -> PromptDecoding:
    """Prompt tokens that begin as embeddings of the most frequent ids."""
    counts = np.zeros(frozen.vocab, np.int64)
    for text in texts.trained:
        counts += np.bincount(text.tokens, minlength=frozen.vocab)
    wanted = options.prompts * options.ensemble
    frequent = torch.as_tensor(np.argsort(-counts, kind="stable")[:wanted].copy())
    return PromptDecoding(frozen, options, frozen.embed(frequent))


class PromptDecoding(ahead.Ahead):
    """The prompt tokens [k * n, D]: the j-th of lane i is row j * n + i."""

    def __init__(self, frozen: Frozen, options: Options, start: Tensor) -> None:
        super().__init__(frozen, options, options.prompts)
        self._lanes = options.ensemble
        self.embed = nn.Parameter(start.clone())

    def part(self, bundle: str) -> PartSource:
        """The vectors, and how they are to be hung."""
        about = {"prompts": self._k, "lanes": self._lanes}
        vectors = {"prompts": array(self.embed)}
        return PartSource("prompt_decoding", bundle, about, vectors=vectors)

    def guessed(self, trunk: Trunk, place: Tensor) -> Tensor:
        """The logits [b, P, k, V] of the prompt tokens at points [b, P], lanes averaged."""
        (batch, count), k, n = place.shape, self._k, self._lanes
        positions, seen = behind(place, k, n), sight(place, trunk.tokens.shape[1], k, n)
        x = self.embed.expand(batch, count, -1, -1).flatten(1, 2)
        last = self._frozen.rows(trunk, self._frozen.enter(x, positions), positions, seen)[-1]
        logits: Tensor = self._frozen.head(last).view(batch, count, k, n, -1).mean(3)
        return logits
