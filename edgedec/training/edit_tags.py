"""Train the tags that `edit_tags` edits a source with: what the model does to it, token by token.

The teacher is what the quantised model wrote; the encoder stays as it is. The network reads each of
its rows with the two beside it, twice, and says of the row's token what becomes of it; for tokens
that are replaced or put in it makes what the model's own head reads. Which tokens those are is
taught where they are, so that the head's product costs little.

Shapes: b texts, s rows of a source, D width of the model, H of the network, m = most put in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedec import tagging
from edgedec.errors import UnsupportedError, UsageError
from edgedec.export.to_part import PartSource
from edgedec.parts import STEP
from edgedec.strategies.edit_tags import MOST
from edgedec.training import trainee
from edgedec.training.edits import NONE, agreeing, edits
from edgedec.training.heads import array
from edgedec.training.teacher import Kept, alone, level
from edgedec.training.trainee import Batch, Tally, Trainee, tally

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts

TURN = 5
"""Its place where everything is trained."""
DEPTH = 8
"""Guesses of a chain that acceptance is measured for."""
ROOM = 1 << 30
"""Bytes of the encoder's rows that are kept from one epoch to the next."""


@dataclass(frozen=True)
class Options(trainee.Options):
    """A network of `width` (0: half as wide as the model); up to `inserted` tokens can come in one
    place."""

    rate: float = 1.5e-3
    steps: int = 1500
    batch: int = 16
    warmup: int = 100
    decay: float = 0.01
    every: int = 250
    width: int = 0
    inserted: int = 2


def build(frozen: Frozen, options: Options, texts: Texts) -> EditTagger:
    """A network that knows nothing yet.

    Raises:
        UnsupportedError: the model has no encoder, or one with ids of its own.
        UsageError: a network or a number of tokens that cannot be stored.
    """
    if options.width % STEP or options.width < 0:
        raise UsageError(f"width is {options.width}; it is a multiple of {STEP}, or 0")
    if not 1 <= options.inserted <= MOST:
        raise UsageError(f"inserted is {options.inserted}; it is 1 to {MOST}")
    model = frozen.architecture
    if model.encoder is None or model.source_embed is not None:
        raise UnsupportedError(
            "edit_tags edits what an encoder reads, in the decoder's own tokens; this model has no "
            "such encoder"
        )
    return EditTagger(frozen, options)


class _Lesson(NamedTuple):
    """Rows of all texts of a batch: `rows` [b, s, D] at a mean square of one, which of them are
    `real` and of which it is `known` [b, s] what became of them, and the tag of each: `kinds`,
    `counts`, `replaced` [b, s], `inserted` [b, s, m]."""

    rows: Tensor
    real: Tensor
    known: Tensor
    kinds: Tensor
    counts: Tensor
    replaced: Tensor
    inserted: Tensor


