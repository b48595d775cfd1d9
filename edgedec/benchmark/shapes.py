"""Shapes whose speed is measured, and bundles of random weights of those shapes.

Time does not depend on the values of the weights, so random ones of the real shape will do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

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
from edgedec.bundle import Bundle, cache_folder, open_bundle, write_bundle
from edgedec.errors import UsageError
from edgedec.manifest import Format, Forms, Manifest, Provenance
from edgedec.weights import ROLES, shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedec.contracts import Floats
    from edgedec.export.checkpoint import WeightSource

FormName = Literal["onnx", "native"]
Tell = Callable[[float], None]
"""Told the share that is written."""

INT4 = {str(what): Format(kind="int4", block=64) for what in ROLES}
"""4 bit in every matrix, embedding and head included."""

CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama: width, layers, query and key/value heads of 64, mlp width, vocabulary."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool


SHAPES = {
    "135m": Shape(576, 30, 9, 3, 1536, 49152, tied=True),
    "1b": Shape(2048, 22, 32, 4, 5632, 32000, tied=False),
}


def architecture(name: str) -> Architecture:
    """The architecture of a shape of `SHAPES`.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in SHAPES:
        raise UsageError(f"no shape {name!r}; there is: {', '.join(SHAPES)}")
    shape = SHAPES[name]
    norm = Norm(kind="rms", eps=1e-5)
    attention = Attention(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=64,
        scale=64**-0.5,
        rope=Rope(theta=10000.0),
    )
    mlp = Mlp(width=shape.mlp, activation="silu", gated=True)
    layer = Layer(self_attention=attention, mlp=mlp, norm=norm)
    return Architecture(
        family="llama",
        embed=Embedding(vocab=shape.vocab, dim=shape.dim),
        decoder=Stack(layers=(layer,) * shape.layers, final_norm=norm),
        head=Head(tied=shape.tied),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=CONTEXT),
    )


class RandomWeights:
    """Weights that are made when asked for, the same each time."""

    def __init__(self, model: Architecture) -> None:
        self._shapes = shapes(model)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[name]

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """Some rows of a tensor (None: all of them); norms are ones."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)[rows or slice(None)]
        start, stop, _ = (rows or slice(None)).indices(shape[0])
        random = np.random.default_rng([zlib.crc32(name.encode()), start])
        return random.standard_normal((stop - start, shape[1]), np.float32) * np.float32(0.04)


def random_bundle(name: str, form: FormName, tell: Tell = lambda share: None) -> Bundle:
    """The int4 bundle of a shape, from the user's cache or made now (`1b` takes a minute).

    Raises:
        UsageError: there is no shape of that name.
        WriteError: the cache cannot be written, or the disk is full.
    """
    model = architecture(name)
    path = cache_folder() / "bench" / f"{name}-int4-{form}"
    if not path.exists():
        make_bundle(path, model, RandomWeights(model), INT4, form, tell)
    return open_bundle(path)


def make_bundle(
    target: Path,
    model: Architecture,
    weights: WeightSource,
    formats: Mapping[str, Format],
    form: FormName,
    tell: Tell = lambda share: None,
) -> None:
    """Write a bundle without a tokenizer."""
    from edgedec.export import to_native, to_onnx

    def progress(done: int, total: int, tensor: str) -> None:
        tell(done / total)

    with write_bundle(target) as writer:
        path = writer.path
        if form == "native":
            found = to_native.write(path, model, weights, formats, progress=progress)
            forms = Forms(native=found)
        else:
            forms = Forms(onnx=to_onnx.write(path, model, weights, formats, progress=progress))
        writer.finish(
            Manifest(
                name=target.name,
                architecture=model,
                quantisation=dict(formats),
                forms=forms,
                files={},
                provenance=Provenance(source="weights of a bench", created="", exporter="bench"),
            )
        )
