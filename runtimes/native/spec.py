"""A stack as the engine reads it: `EdModelSpec`, its `EdRope`s and its `EdLayer`s, as bytes.

The structs of `edgedec.h` again as numpy types; a test compares every offset with what a C compiler
says. It knows the architecture and where the tensors lie, and reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from edgedec.architecture import Architecture, Attention, Layer, Norm, Rope, Stack
from edgedec.errors import BundleError
from edgedec.manifest import Format
from edgedec.mapped import Place
from edgedec.rope import inverse_frequencies
from edgedec.runtimes._source import most_rows
from edgedec.runtimes.native.packed import (
    BITS,
    DISTANCE_BIAS,
    distances,
    ropes,
    scales_of,
    stack_ropes,
    turned,
)
from edgedec.weights import shapes

VERSION = 2
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
NORMS = {"rms": 1, "layer": 2}
ORDERS = {"pre": 0, "post": 1, "sandwich": 2, "parallel": 3}
LARGEST = float(np.finfo(np.float32).max)


def _struct(**fields: object) -> np.dtype[np.void]:
    return np.dtype(list(fields.items()), align=True)


def _all(names: str, kind: object) -> dict[str, object]:
    return dict.fromkeys(names.split(), kind)


MATRIX = _struct(**_all("weight scales", "u8"), **_all("outputs inputs bits block", "i4"))
NORM = _struct(**_all("weight bias", "u8"), kind="i4", eps="f4")
ROPE = _struct(frequencies="u8", magnitude="f8", **_all("pairs interleaved", "i4"))
ATTENTION = _struct(
    **_all("q k v o", MATRIX),
    **_all("q_norm k_norm", NORM),
    **_all("q_bias k_bias v_bias o_bias distance_bias", "u8"),
    **_all("heads kv_heads head_dim rope window distances origin", "i4"),
    **_all("scale softcap", "f4"),
)
LAYER = _struct(
    **_all("attention_norm attention_post_norm cross_norm cross_post_norm", NORM),
    **_all("mlp_norm mlp_post_norm", NORM),
    **_all("own cross", ATTENTION),
    **_all("gate up down", MATRIX),
    **_all("gate_bias up_bias down_bias", "u8"),
    **_all("norm_order activation", "i4"),
)
MODEL = _struct(
    **_all("version layer_size", "u4"),
    **_all("layers ropes dim vocab context position_rows position_offset encoder", "i4"),
    **_all("embed head", MATRIX),
    **_all("head_bias positions", "u8"),
    **_all("embed_norm final_norm source_norm", NORM),
    **_all("embed_scale head_scale head_softcap padding", "f4"),
)
LINEAR = _struct(matrix=MATRIX, norm=NORM, bias="u8", **_all("scale softcap", "f4"))
STRUCTS = {"EdMatrix": MATRIX, "EdNorm": NORM, "EdRope": ROPE, "EdAttention": ATTENTION,
           "EdLayer": LAYER, "EdModelSpec": MODEL, "EdLinearSpec": LINEAR}  # fmt: skip


class Described(Protocol):
    """A model and how its matrices are stored: a manifest, or the layers of a trained part."""

    @property
    def architecture(self) -> Architecture:
        """What the model is."""

    def format_of(self, tensor: str) -> Format:
        """How a tensor is stored."""


def encode(model: Described, tensors: Mapping[str, Place]) -> bytes:
    """The decoder for `ed_model_open`; offsets count from the beginning of the mapped file.

    `tensors` are those of an opened file, which were checked to be all there.

    Raises:
        BundleError: a number that the engine cannot hold, or rotary positions without sense.
    """
    writer = _Writer(model, tensors, "decoder", model.architecture.decoder)
    return writer.whole(writer.decoder())


def encode_encoder(model: Described, stack: Stack, tensors: Mapping[str, Place]) -> bytes:
    """The encoder for `ed_model_beside`, like `encode`; the decoder applies its final norm."""
    writer = _Writer(model, tensors, "encoder", stack)
    return writer.whole(writer.encoder())


def encode_head(model: Described, tensors: Mapping[str, Place]) -> bytes:
    """The decoder's final norm and head for `ed_linear_open`, like `encode`."""
    fields = _Writer(model, tensors, "decoder", model.architecture.decoder).decoder()
    return encode_linear(
        {
            "matrix": fields["head"],
            "norm": fields["final_norm"],
            "bias": fields["head_bias"],
            "scale": fields["head_scale"],
            "softcap": fields["head_softcap"],
        }
    )


