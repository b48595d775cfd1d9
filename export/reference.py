"""The oracle: what a model computes, written as plainly as numpy allows.

Every other form of a model is compared with this one, and this one with transformers. Read it and
`_blocks.py` to understand the spec (`architecture.py`); it is not fast. Layer by layer, so that
one layer's weights are in memory at a time. Knows nothing about files or runtimes.

Shapes: n rows, s source rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedec import frontend
from edgedec.architecture import Architecture, Embedding, Frontend, Stack
from edgedec.errors import InputError, UsageError
from edgedec.export._blocks import Placement, block, norm
from edgedec.weights import shapes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from edgedec.export._blocks import Layered
    from edgedec.export.checkpoint import WeightSource

    Floats = NDArray[np.float32]

__all__ = ["Placement", "encode", "forward", "states"]

HEAD_ROWS = 8192
"""Rows of the vocabulary in memory at a time."""


def forward(
    architecture: Architecture,
    weights: WeightSource,
    tokens: ArrayLike,
    *,
    source: ArrayLike | None = None,
    parents: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Floats:
    """The logits of every row [n, V]; `parents` and `positions` as in `Placement`.

    `source` is what the encoder reads: ids [s], or features [frames, F].

    Raises:
        InputError: no tokens, an id outside the vocabulary, or a parent that is no earlier row.
        UsageError: no source for a model that reads one, or a source for one that does not.
    """
    memory = None if source is None else encode(architecture, weights, source)
    rows = Placement(np.size(tokens), parents, positions)
    for last in states(architecture, weights, tokens, rows, memory):
        x = last
    return _head(_decoder(architecture, weights).after(x), architecture, weights)


def encode(architecture: Architecture, weights: WeightSource, source: ArrayLike) -> Floats:
    """The encoder's output [s, D], after its final norm.

    Raises:
        InputError: an empty source, or an id outside the vocabulary.
        UsageError: the model has no encoder.
    """
    if architecture.encoder is None:
        raise UsageError("this model reads no source: it has no encoder")
    side = _Side("encoder", architecture.encoder, architecture, weights)
    if architecture.frontend is not None:
        x = _sound(architecture.frontend, architecture, weights, source)
    elif architecture.source_embed is not None:
        x = _vectors(architecture.source_embed, "encoder.embed.weight", weights, source)
    else:
        x = _vectors(architecture.embed, "embed.weight", weights, source)
    rows = Placement.source(len(x))
    for last in side.states(x, rows):
        x = last
    return side.after(x)


def states(
    architecture: Architecture,
    weights: WeightSource,
    tokens: ArrayLike,
    rows: Placement,
    memory: Floats | None = None,
) -> Iterator[Floats]:
    """The decoder's hidden states [n, D] before the first layer and after each: L + 1 arrays."""
    if architecture.encoder is not None and memory is None:
        raise UsageError("this model reads a source: say what its encoder is to read")
    x = _vectors(architecture.embed, "embed.weight", weights, tokens)
    yield from _decoder(architecture, weights).states(x, rows, memory)


@dataclass(frozen=True, slots=True)
class _Side:
    """The encoder or the decoder, with its weights at hand."""

    prefix: str
    stack: Stack
    architecture: Architecture
    weights: WeightSource

    def states(self, x: Floats, rows: Placement, memory: Floats | None = None) -> Iterator[Floats]:
        """What goes into the first layer, then what each gives."""
        place, spec = self.stack.positions, self.stack.embed_norm
        if place is not None:
            x = x + self.weights.load(f"{self.prefix}.positions")[rows.positions + place.offset]
        if spec is not None:
            x = norm(x, spec, self._load("embed_norm."), "embed_norm")
        yield x
        table = self._load("bias_table")
        for index, layer in enumerate(self.stack.layers):
            w = self._load(f"layers.{index}.")
            own = {name.removeprefix(f"layers.{index}."): value for name, value in w.items()}
            x = block(x, layer, own | table, rows, memory)
            yield x

    def after(self, x: Floats) -> Floats:
        """The final norm, if there is one."""
        spec = self.stack.final_norm
        return x if spec is None else norm(x, spec, self._load("final_norm."), "final_norm")

    def _load(self, module: str) -> Layered:
        """The tensors of a module, their names without the side's."""
        start = f"{self.prefix}."
        names = [name for name in shapes(self.architecture) if name.startswith(start + module)]
        return {name.removeprefix(start): self.weights.load(name) for name in names}


def _decoder(architecture: Architecture, weights: WeightSource) -> _Side:
    return _Side("decoder", architecture.decoder, architecture, weights)


def _vectors(spec: Embedding, name: str, weights: WeightSource, tokens: ArrayLike) -> Floats:
    """The embeddings of ids [n, D]; only their rows of the table are read."""
    ids = np.asarray(tokens)
    if not ids.size or ids.min() < 0 or ids.max() >= spec.vocab:
        raise InputError(f"the tokens must be one or more ids from 0 to {spec.vocab - 1}")
    kinds, place = np.unique(ids, return_inverse=True)
    found = [weights.load(name, slice(int(kind), int(kind) + 1))[0] for kind in kinds]
    return np.stack(found)[place] * np.float32(spec.scale)


def _sound(
    spec: Frontend, architecture: Architecture, weights: WeightSource, source: ArrayLike
) -> Floats:
    names = [name for name in shapes(architecture) if name.startswith("frontend.")]
    w = {name.removeprefix("frontend."): weights.load(name) for name in names}
    return frontend.rows(spec, w, np.asarray(source, dtype=np.float32))


def _head(x: Floats, architecture: Architecture, weights: WeightSource) -> Floats:
    spec, vocab = architecture.head, architecture.vocab
    name = "embed.weight" if spec.tied else "head.weight"
    logits = np.empty((len(x), vocab), dtype=np.float32)
    for first in range(0, vocab, HEAD_ROWS):
        rows = slice(first, min(first + HEAD_ROWS, vocab))
        logits[:, rows] = x @ weights.load(name, rows).T
    if spec.bias:
        logits += weights.load("head.bias")
    logits *= np.float32(spec.scale)
    return logits if spec.softcap is None else spec.softcap * np.tanh(logits / spec.softcap)
