"""How far guesses are right along texts that were held out: for the searches of trainers.

It knows tokens and places, no strategy.

Shapes: b texts, T rows, P points, n guesses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from edgedec.errors import InputError
from edgedec.training.texts import held_batches
from edgedec.training.trainee import Batch, Options, Tally

if TYPE_CHECKING:
    from torch import Tensor

    from edgedec.training.frozen import Trunk
    from edgedec.training.texts import Texts


def held(texts: Texts, options: Options) -> list[Batch]:
    """Texts that were held out, the same every time.

    Raises:
        InputError: there are none that anything can be guessed in.
    """
    found = list(held_batches(texts, options))
    if not found:
        raise InputError(
            f"none of the texts that were held out goes on for long within {options.length} "
            "tokens: give more prompts"
        )
    return found


def right_along(found: Tensor, wanted: Tensor, text: Tensor, valid: Tensor) -> Tally:
    """How often guesses [b, P, n] are what is wanted, where those before are also the text's.

    A drawn text goes on as the model did not think likeliest. What was guessed behind such a place
    was for another text, and is not counted. `text` [b, P, n] is what really followed, `valid`
    [b, P] says which points count.
    """
    alive = valid
    right, asked = [], []
    for depth in range(found.shape[-1]):
        asked.append(int(alive.sum()))
        alive = alive & (found[..., depth] == wanted[..., depth])
        right.append(int(alive.sum()))
        alive = alive & (found[..., depth] == text[..., depth])
    return Tally(tuple(right), tuple(asked))


def following(trunk: Trunk, p: Tensor, count: int) -> Tensor:
    """The `count` tokens behind each place p [b, P]: [b, P, count]; 0 behind the end."""
    places = (p[:, :, None] + 1 + torch.arange(count)).flatten(1)
    return F.pad(trunk.tokens, (0, count)).gather(1, places).reshape(*p.shape, count)
