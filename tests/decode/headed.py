"""A part with a head, in numpy, and random matrices for every kind of head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .stubbed import Stub

V, D, DEPTH = 24, 16, 3
IDS = np.arange(1, V, 2, dtype=np.int32)


def tensors(name: str, width: int, ids: int, scale: float) -> dict[str, np.ndarray]:
    """Random matrices of a kind of head."""
    dice = np.random.default_rng(5)

    def drawn(rows: int, inputs: int) -> np.ndarray:
        return dice.standard_normal((rows, inputs)).astype(np.float32) * np.float32(scale)

    own = {
        "medusa": {"heads": drawn(DEPTH * width, 2 * width)},
        "hydra": {f"level.{i}": drawn(width, (2 + i) * width) for i in range(DEPTH)},
        "recurrent": {
            "state": drawn(width, 2 * width),
            "mix": drawn(width, 2 * width),
            "block.0": drawn(width, width),
            "block.1": drawn(width, width),
        },
    }
    return {**own[name], "head": drawn(ids, width)}


@dataclass
class Headed(Stub):
    """A part with a head over some ids, in numpy."""

    ids: np.ndarray = field(default_factory=lambda: IDS)

    def likely(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        logits = (unit(x) * self.tensors["norm"]) @ self.tensors["head"].T
        best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(logits, best, axis=1)
        return self.ids[best], values.astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))