class EditTagger(Trainee):
    """The two layers, the tags, and what enters the model's head."""

    def __init__(self, frozen: Frozen, options: Options) -> None:
        super().__init__()
        self._frozen, self._most = frozen, options.inserted
        dim = frozen.dim
        width = options.width or max(STEP, dim // 2 // STEP * STEP)
        self.mix, self.widen = nn.Linear(3 * dim, width), nn.Linear(3 * width, width)
        self.tags = nn.Linear(width, tagging.KINDS * (self._most + 1))
        self.replace = nn.Linear(width + dim, dim)
        self.insert = nn.Linear(width, self._most * dim)
        # A token that is replaced is often much like the one that replaces it.
        with torch.no_grad():
            self.replace.weight[:, width:] = torch.eye(dim)
        self._kept: Kept[tuple[Tensor]] = Kept(ROOM)

    # --- the network -----------------------------------------------------------------------------

    def mixed(self, rows: Tensor, real: Tensor) -> Tensor:
        """What the network makes of rows [b, s, D]: [b, s, H], zeros behind the ends."""
        first = F.silu(self.mix(_beside(rows))) * real[..., None]
        found: Tensor = (first + F.silu(self.widen(_beside(first)))) * real[..., None]
        return found

    def in_place(self, mixed: Tensor, rows: Tensor) -> Tensor:
        """The logits [r, V] of tokens that replace those of some rows [r, H] and [r, D]."""
        return self._frozen.head(self.replace(torch.cat((mixed, rows), -1)))

    def put_in(self, mixed: Tensor) -> Tensor:
        """What enters the head for tokens behind some rows [n, H]: [n, m, D]."""
        found: Tensor = self.insert(mixed).unflatten(-1, (self._most, -1))
        return found

    # --- what it learns --------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """How badly tags and tokens are foreseen, in nats for each token of the sources."""
        given = self._lesson(batch)
        mixed = self.mixed(given.rows, given.real)
        wanted = (given.kinds + tagging.KINDS * given.counts)[given.known]
        if not len(wanted):
            return {"loss": 0.0 * mixed.sum(), "tags": torch.zeros(()), "words": torch.zeros(())}
        tags = F.cross_entropy(self.tags(mixed[given.known]), wanted)
        changed, more = given.replaced != NONE, given.inserted != NONE
        apart = torch.zeros(())
        if changed.any():
            guessed = self.in_place(mixed[changed], given.rows[changed])
            apart = apart + F.cross_entropy(guessed, given.replaced[changed], reduction="sum")
        if more.any():
            behind = more.any(-1)
            guessed = self._frozen.head(self.put_in(mixed[behind])[more[behind]])
            apart = apart + F.cross_entropy(guessed, given.inserted[more], reduction="sum")
        words = apart / len(wanted)
        return {"loss": tags + words, "tags": tags.detach(), "words": words.detach()}

    @torch.no_grad()
    def acceptance(self, batch: Batch) -> Tally:
        """How far the guess agrees with what was written, behind tokens on which both agree."""
        rows, real = self._rows(batch)
        mixed = self.mixed(rows, real)
        hits: list[list[bool]] = []
        for at, (source, written) in enumerate(_texts(batch)):
            own = slice(0, len(source))
            guess = self._guess(source, mixed[at, own], rows[at, own])
            hits += agreeing(guess, written, DEPTH)
        if not hits:
            return Tally((0,) * DEPTH, (0,) * DEPTH)
        return tally(torch.tensor(hits))

    def _guess(self, source: list[int], mixed: Tensor, rows: Tensor) -> list[int]:
        tags = tagging.read(self.tags(mixed).float().cpu().numpy())
        changed = torch.as_tensor(tags.replaced)
        places, order = map(torch.as_tensor, tags.inserted)
        first = self.in_place(mixed[changed], rows[changed]).argmax(-1).tolist()
        more = self._frozen.head(self.put_in(mixed[places])[torch.arange(len(places)), order])
        replaced = [(token, 1.0) for token in first]
        inserted = [(token, 1.0) for token in more.argmax(-1).tolist()]
        return tagging.rewritten(source, tags, replaced, inserted)[0]

    def part(self, bundle: str) -> PartSource:
        """The matrices with what they add, and how many tokens come in one place."""
        named: dict[str, nn.Linear] = {
            "mix": self.mix,
            "widen": self.widen,
            "tags": self.tags,
            "replace": self.replace,
            "insert": self.insert,
        }
        return PartSource(
            "edit_tags",
            bundle,
            {"inserted": self._most},
            vectors={f"{name}.bias": array(each.bias) for name, each in named.items()},
            matrices={name: array(each.weight) for name, each in named.items()},
        )

    # --- what it learns from ---------------------------------------------------------------------

    def _lesson(self, batch: Batch) -> _Lesson:
        rows, real = self._rows(batch)
        shape = tuple(real.shape)
        kinds, counts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        replaced = np.full(shape, NONE, np.int64)
        inserted = np.full((*shape, self._most), NONE, np.int64)
        known, ends = np.zeros(shape, bool), self._frozen.architecture.tokens.eos
        for at, (source, written) in enumerate(_texts(batch)):
            # A long one was cut, by who let it be written or for the batch.
            ended = bool(written) and written[-1] in ends
            found, own = edits(source, written, self._most, ended), slice(0, len(source))
            kinds[at, own], counts[at, own] = found.kinds, found.counts
            replaced[at, own], inserted[at, own] = found.replaced, found.inserted
            known[at, : found.known] = True
        tensors = map(torch.as_tensor, (known, kinds, counts, replaced, inserted))
        return _Lesson(rows, real, *tensors)

    @torch.no_grad()
    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The encoder's rows [b, s, D] at a mean square of one, zeros behind the ends; and which
        are none of those [b, s]."""
        assert batch.sources is not None and batch.source_lengths is not None
        real = torch.arange(batch.sources.shape[1])[None] < batch.source_lengths[:, None]
        rows = torch.zeros(*real.shape, self._frozen.dim)
        for at, text in enumerate(alone(batch)):
            assert text.sources is not None
            key = text.sources.cpu().numpy().tobytes()
            (half,) = self._kept.of(key, partial(self._encoded, text))
            rows[at, : len(half)] = half.float()
        return rows, real

    def _encoded(self, text: Batch) -> tuple[Tensor]:
        """Of one text, run alone and rounded at once: the same in every epoch and after a break."""
        states, _ = self._frozen.encoded(text)
        return (level(states[0]).half(),)


def _texts(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """The source of each text, and what was written."""
    found = []
    for text in alone(batch):
        assert text.sources is not None
        found.append((text.sources[0].tolist(), text.tokens[0, int(text.prompts) :].tolist()))
    return found


def _beside(rows: Tensor) -> Tensor:
    """Each row between the ones before and behind it, zeros at the ends: [b, s, 3 K]."""
    before, behind = F.pad(rows, (0, 0, 1, 0))[:, :-1], F.pad(rows, (0, 0, 0, 1))[:, 1:]
    return torch.cat((before, rows, behind), -1)
