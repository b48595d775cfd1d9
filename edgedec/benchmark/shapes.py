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
from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    BiasTable,
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
INT8 = {str(what): Format(kind="int8", block=64) for what in ROLES}
"""4 or 8 bit in every matrix, embedding and head included."""
FORMATS = {"int4": INT4, "int8": INT8}

CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Llama:
    """Width, layers, query and key/value heads of 64, mlp width, vocabulary."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool

    def architecture(self) -> Architecture:
        """With rotary positions and a gated mlp."""
        norm = Norm(kind="rms", eps=1e-5)
        attention = Attention(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=64,
            scale=64**-0.5,
            rope=Rope(theta=10000.0),
        )
        mlp = Mlp(width=self.mlp, activation="silu", gated=True)
        layer = Layer(self_attention=attention, mlp=mlp, norm=norm)
        return Architecture(
            family="llama",
            embed=Embedding(vocab=self.vocab, dim=self.dim),
            decoder=Stack(layers=(layer,) * self.layers, final_norm=norm),
            head=Head(tied=self.tied),
            tokens=Tokens(eos=(0,)),
            limits=Limits(context=CONTEXT),
        )


@dataclass(frozen=True, slots=True)
class T5:
    """Width, layers of encoder and of decoder, heads of 64, mlp width, vocabulary."""

    dim: int
    layers: int
    heads: int
    mlp: int
    vocab: int

    def architecture(self) -> Architecture:
        """T5 of 1910.10683: relative positions, an mlp without gate, a scaled tied head."""
        norm = Norm(kind="rms", eps=1e-6)
        mlp = Mlp(width=self.mlp, activation="relu", gated=False)
        across = Attention(heads=self.heads, kv_heads=self.heads, head_dim=64, scale=1.0)

        def within(bidirectional: bool) -> Attention:
            table = BiasTable(buckets=32, max_distance=128, bidirectional=bidirectional)
            return replace(across, bias_table=table, causal=not bidirectional)

        encoder = Layer(self_attention=within(True), mlp=mlp, norm=norm)
        decoder = Layer(self_attention=within(False), mlp=mlp, norm=norm, cross_attention=across)
        return Architecture(
            family="t5",
            embed=Embedding(vocab=self.vocab, dim=self.dim),
            encoder=Stack(layers=(encoder,) * self.layers, final_norm=norm),
            decoder=Stack(layers=(decoder,) * self.layers, final_norm=norm),
            head=Head(tied=True, scale=self.dim**-0.5),
            tokens=Tokens(eos=(1,), pad=0, decoder_start=0),
            limits=Limits(context=CONTEXT, source=CONTEXT),
        )


@dataclass(frozen=True, slots=True)
class Mu:
    """The models that "Return of the Encoder" (2501.16273) compares: layers of encoder (0: none)
    and of decoder, all alike but for cross-attention; width, heads of 64, mlp width, vocabulary."""

    encoder: int
    decoder: int
    dim: int = 1024
    heads: int = 6
    kv_heads: int = 3
    mlp: int = 4096
    vocab: int = 32128

    def architecture(self) -> Architecture:
        """Rotary positions within a stack, none across; biases everywhere; a tied head."""
        norm = Norm(kind="rms", eps=1e-6)
        mlp = Mlp(width=self.mlp, activation="gelu_tanh", gated=False, bias=True)
        across = Attention(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=64,
            scale=64**-0.5,
            biases=("q", "k", "v", "o"),
        )
        within = replace(across, rope=Rope(theta=10000.0))
        hears = replace(across, rope=Rope(theta=10000.0, positions="centred"), causal=False)
        layer = Layer(self_attention=within, mlp=mlp, norm=norm)
        reads = self.encoder > 0
        alone = Stack(layers=(layer,) * self.decoder, final_norm=norm)
        told = replace(alone, layers=(replace(layer, cross_attention=across),) * self.decoder)
        encoder = Stack(
            layers=(replace(layer, self_attention=hears),) * max(self.encoder, 1), final_norm=norm
        )
        return Architecture(
            family="mu",
            embed=Embedding(vocab=self.vocab, dim=self.dim),
            encoder=encoder if reads else None,
            decoder=told if reads else alone,
            head=Head(tied=True),
            tokens=Tokens(eos=(2,), pad=0, decoder_start=1 if reads else None),
            limits=Limits(context=CONTEXT, source=CONTEXT if reads else None),
        )


SHAPES: dict[str, Llama | T5 | Mu] = {
    "135m": Llama(576, 30, 9, 3, 1536, 49152, tied=True),
    "1b": Llama(2048, 22, 32, 4, 5632, 32000, tied=False),
    "3b": Llama(3072, 28, 24, 8, 8192, 32000, tied=False),
    "t5-small": T5(512, 6, 8, 2048, 32128),
    "t5-base": T5(768, 12, 12, 3072, 32128),
    "mu-330m": Mu(20, 10),
    "mu-330m-decoder": Mu(0, 31),
    "mu-70m": Mu(14, 7, dim=512, mlp=2048),
    "mu-70m-decoder": Mu(0, 22, dim=512, mlp=2048),
}


def architecture(name: str) -> Architecture:
    """The architecture of a shape of `SHAPES`; a format behind it, as in "135m/int8", is let be.

    Raises:
        UsageError: there is none of that name.
    """
    shape, _, kind = name.partition("/")
    if shape not in SHAPES:
        raise UsageError(f"no shape {shape!r}; there is: {', '.join(SHAPES)}")
    if kind not in ("", *FORMATS):
        raise UsageError(f"no format {kind!r} of a shape; there is: {', '.join(FORMATS)}")
    return SHAPES[shape].architecture()


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
        return random.standard_normal((stop - start, *shape[1:]), np.float32) * np.float32(0.04)


def random_bundle(name: str, form: FormName, tell: Tell = lambda share: None) -> Bundle:
    """The bundle of a shape, from the user's cache or made now (`1b` takes a minute).

    It has 4 bit in every matrix, or the format that stands behind the name: "135m/int8".

    Raises:
        UsageError: there is no shape of that name.
        WriteError: the cache cannot be written, or the disk is full.
    """
    model = architecture(name)
    shape, _, kind = name.partition("/")
    kind = kind or "int4"
    path = cache_folder() / "bench" / f"{shape}-{kind}-{form}"
    if not path.exists():
        make_bundle(path, model, RandomWeights(model), FORMATS[kind], form, tell)
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
