"""The C pieces and their Python twins side by side, and arrays for them to write to."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest

from edgedec.architecture import Architecture
from edgedec.contracts import Draft, Engine
from edgedec.host import Files, Scratch
from edgedec.runtimes.fake import Fake

try:
    FAST: ModuleType | None = importlib.import_module("edgedec._tree._fast")
except ImportError:
    FAST = None

needs_c = pytest.mark.skipif(FAST is None, reason="the C part was not compiled")


def plain_host(model: Architecture) -> Scratch:
    """The host of a model in a pretend runtime that can only step."""
    engine = Fake(vocab=model.vocab, dim=model.embed.dim, layers=model.layers)
    return Scratch(engine, engine.session(), model, Files(_refused))


def _refused(path: str) -> Engine:
    raise AssertionError(path)


def arrays(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, parents, score, rank."""
    ints = (np.full(count, -9, np.int32) for _ in range(3))
    tokens, parents, rank = ints
    return tokens, parents, np.full(count, -9, np.float32), rank


def same(
    one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...], count: int, score: float = 1e-5
) -> bool:
    """Whether the first `count` nodes are the same, scores but for rounding."""
    return all(
        np.allclose(a[:count], b[:count], atol=score) if a.dtype == np.float32
        else (a[:count] == b[:count]).all()
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


def tree(
    tokens: list[int],
    parents: list[int],
    score: list[float],
    rank: list[int] | None = None,
    riders: list[list[int]] | None = None,
    gains: tuple[float, ...] = (),
) -> Draft:
    """A draft from lists."""
    return Draft(
        np.array(tokens, np.int32),
        np.array(parents, np.int32),
        np.array(score, np.float32),
        np.array(rank or [0] * len(tokens), np.int32),
        riders,
        gains,
    )
