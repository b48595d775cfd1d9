"""A model as the engine reads it: `EdModelSpec`, its `EdRope`s and its `EdLayer`s, as bytes.

The structs of `edgedec.h` again as numpy types; a test compares every offset with what a C compiler
says. It knows the architecture and where the tensors lie, and reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedec.architecture import Architecture, Layer, Norm, Rope
from edgedec.errors import BundleError
from edgedec.manifest import Manifest
from edgedec.rope import inverse_frequencies
from edgedec.runtimes.native.packed import BITS, Place, ropes, scales_of
from edgedec.weights import shapes

VERSION = 1
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
LAYER = _struct(
    **_all("attention_norm attention_post_norm mlp_norm mlp_post_norm q_norm k_norm", NORM),
    **_all("q k v o gate up down", MATRIX),
    **_all("q_bias k_bias v_bias o_bias gate_bias up_bias down_bias distance_bias", "u8"),
    **_all("heads kv_heads head_dim rope window distances norm_order activation", "i4"),
    **_all("scale softcap", "f4"),
)
MODEL = _struct(
    **_all("version layer_size", "u4"),
    **_all("layers ropes dim vocab context position_rows position_offset reserved", "i4"),
    **_all("embed head", MATRIX),
    **_all("head_bias positions", "u8"),
    **_all("embed_norm final_norm", NORM),
    **_all("embed_scale head_scale head_softcap padding", "f4"),
)
STRUCTS = {"EdMatrix": MATRIX, "EdNorm": NORM, "EdRope": ROPE, "EdLayer": LAYER,
           "EdModelSpec": MODEL}  # fmt: skip


def encode(manifest: Manifest, tensors: Mapping[str, Place]) -> bytes:
    """The description for `ed_model_open`; offsets count from the beginning of the mapped file.

    `tensors` are those of `open_packed`, which has checked that all are there.

    Raises:
        BundleError: a number that the engine cannot hold, or rotary positions without sense.
    """
    architecture = manifest.architecture
    writer = _Writer(manifest, tensors)
    model = writer.model()
    rotary = np.zeros(len(writer.ropes), ROPE)
    for (rope, width), index in writer.ropes.items():
        _fill(rotary[index], _rope(rope, width, tensors[f"rope.{index}"]))
    layers = np.zeros(architecture.layers, LAYER)
    for index, layer in enumerate(architecture.decoder.layers):
        _fill(layers[index], writer.layer(index, layer))
    return model.tobytes() + rotary.tobytes() + layers.tobytes()


class _Writer:
    """The fields of each struct by name; one that is left out stays zero: there is none."""

    def __init__(self, manifest: Manifest, tensors: Mapping[str, Place]) -> None:
        self._manifest = manifest
        self._tensors = tensors
        self._shapes = shapes(manifest.architecture)
        self.ropes = ropes(manifest.architecture)

    def model(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        spec: Architecture = self._manifest.architecture
        stack, head = spec.decoder, spec.head
        table = stack.positions
        embed = self._matrix("embed")
        model = np.zeros(1, MODEL)
        fields: dict[str, object] = {
            "version": VERSION,
            "layer_size": LAYER.itemsize,
            "layers": spec.layers,
            "ropes": len(self.ropes),
            "dim": spec.embed.dim,
            "vocab": spec.vocab,
            "context": spec.limits.context,
            "position_rows": table.count + table.offset if table else 0,
            "position_offset": table.offset if table else 0,
            "embed": embed,
            "head": embed if head.tied else self._matrix("head"),
            "head_bias": self._offset("head.bias"),
            "positions": self._offset("decoder.positions"),
            "embed_norm": self._norm("decoder.embed_norm", stack.embed_norm),
            "final_norm": self._norm("decoder.final_norm", stack.final_norm),
            "embed_scale": spec.embed.scale,
            "head_scale": head.scale,
            "head_softcap": head.softcap or 0.0,
        }
        _fill(model[0], fields)
        return model

    def layer(self, index: int, layer: Layer) -> dict[str, object]:
        prefix = f"decoder.layers.{index}"
        attention, mlp = layer.self_attention, layer.mlp
        rope = attention.rope
        fields: dict[str, object] = {
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "rope": -1 if rope is None else self.ropes[rope, attention.head_dim],
            "window": attention.window or 0,
            "norm_order": ORDERS[layer.norm_order],
            "activation": ACTIVATIONS[mlp.activation],
            "scale": attention.scale,
            "softcap": attention.softcap or 0.0,
        }
        for part, name in (("attention", "self_attention"), ("mlp", "mlp")):
            fields[f"{part}_norm"] = self._norm(f"{prefix}.{name}_norm", layer.norm)
            fields[f"{part}_post_norm"] = self._norm(f"{prefix}.{name}_post_norm", layer.norm)
        for part in ("q", "k"):
            name = f"{prefix}.self_attention.{part}_norm"
            fields[f"{part}_norm"] = self._norm(name, attention.qk_norm)
        for owner, parts in (("self_attention", "q k v o"), ("mlp", "gate up down")):
            for part in parts.split():
                name = f"{prefix}.{owner}.{part}"
                fields[part] = self._matrix(name)
                fields[f"{part}_bias"] = self._offset(f"{name}.bias")
        return fields

    def _offset(self, name: str) -> int:
        return self._tensors[name].offset if name in self._tensors else 0

    def _norm(self, name: str, norm: Norm | None) -> dict[str, object]:
        if norm is None or f"{name}.weight" not in self._tensors:
            return {}
        return {
            "weight": self._offset(f"{name}.weight"),
            "bias": self._offset(f"{name}.bias"),
            "kind": NORMS[norm.kind],
            "eps": norm.eps,
        }

    def _matrix(self, owner: str) -> dict[str, object]:
        name = f"{owner}.weight"
        if name not in self._tensors:
            return {}
        outputs, inputs = self._shapes[name]
        form = self._manifest.format_of(name)
        return {
            "weight": self._offset(name),
            "scales": self._offset(scales_of(name)),
            "outputs": outputs,
            "inputs": inputs,
            "bits": BITS[form.kind],
            "block": form.block,
        }


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
