"""What drafters with layers of their own train: the layers, a norm, and a head over few ids.

Together they are a small decoder whose rows enter as vectors; its architecture is what runs them
in the end. Knows nothing about where the rows come from.

Shapes: b texts, n rows, D width, V' ids that can be drafted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgedec.architecture import Embedding, Rope, Stack
from edgedec.export.to_part import PartSource
from edgedec.training.draft_vocabulary import DraftVocabulary, frequent
from edgedec.training.frozen import alone
from edgedec.training.heads import SharedHead, array
from edgedec.training.layers import Own
from edgedec.training.reach import right_along

if TYPE_CHECKING:
    from edgedec.architecture import Architecture, Layer
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts
    from edgedec.training.trainee import Batch, Tally

DEPTH = 5
"""Guesses of a chain that acceptance is measured for."""


def copied(frozen: Frozen, index: int, width: int | None = None) -> Own:
    """One learned layer like the decoder's layer `index`, and beginning as it.

    With a `width` its mlp is so wide instead, and begins at nothing. What knew positions by other
    means turns its queries and keys from now on.
    """
    layer = _standing(frozen.architecture.decoder.layers[index])
    start = {f"layers.0.{name}": value for name, value in frozen.layer(index).items()}
    if width is not None:
        layer = replace(layer, mlp=replace(layer.mlp, width=width))
        start = {name: value for name, value in start.items() if ".mlp." not in name}
    return Own((layer,), frozen.dim, start)


def _standing(layer: Layer) -> Layer:
    own = alone(layer)
    if own.self_attention.rope is not None:
        return own
    return replace(own, self_attention=replace(own.self_attention, rope=Rope(theta=10_000.0)))


class OwnModel(nn.Module):
    """Layers, then a norm and a head that begin as the model's own.

    The head can say the `most` most frequent ids of the texts, or more where they need more.
    """

    def __init__(self, frozen: Frozen, layers: Own, texts: Texts, most: int) -> None:
        super().__init__()
        base = frozen.architecture
        said = (text.tokens[text.prompt :] for text in texts.trained)
        ids = frequent(said, frozen.vocab, most, always=base.tokens.eos)
        self.layers, self.vocabulary = layers, DraftVocabulary(ids, frozen.vocab)
        self.shared = SharedHead(frozen, self.vocabulary)
        self.architecture: Architecture = replace(
            base,
            embed=Embedding(vocab=len(ids), dim=frozen.dim),
            decoder=Stack(layers=layers.layers, final_norm=self.shared.spec),
            head=replace(base.head, tied=True),
            limits=replace(base.limits, source=None),
            encoder=None,
            source_embed=None,
        )

    def logits(self, x: Tensor) -> Tensor:
        """The logits [n, V'] of the layers' output [n, D]."""
        found: Tensor = self.shared(x)
        return found

    def source(
        self, strategy: str, bundle: str, about: dict[str, Any], matrices: Mapping[str, Tensor]
    ) -> PartSource:
        """What a part's file holds."""
        vectors, head = self.shared.stored()
        names = {"norm": "decoder.final_norm.weight", "norm.bias": "decoder.final_norm.bias"}
        return PartSource(
            strategy,
            bundle,
            about=about,
            ids=self.vocabulary.array(),
            matrices={name: array(matrix) for name, matrix in matrices.items()},
            architecture=self.architecture,
            weights={
                "embed.weight": head["head"],
                **{names.get(name, name): vector for name, vector in vectors.items()},
                **self.layers.weights(),
            },
        )


def real(batch: Batch) -> Tensor:
    """The rows bool [b, T] that do not just fill up."""
    return torch.arange(batch.tokens.shape[1])[None] < batch.lengths[:, None]


def filled(rows: Tensor, batch: Batch) -> Tensor:
    """Values [n, ...] of the real rows, one text behind the other, as [b, T, ...]."""
    found = rows.new_zeros((*batch.tokens.shape, *rows.shape[1:]))
    found[real(batch)] = rows
    return found


def written(batch: Batch) -> Tensor:
    """The rows bool [b, T] whose next token the model itself wrote."""
    rows = torch.arange(batch.tokens.shape[1])[None]
    return (rows >= batch.prompts[:, None] - 1) & (rows < batch.lengths[:, None] - 1)


def weighed(batch: Batch) -> Tensor:
    """What each row [b, T] counts in training: those before what the model wrote half.

    What the model says of a prompt teaches as well, and its rows were run in any case.
    """
    rows = torch.arange(batch.tokens.shape[1])[None]
    inside = rows < batch.lengths[:, None] - 1
    return (0.5 * inside + 0.5 * written(batch)).masked_fill(~inside, 0.0)


def holed(batch: Batch, chance: float) -> Tensor | None:
    """Who sees whom [b, T, T] where some texts, by this chance, have a hole.

    A drafter that is not asked in a turn never hears of its rows: rows behind the hole do not see
    what is in it. None: no text has one.
    """
    count, length = batch.tokens.shape
    dice = torch.rand(3, count, 1, generator=batch.dice)
    first = (dice[0] * length).long()
    size = (dice[1] * length / 2).long() + 1
    rows = torch.arange(length)[None]
    hole = (rows >= first) & (rows < first + size) & (dice[2] < chance)
    if not hole.any():
        return None
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None].expand(count, -1, -1)
    # Rows in a hole see it: they stand for the text before it was made.
    return seen & (~hole[:, None, :] | hole[:, :, None])


def chains(guesses: Sequence[Tensor], best: Tensor, batch: Batch, first: int = 0) -> Tally:
    """How deep chains of guesses are right.

    `guesses[d]` [b, T] are the ids guessed behind each row, d guesses after one that knew the text
    up to its own row; `best` [b, T] are the model's choices. Chains begin at row `first` or later.
    """
    depth, length = len(guesses), batch.tokens.shape[1]
    count = max(0, length - depth)

    def along(rows: Sequence[Tensor], by: int) -> Tensor:
        return torch.stack([each[:, d + by : count + d + by] for d, each in enumerate(rows)], -1)

    inside = along([written(batch)] * depth, 0).all(-1)
    inside[:, :first] = False
    text = along([batch.tokens] * depth, 1)
    return right_along(along(guesses, 0), along([best] * depth, 0), text, inside)
