"""What the frozen model says of texts, kept from one epoch to the next.

Heads only read the last hidden state and the model's own distributions; running the model is most
of what a step costs. So it runs once for a text, and what heads learn from stays in memory while
there is room. It knows no head and no schedule.

Shapes: n rows of all texts of a batch, one text behind the other, D width, V' draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgedec.training.draft_vocabulary import DraftVocabulary
    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.trainee import Batch

ROOM = 1 << 29
"""Bytes that may be kept."""
SHARES = 64
"""The likeliest tokens of each distribution that are kept."""


class Said(NamedTuple):
    """Rows [n]: their hidden `states` [n, K], the last layer's output [n, D] at a mean square of
    one unless it was asked for others; the model's first
    choice `best` [n]; what a head is to say, as `places` [n, k] of the draft vocabulary and
    `shares` [n, k] (see `DraftVocabulary.targets`)."""

    states: Tensor
    best: Tensor
    places: Tensor
    shares: Tensor


Found = TypeVar("Found", bound=tuple[Tensor, ...])


class Kept(Generic[Found]):
    """What was found out about texts, by any key, as long as it takes at most `room` bytes."""

    def __init__(self, room: int) -> None:
        self._found: dict[bytes, Found] = {}
        self._room = room

    def of(self, key: bytes, ask: Callable[[], Found]) -> Found:
        """What is kept; what is asked for, where nothing is."""
        if key in self._found:
            return self._found[key]
        found = ask()
        size = sum(each.nbytes for each in found)
        if size <= self._room:
            self._found[key] = found
            self._room -= size
        return found


class Teacher:
    """A frozen model, asked about texts. `hard` is the share of its first choices in what it
    teaches; `states` are those [b, T, K] that are taken of a text; `room` bytes are kept."""

    def __init__(
        self,
        frozen: Frozen,
        vocabulary: DraftVocabulary,
        hard: float,
        room: int = ROOM,
        states: Callable[[Trunk], Tensor] = lambda trunk: level(trunk.states[-1]),
    ) -> None:
        self._frozen, self._vocabulary, self._hard = frozen, vocabulary, hard
        self._states = states
        self._kept: Kept[Said] = Kept(room)

    def says(self, batch: Batch) -> Said:
        """What it says of the rows of all texts."""
        said = [self._says(text) for text in alone(batch)]
        states, best, places, shares = (torch.cat(each) for each in zip(*said, strict=True))
        return Said(states.float(), best, places.long(), shares.float())

    def _says(self, text: Batch) -> Said:
        """Of one text, run alone: so it is the same whatever it stands beside, and after a break
        the same as without one."""
        key = text.tokens.cpu().numpy().tobytes()
        if text.sources is not None:
            key += b"/" + text.sources.cpu().numpy().tobytes()
        return self._kept.of(key, partial(self._ask, text))

    @torch.no_grad()
    def _ask(self, text: Batch) -> Said:
        trunk = self._frozen.trunk(text)
        logits = self._frozen.head(trunk.states[-1][0])
        targets = self._vocabulary.targets(logits, self._hard)
        shares, places = targets.topk(min(SHARES, targets.shape[-1]))
        states = self._states(trunk)[0]
        half = states.half()
        kept = half if half.isfinite().all() else states
        return Said(kept, logits.argmax(-1), places.int(), shares.half())


def level(x: Tensor) -> Tensor:
    """Rows [..., D] scaled to a mean square of one, as they enter heads: `edgedec.heads.level`."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-12).rsqrt()


def alone(batch: Batch) -> Iterator[Batch]:
    """Each text of a batch as one of its own, which nothing fills up."""
    for at, length in enumerate(batch.lengths.tolist()):
        one = slice(at, at + 1)
        alone = replace(
            batch,
            tokens=batch.tokens[one, :length],
            lengths=batch.lengths[one],
            prompts=batch.prompts[one],
        )
        if batch.sources is not None and batch.source_lengths is not None:
            read = batch.source_lengths[one]
            sources = batch.sources[one, : int(read)]
            alone = replace(alone, sources=sources, source_lengths=read)
        yield alone