def encode_linear(fields: Mapping[str, object]) -> bytes:
    """An `EdLinearSpec` for `ed_linear_open`; a field that is left out is 0, or 1 for `scale`."""
    linear = np.zeros(1, LINEAR)
    _fill(linear[0], {"scale": 1.0, **fields})
    return linear.tobytes()


def matrix(
    tensors: Mapping[str, Place], name: str, shape: tuple[int, ...], form: Format
) -> dict[str, object]:
    """The fields of an `EdMatrix` [outputs, inputs]."""
    outputs, inputs = shape
    return {
        "weight": tensors[name].offset,
        "scales": tensors[scales_of(name)].offset,
        "outputs": outputs,
        "inputs": inputs,
        "bits": BITS[form.kind],
        "block": form.block,
    }


def norm(tensors: Mapping[str, Place], name: tuple[str, str], spec: Norm) -> dict[str, object]:
    """The fields of an `EdNorm`, of the names of its weight and its bias; none without a weight."""
    weight, bias = (tensors[each].offset if each in tensors else 0 for each in name)
    if not weight:
        return {}
    return {"weight": weight, "bias": bias, "kind": NORMS[spec.kind], "eps": spec.eps}


class _Writer:
    """The fields of each struct by name; one that is left out stays zero: there is none."""

    def __init__(
        self, model: Described, tensors: Mapping[str, Place], prefix: str, stack: Stack
    ) -> None:
        self._described = model
        self._tensors = tensors
        self._prefix, self._stack = prefix, stack
        self._shapes = shapes(model.architecture)
        self._ropes = {kind: index for index, kind in enumerate(stack_ropes(stack))}

    def whole(self, model: Mapping[str, object]) -> bytes:
        """The structs one after the other."""
        head, layers = np.zeros(1, MODEL), np.zeros(len(self._stack.layers), LAYER)
        rotary = np.zeros(len(self._ropes), ROPE)
        _fill(head[0], model)
        stored = ropes(self._described.architecture)
        for (rope, width), index in self._ropes.items():
            place = self._tensors[f"rope.{stored[rope, width]}"]
            _fill(rotary[index], _rope(rope, width, place))
        for index, layer in enumerate(self._stack.layers):
            _fill(layers[index], self._layer(index, layer))
        return head.tobytes() + rotary.tobytes() + layers.tobytes()

    def decoder(self) -> dict[str, object]:
        spec: Architecture = self._described.architecture
        head, read = spec.head, spec.encoder.final_norm if spec.encoder else None
        embed = self._matrix("embed")
        return {
            **self._model(),
            "vocab": spec.vocab,
            "context": spec.limits.context,
            "embed": embed,
            "head": embed if head.tied else self._matrix("head"),
            "head_bias": self._offset("head.bias"),
            "final_norm": self._norm("decoder.final_norm", self._stack.final_norm),
            "source_norm": self._norm("encoder.final_norm", read),
            "embed_scale": spec.embed.scale,
            "head_scale": head.scale,
            "head_softcap": head.softcap or 0.0,
        }

    def encoder(self) -> dict[str, object]:
        spec: Architecture = self._described.architecture
        own = spec.source_embed
        read: dict[str, object] = {"embed_scale": 1.0}  # sound enters as vectors
        if spec.frontend is None:
            embed = own or spec.embed
            table = self._matrix("embed" if own is None else "encoder.embed")
            read = {"vocab": embed.vocab, "embed": table, "embed_scale": embed.scale}
        return {**self._model(), **read, "encoder": 1, "context": most_rows(spec)}

    def _model(self) -> dict[str, object]:
        table = self._stack.positions
        return {
            "version": VERSION,
            "layer_size": LAYER.itemsize,
            "layers": len(self._stack.layers),
            "ropes": len(self._ropes),
            "dim": self._described.architecture.embed.dim,
            "position_rows": table.count + table.offset if table else 0,
            "position_offset": table.offset if table else 0,
            "positions": self._offset(f"{self._prefix}.positions"),
            "embed_norm": self._norm(f"{self._prefix}.embed_norm", self._stack.embed_norm),
        }

    def _layer(self, index: int, layer: Layer) -> dict[str, object]:
        prefix = f"{self._prefix}.layers.{index}"
        fields: dict[str, object] = {
            "own": self._attention(f"{prefix}.self_attention", layer.self_attention),
            "norm_order": ORDERS[layer.norm_order],
            "activation": ACTIVATIONS[layer.mlp.activation],
        }
        if layer.cross_attention is not None:
            cross = self._attention(f"{prefix}.cross_attention", layer.cross_attention)
            fields["cross"] = cross
        parts = {"attention": "self_attention", "cross": "cross_attention", "mlp": "mlp"}
        for part, name in parts.items():
            fields[f"{part}_norm"] = self._norm(f"{prefix}.{name}_norm", layer.norm)
            fields[f"{part}_post_norm"] = self._norm(f"{prefix}.{name}_post_norm", layer.norm)
        return fields | self._matrices(f"{prefix}.mlp", "gate up down")

    def _attention(self, prefix: str, attention: Attention) -> dict[str, object]:
        rope = turned(attention.rope)
        fields: dict[str, object] = {
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "rope": -1 if rope is None else self._ropes[rope, attention.head_dim],
            "window": attention.window or 0,
            "scale": attention.scale,
            "softcap": attention.softcap or 0.0,
        }
        if attention.bias_table is not None:
            span = distances(self._described.architecture, self._prefix, attention.bias_table)
            place = self._offset(f"{self._prefix}.{DISTANCE_BIAS}")
            fields |= {"distance_bias": place, "distances": len(span), "origin": -span.start}
        for part in ("q", "k"):
            fields[f"{part}_norm"] = self._norm(f"{prefix}.{part}_norm", attention.qk_norm)
        return fields | self._matrices(prefix, "q k v o")

    def _matrices(self, owner: str, parts: str) -> dict[str, object]:
        """Some matrices and their biases."""
        fields: dict[str, object] = {}
        for part in parts.split():
            fields[part] = self._matrix(f"{owner}.{part}")
            fields[f"{part}_bias"] = self._offset(f"{owner}.{part}.bias")
        return fields

    def _offset(self, name: str) -> int:
        return self._tensors[name].offset if name in self._tensors else 0

    def _norm(self, name: str, spec: Norm | None) -> dict[str, object]:
        if spec is None:
            return {}
        return norm(self._tensors, (f"{name}.weight", f"{name}.bias"), spec)

    def _matrix(self, owner: str) -> dict[str, object]:
        name = f"{owner}.weight"
        if name not in self._tensors:
            return {}
        return matrix(self._tensors, name, self._shapes[name], self._described.format_of(name))


def _rope(rope: Rope, width: int, place: Place) -> dict[str, object]:
    try:
        with np.errstate(all="ignore"):
            frequencies, magnitude = inverse_frequencies(rope, width)
    except (ArithmeticError, ValueError) as error:
        raise BundleError(f"rotary positions that cannot be computed: {error}") from None
    return {
        "frequencies": place.offset,
        "magnitude": magnitude,
        "pairs": len(frequencies),
        "interleaved": int(rope.layout == "interleaved"),
    }


def _fill(target: np.void, fields: Mapping[str, Any]) -> None:
    """Set the fields of one struct, and of the structs in it."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _fill(target[name], value)
        elif isinstance(value, float) and abs(value) > LARGEST:
            raise BundleError(f"{name} is {value:.3g}, more than the engine can hold")
        else:
            target[name] = value
