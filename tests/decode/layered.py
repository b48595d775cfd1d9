"""Parts with layers of their own, of made-up numbers, and what such layers say of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from edgedec.architecture import Architecture, Embedding, Head, Rope, Stack
from edgedec.contracts import Rows, Want
from edgedec.export import to_part
from edgedec.export.to_part import PartSource
from edgedec.parts import Part
from edgedec.runtimes import native
from edgedec.weights import shapes
from tests.native import variants

from .selfdrafted import SOURCE


def own(spec: Architecture, ids: int) -> Architecture:
    """A decoder of one layer like the model's, that reads no source."""
    layer = spec.decoder.layers[0]
    layer = replace(
        layer,
        cross_attention=None,
        self_attention=replace(layer.self_attention, rope=Rope(theta=10000.0), bias_table=None),
    )
    return replace(
        spec,
        embed=Embedding(vocab=ids, dim=spec.embed.dim),
        decoder=Stack(layers=(layer,), final_norm=spec.decoder.final_norm),
        head=Head(tied=True),
        limits=replace(spec.limits, source=None),
        encoder=None,
        source_embed=None,
    )


def layered(
    made: variants.Model,
    folder: Path,
    strategy: str,
    about: dict[str, Any],
    matrices: Sequence[tuple[str, int]] = (),
) -> Part:
    """A part whose layer says something about what enters it; `matrices` by name and inputs / D."""
    spec, dice = made.architecture, np.random.default_rng(5)
    dim, ids = spec.embed.dim, np.arange(0, spec.vocab, 2, dtype=np.int32)
    small = own(spec, len(ids))
    weights = {
        name: dice.normal(size=shape).astype(np.float32) * np.float32(shape[-1] ** -0.5)
        if len(shape) > 1
        else np.ones(shape, np.float32) * (not name.endswith("bias"))
        for name, shape in shapes(small).items()
    }
    # The head reads hidden states as the model's own head does, more or less.
    weights["embed.weight"] = made.weights.load("embed.weight")[ids]
    mixes = {
        name: np.tile(np.eye(dim, dtype=np.float32), (1, times))
        + dice.normal(size=(dim, times * dim)).astype(np.float32) / 8
        for name, times in matrices
    }
    path = folder / f"{strategy}.safetensors"
    hashed = made.bundle.hash
    to_part.write(path, PartSource(strategy, hashed, about, ids, {}, mixes, small, weights), spec)
    return native.open_part(path, made.bundle, None, 1)


def states(made: variants.Model, text: Sequence[int], layers: Sequence[int]) -> list[np.ndarray]:
    """The hidden states of a text that the model reads at once, at some layers."""
    session = made.open().session()
    if made.architecture.encoder is not None:
        session.encode(np.array(SOURCE.tokens, np.int32))
    rows = Rows(np.array(text, np.int32), np.arange(-1, len(text) - 1))
    result = session.step(rows, want=Want((), tuple(layers)))
    return [result.hidden(layer).copy() for layer in layers]


def said(
    part: Part, places: Sequence[int], vectors: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a part's layers say after a chain of rows at these places, read at once: the likeliest
    ids and their logits after the last, and the last's output."""
    rows = Rows(
        np.zeros(len(places), np.int32),
        np.arange(-1, len(places) - 1),
        np.array(places, np.int32),
        np.ascontiguousarray(vectors, np.float32),
    )
    result = part.session().step(rows, want=Want((len(places) - 1,), (1,)))
    ids, values = result.topk(k)
    return part.ids[ids[0]], values[0], result.hidden(1)[-1:].copy()
