"""Small random models as bundles, and what they must answer by the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
    Tokens,
)
from edgedec.bundle import Bundle, open_bundle, write_bundle
from edgedec.contracts import Rows, Session
from edgedec.devices import EngineOptions
from edgedec.export import reference, to_onnx
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format, Forms, Manifest, Provenance
from edgedec.runtimes import onnx
from edgedec.runtimes.onnx.engine import Onnx
from edgedec.weights import ROLES, shapes

from .sources import MODELS, a_source, lengths

VOCAB = 50
Kind = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True)
class Model:
    """A bundle, its engine and its weights."""

    bundle: Bundle
    engine: Onnx
    weights: Arrays
    learned: np.ndarray | None = None

    def logits(self, path: Sequence[int]) -> np.ndarray:
        """The logits [V] after a path, recomputed from its start by the reference."""
        return reference.forward(self.engine.architecture, self.weights, path)[-1]

    def states(self, path: Sequence[int]) -> np.ndarray:
        """The hidden states [L + 1, D] of the last token of a path."""
        rows = reference.Placement(len(path))
        found = reference.states(self.engine.architecture, self.weights, path, rows)
        return np.stack([state[-1] for state in found])


def architecture(windows: Sequence[int | None], context: int = 160) -> Architecture:
    """A Llama-like model of a few layers; one window per layer."""
    norm = Norm(kind="rms", eps=1e-5)
    layers = tuple(
        Layer(
            self_attention=Attention(
                heads=4,
                kv_heads=2,
                head_dim=8,
                scale=8**-0.5,
                rope=Rope(theta=10000.0),
                window=window,
            ),
            mlp=Mlp(width=64, activation="silu", gated=True),
            norm=norm,
        )
        for window in windows
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=VOCAB, dim=32),
        decoder=Stack(layers=layers, final_norm=norm),
        head=Head(tied=True),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=context),
    )


def random_weights(model: Architecture) -> Arrays:
    """Weights large enough that attention is far from uniform."""
    random = np.random.default_rng(0)
    arrays = {
        name: (random.standard_normal(shape) * 0.25).astype(np.float32) + np.float32("norm" in name)
        for name, shape in shapes(model).items()
    }
    return Arrays(model, arrays)


def write_model(
    target: Path, model: Architecture, options: to_onnx.OnnxOptions, kind: Kind = "fp32"
) -> Model:
    weights = random_weights(model)
    block = Format(kind=kind, block=32 if kind.startswith("int") else None)
    formats = {str(role): block for role in ROLES}
    with write_bundle(target) as writer:
        form = to_onnx.write(writer.path, model, weights, formats, options)
        writer.finish(
            Manifest(
                name=target.name,
                architecture=model,
                quantisation=formats,
                forms=Forms(onnx=form),
                files={},
                provenance=Provenance(source="random", created="2026-11-20", exporter="test"),
                cuts=options.cuts,
            )
        )
    bundle = open_bundle(target)
    return Model(bundle, onnx.open(bundle, EngineOptions(threads=1)), weights)


@dataclass(frozen=True)
class Reader:
    """An encoder-decoder model and the source that its sessions have read."""

    model: Model
    source: np.ndarray

    def logits(self, path: Sequence[int], parents: Sequence[int] | None = None) -> np.ndarray:
        spec, weights = self.model.engine.architecture, self.model.weights
        return reference.forward(spec, weights, path, source=self.source, parents=parents)

    def session(self) -> Session:
        session = self.model.engine.session()
        session.encode(self.source)
        return session


def reader(model: Model, count: int | None = None, seed: int = 0) -> Reader:
    """A model with a random source of so many tokens or frames; the longest by default."""
    spec = model.engine.architecture
    length = lengths(spec)[-1] if count is None else count
    return Reader(model, a_source(spec, length, seed))


def rows(tokens: Sequence[int], parents: Sequence[int] | None = None) -> Rows:
    chosen = range(-1, len(tokens) - 1) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(chosen, np.int32))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 3e-5 of the spread of the logits, which random weights make large."""
    np.testing.assert_allclose(found, expected, atol=3e-5 * max(1.0, float(expected.std())))


Maker = Callable[[str], Model]

VARIANTS = {
    "whole": ([None] * 3, to_onnx.OnnxOptions(hidden=(0, 2, 3))),
    "long": ([None], to_onnx.OnnxOptions()),
    "windows": ([None, 6, 6, 3], to_onnx.OnnxOptions()),
    "cut": ([None] * 5, to_onnx.OnnxOptions(cuts=(1, 2, 4), hidden=(0, 3))),
    "int4": ([None, 6], to_onnx.OnnxOptions()),
    "int8": ([None, 6], to_onnx.OnnxOptions()),
    "cut windows": ([4, None, 4], to_onnx.OnnxOptions(cuts=(1,))),
}


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Models by the name of a variant, made once."""
    made: dict[str, Model] = {}

    def one(variant: str) -> Model:
        if variant not in made:
            windows, options = VARIANTS[variant]
            context = 1200 if variant == "long" else 160
            kind: Kind = "int4" if variant == "int4" else "int8" if variant == "int8" else "fp32"
            target = tmp_path_factory.mktemp("models") / variant.replace(" ", "-")
            made[variant] = write_model(target, architecture(windows, context), options, kind)
        return made[variant]

    return one


READ = {
    "mu cut": to_onnx.OnnxOptions(cuts=(1, 2), hidden=(0, 1)),
    "t5 cut": to_onnx.OnnxOptions(cuts=(1,)),
    "normed cut": to_onnx.OnnxOptions(cuts=(1, 2)),
}
"""Encoder-decoder models of `sources` that are written otherwise."""


@pytest.fixture(scope="session")
def make_reader(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Models by name, made once: "mu", "mu cut", "mu int8"."""
    made: dict[str, Model] = {}

    def one(name: str) -> Model:
        if name not in made:
            base, _, what = name.rpartition(" ")
            kind: Any = what if what in ("fp16", "int8", "int4") else "fp32"
            spec = MODELS[name if name in MODELS else base]
            target = tmp_path_factory.mktemp("sources") / name.replace(" ", "-")
            options = READ.get(name, to_onnx.OnnxOptions())
            made[name] = write_model(target, spec, options, kind)
        return made[name]

    return one
