"""Pseudo hidden states in numpy, layer by layer: the oracle of the strategy and of its trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgedec.export import reference
from edgedec.export._blocks import Placement, block, norm
from edgedec.weights import shapes
from tests.native import variants

from .selfdrafted import SOURCE
from .stubbed import Stub


def part(made: variants.Model, layer: int, states: int = 3, scale: float = 0.3) -> Stub:
    """A map of random numbers."""
    width, dice = made.architecture.embed.dim, np.random.default_rng(11)
    tensors = {
        "transfer": scale * dice.normal(size=(states * width, 2 * width)) / np.sqrt(width),
        "transfer.bias": scale * dice.normal(size=states * width),
    }
    table = made.weights.load("embed.weight") * made.architecture.embed.scale
    found = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    return Stub({"layer": layer}, found, table.astype(np.float32))


def level(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x) + 1e-12)


def transferred(made: variants.Model, given: Stub, text: list[int], root: int) -> np.ndarray:
    """The logits [k, V] of the pseudo states behind a text that a root follows."""
    spec, weights = made.architecture, made.weights
    memory = None
    if spec.encoder is not None:
        memory = reference.encode(spec, weights, np.array(SOURCE.tokens))
    count, layer = len(text), given.about["layer"]
    real = list(reference.states(spec, weights, text, Placement(count), memory))
    state = real[layer][-1]
    assert given.table is not None
    seen = np.concatenate([level(state), level(given.table[root])])
    moved = given.tensors["transfer"] @ seen + given.tensors["transfer.bias"]
    size = np.sqrt(np.mean(state * state))
    x = size * (level(state) + moved.reshape(-1, len(state)))
    rows = Placement(count + len(x))
    for index in range(layer, spec.layers):
        own = named(made, f"layers.{index}.")
        both = np.concatenate([real[index], x]).astype(np.float32)
        x = block(both, spec.decoder.layers[index], own, rows, memory)[count:]
    final: Any = spec.decoder.final_norm
    last = {f"final_norm.{name}": value for name, value in named(made, "final_norm.").items()}
    return norm(x, final, last, "final_norm") @ weights.load("embed.weight").T


def named(made: variants.Model, module: str) -> dict[str, np.ndarray]:
    start = f"decoder.{module}"
    names = [name for name in shapes(made.architecture) if name.startswith(start)]
    return {name.removeprefix(start): made.weights.load(name) for name in names}
