"""The engine's description of a model: against the C header, and field by field."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec.architecture import (
    Architecture,
    Attention,
    BiasTable,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    LongRopeScaling,
    Mlp,
    Norm,
    Positions,
    Rope,
    Stack,
    Tokens,
    YarnScaling,
)
from edgedec.errors import BundleError
from edgedec.export import quantise, to_native
from edgedec.manifest import Format, Forms, Manifest, Provenance
from edgedec.mapped import Place
from edgedec.runtimes.native import spec
from edgedec.runtimes.native.packed import tensors

from .conftest import random_weights

HEADER = Path(__file__).parents[2] / "runtimes" / "native" / "edgedec.h"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

CONSTANTS = {
    "ED_SPEC_VERSION": spec.VERSION,
    "ED_NORM_NONE": 0,
    "ED_NORM_RMS": spec.NORMS["rms"],
    "ED_NORM_LAYER": spec.NORMS["layer"],
    **{f"ED_{name.upper()}": number for name, number in spec.ORDERS.items()},
    **{f"ED_{name.upper()}": number for name, number in spec.ACTIVATIONS.items()},
}


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
def test_every_struct_is_the_one_of_the_header(tmp_path: Path) -> None:
    expected, lines = {}, []
    for name, struct in spec.STRUCTS.items():
        expected[f"sizeof({name})"] = struct.itemsize
        for field, (kind, offset) in (struct.fields or {}).items():
            expected[f"offsetof({name}, {field})"] = offset
            expected[f"sizeof((({name} *)0)->{field})"] = kind.itemsize
    expected |= CONSTANTS
    lines = [f'printf("%zu\\n", (size_t)({what}));' for what in expected]
    program = tmp_path / "sizes.c"
    top = f'#include "{HEADER}"\n#include <stdio.h>\n'
    program.write_text(top + "int main(void) {" + "".join(lines) + "return 0;}\n")
    binary = tmp_path / "sizes"
    subprocess.run([str(COMPILER), str(program), "-o", str(binary)], check=True)
    shown = subprocess.run([str(binary)], capture_output=True, text=True, check=True).stdout
    assert dict(zip(expected, map(int, shown.split()), strict=True)) == expected


# --- a model with everything in it ---------------------------------------------------------------

RMS = Norm(kind="rms", eps=1e-6, offset=1.0)
LAYER_NORM = Norm(kind="layer", eps=1e-5, bias=True)
YARN = Rope(
    theta=10000.0,
    fraction=0.5,
    layout="interleaved",
    scaling=YarnScaling(
        factor=4.0, beta_fast=32.0, beta_slow=1.0, original_context=16, magnitude=1.25
    ),
)
SANDWICH = Layer(
    self_attention=Attention(
        heads=4, kv_heads=2, head_dim=16, scale=0.25, qk_norm=RMS, rope=YARN, window=5, softcap=30.0
    ),
    mlp=Mlp(width=96, activation="gelu_tanh", gated=True),
    norm=RMS,
    norm_order="sandwich",
)
BIASED = Layer(
    self_attention=Attention(
        heads=2, kv_heads=2, head_dim=8, scale=0.5, biases=("q", "o"), rope=Rope(theta=100.0)
    ),
    mlp=Mlp(width=40, activation="relu", gated=False, bias=True),
    norm=LAYER_NORM,
    norm_order="parallel",
)
PLAIN = replace(
    BIASED, self_attention=replace(BIASED.self_attention, rope=None, biases=()), norm_order="post"
)
RICH = Architecture(
    family="test",
    embed=Embedding(vocab=50, dim=48, scale=7.0),
    decoder=Stack(
        layers=(SANDWICH, BIASED, PLAIN, SANDWICH),
        positions=Positions(kind="learned", count=30, offset=2),
        embed_norm=LAYER_NORM,
        final_norm=RMS,
    ),
    head=Head(tied=False, bias=True, scale=0.5, softcap=20.0),
    tokens=Tokens(eos=(0,)),
    limits=Limits(context=24),
)
TIED = replace(RICH, head=Head(tied=True), decoder=Stack(layers=(PLAIN,)))
BOTH_WAYS = BiasTable(buckets=8, max_distance=20, bidirectional=True)
SEEING = replace(
    SANDWICH,
    self_attention=replace(
        SANDWICH.self_attention,
        softcap=None,
        bias_table=BOTH_WAYS,
        causal=False,
        rope=Rope(theta=9.0, positions="centred"),
    ),
)
READING = replace(
    SANDWICH,
    self_attention=replace(
        BIASED.self_attention, rope=None, bias_table=replace(BOTH_WAYS, bidirectional=False)
    ),
    cross_attention=Attention(
        heads=2, kv_heads=1, head_dim=32, scale=0.5, qk_norm=RMS, biases=("q", "v"), causal=False
    ),
)
READER = replace(
    RICH,
    encoder=Stack(layers=(SEEING, SEEING), final_norm=RMS),
    decoder=Stack(layers=(READING,), final_norm=RMS),
    source_embed=Embedding(vocab=60, dim=48, scale=3.0),
    limits=Limits(context=24, source=40),
)


def manifest(model: Architecture) -> Manifest:
    return Manifest(
        name="test",
        architecture=model,
        quantisation=quantise.plan(model, "int4", 64, pad=True),
        forms=Forms(),
        files={},
        provenance=Provenance(source="random", created="2026-11-20", exporter="test"),
    )


def places(described: Manifest) -> dict[str, Place]:
    """Every tensor behind the other, as in a file with a header of 64 bytes."""
    found, start = {}, 64
    for name, tensor in tensors(described.architecture, described.format_of).items():
        found[name] = Place(tensor.dtype, tensor.shape, start)
        start += tensor.size
    return found


def read(
    model: Architecture, side: str = "decoder"
) -> tuple[Any, NDArray[Any], NDArray[Any], dict[str, Place]]:
    """Model, ropes and layers out of the bytes, as the engine takes them apart."""
    described = manifest(model)
    where = places(described)
    raw = spec.encode(described, where)
    if side == "encoder":
        assert model.encoder is not None
        raw = spec.encode_encoder(described, model.encoder, where)
    [head] = np.frombuffer(raw, spec.MODEL, 1)
    end = spec.MODEL.itemsize + int(head["ropes"]) * spec.ROPE.itemsize
    ropes = np.frombuffer(raw[spec.MODEL.itemsize : end], spec.ROPE)
    layers = np.frombuffer(raw[end:], spec.LAYER)
    assert len(layers) == head["layers"] and head["layer_size"] == spec.LAYER.itemsize
    return head, ropes, layers, where


def test_the_model() -> None:
    head, _, _, where = read(RICH)
    numbers = {"version": 2, "layers": 4, "ropes": 2, "dim": 48, "vocab": 50, "context": 24,
               "position_rows": 32, "position_offset": 2, "encoder": 0, "embed_scale": 7.0,
               "head_scale": 0.5, "head_softcap": 20.0, "padding": 0.0}  # fmt: skip
    assert {name: head[name] for name in numbers} == numbers
    assert head["positions"] == where["decoder.positions"].offset
    assert head["head_bias"] == where["head.bias"].offset
    for name in ("embed", "head"):
        assert head[name].tolist() == (
            where[f"{name}.weight"].offset, where[f"{name}.scales"].offset, 50, 48, 8, 32
        )  # fmt: skip
    assert head["embed_norm"].tolist() == (
        where["decoder.embed_norm.weight"].offset,
        where["decoder.embed_norm.bias"].offset,
        2,
        np.float32(1e-5),
    )
    assert head["final_norm"].tolist()[1:] == (0, 1, np.float32(1e-6))


def test_a_tied_head_is_the_embedding() -> None:
    head, ropes, [layer], _ = read(TIED)
    assert head["head"] == head["embed"] and head["head"]["weight"] == 64
    assert head["head_softcap"] == 0 and head["positions"] == 0 and head["head_bias"] == 0
    assert head["final_norm"].tolist() == (0, 0, 0, 0.0)
    assert len(ropes) == 0 and layer["own"]["rope"] == -1


def test_ropes_are_shared_and_keep_their_magnitude() -> None:
    _, ropes, layers, where = read(RICH)
    assert ropes.tolist() == [
        (where["rope.0"].offset, 1.25, 4, 1),
        (where["rope.1"].offset, 1.0, 4, 0),
    ]
    assert layers["own"]["rope"].tolist() == [0, 1, -1, 0]


def test_the_layers() -> None:
    _, _, layers, where = read(RICH)
    assert layers["norm_order"].tolist() == [2, 3, 1, 2]
    assert layers["activation"].tolist() == [2, 3, 3, 2]
    own = layers["own"]
    assert own["window"].tolist() == [5, 0, 0, 5]
    assert own["softcap"].tolist() == [30.0, 0.0, 0.0, 30.0]
    assert own["scale"].tolist() == [0.25, 0.5, 0.5, 0.25]
    assert own["heads"].tolist() == [4, 2, 2, 4]
    assert own["kv_heads"].tolist() == [2, 2, 2, 2]
    assert own["head_dim"].tolist() == [16, 8, 8, 16]
    assert not own["distance_bias"].any() and not own["distances"].any()
    assert not layers["cross"]["q"]["weight"].any()
    for index, layer in enumerate(layers):
        own = layer["own"]
        found = {f"{part}.weight": int(own[part]["weight"]) for part in ("q", "k", "v", "o")}
        expected = {n: where[f"decoder.layers.{index}.self_attention.{n}"].offset for n in found}
        assert found == expected


OWNERS = {"attention": "self_attention", "cross": "cross_attention", "mlp": "mlp"}


def told(struct: Any, owner: str) -> dict[str, int]:
    """Every offset in a struct, by the name that its tensor has in an attention or an mlp."""
    found: dict[str, int] = {}
    for field in struct.dtype.names:
        value, inner = struct[field], struct[field].dtype.names or ()
        if field.endswith("_bias") and value:
            found[f"{owner}.{field.removesuffix('_bias')}.bias"] = int(value)
        for part in ("weight", "scales", "bias"):
            if part in inner and value[part]:
                found[f"{owner}.{field}.{part}"] = int(value[part])
    return found


def tensors_of(layer: Any) -> dict[str, int]:
    """Every offset of a layer, by the name of its tensor."""
    names = spec.LAYER.names or ()
    plain = layer[[name for name in names if name not in ("own", "cross")]]
    found = told(layer["own"], "self_attention") | told(layer["cross"], "cross_attention")
    for key, offset in told(plain, "mlp").items():
        field, _, part = key.removeprefix("mlp.").rpartition(".")
        start, _, rest = field.partition("_")
        found[f"{OWNERS[start]}_{rest}.{part}" if "norm" in field else key] = offset
    return found


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_every_tensor_is_told_once_and_in_its_place(side: str) -> None:
    """Each offset of a layer with its name here, against the names of the file."""
    for model in (RICH, READER):
        if side == "encoder" and model is RICH:
            continue
        _, _, layers, where = read(model, side)
        found = {
            f"{side}.layers.{index}.{name}": offset
            for index, layer in enumerate(layers)
            for name, offset in tensors_of(layer).items()
            if "distance" not in name
        }
        start = f"{side}.layers."
        assert found == {n: place.offset for n, place in where.items() if n.startswith(start)}


def test_a_model_that_reads() -> None:
    head, ropes, layers, where = read(READER)
    assert (head["encoder"], head["context"], head["vocab"], len(ropes)) == (0, 24, 50, 0)
    assert head["source_norm"]["weight"] == where["encoder.final_norm.weight"].offset
    assert head["final_norm"]["weight"] == where["decoder.final_norm.weight"].offset
    [layer] = layers
    assert layer["own"]["distance_bias"] == where["decoder.distance_bias"].offset
    assert (layer["own"]["distances"], layer["own"]["origin"]) == (32, 20)
    assert (layer["cross"]["rope"], layer["cross"]["distance_bias"]) == (-1, 0)
    assert (layer["cross"]["heads"], layer["cross"]["head_dim"]) == (2, 32)


def test_an_encoder() -> None:
    head, ropes, layers, where = read(READER, "encoder")
    numbers = {"version": 2, "encoder": 1, "layers": 2, "ropes": 1, "dim": 48, "vocab": 60,
               "context": 40, "embed_scale": 3.0, "head_scale": 0.0}  # fmt: skip
    assert {name: head[name] for name in numbers} == numbers
    assert head["embed"]["weight"] == where["encoder.embed.weight"].offset
    assert not head["head"]["weight"] and not head["source_norm"]["weight"]
    assert not head["final_norm"]["weight"]  # the decoder applies it
    assert ropes[0]["frequencies"] == where["rope.0"].offset
    assert layers["own"]["origin"].tolist() == [20, 20]
    assert layers["own"]["distances"].tolist() == [48, 48]


def test_an_encoder_of_sound_has_no_embedding() -> None:
    ear = Frontend(kind="mel", features=4, convs=(Conv(channels=48, kernel=3, stride=2),))
    head, _, _, where = read(replace(READER, source_embed=None, frontend=ear), "encoder")
    assert (head["vocab"], head["embed_scale"], head["context"]) == (0, 1.0, 19)
    assert not head["embed"]["weight"] and "frontend.0.kernel" in where
    shared, _, _, where = read(replace(READER, source_embed=None), "encoder")
    assert (shared["vocab"], shared["embed_scale"]) == (50, 7.0)
    assert shared["embed"]["weight"] == where["embed.weight"].offset


def test_matrices_keep_their_own_sizes_and_formats() -> None:
    _, _, layers, _ = read(RICH)
    parts = {name: layers[0]["own"][name] for name in "qkvo"}
    parts |= {name: layers[0][name] for name in ("gate", "down")}
    sizes = {name: part.tolist()[2:] for name, part in parts.items()}
    assert sizes == {
        "q": (64, 48, 4, 32),
        "k": (32, 48, 4, 32),
        "v": (32, 48, 8, 32),
        "o": (48, 64, 4, 64),
        "gate": (96, 48, 4, 32),
        "down": (48, 96, 4, 32),
    }
    assert layers[1]["gate"].tolist() == (0, 0, 0, 0, 0, 0)


def test_what_the_bytes_point_at_are_the_weights(tmp_path: Path) -> None:
    described = manifest(RICH)
    weights = random_weights(RICH)
    to_native.write(tmp_path, RICH, weights, described.quantisation)
    raw = (tmp_path / "native.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    where = {
        name: Place(place.dtype, place.shape, place.offset - 64 + start)
        for name, place in places(described).items()
    }
    blob = spec.encode(described, where)
    layers = np.frombuffer(blob[-4 * spec.LAYER.itemsize :], spec.LAYER)
    matrix = layers[3]["down"]
    _, scales, outputs, inputs, bits, block = matrix.tolist()
    assert (outputs, inputs, bits) == (48, 96, 4)
    name = "decoder.layers.3.mlp.down.weight"
    form = Format(kind="int4", block=block)
    integers, expected = quantise.quantise(weights.load(name), form)
    blocks = inputs // block
    for n, k in ((0, 0), (1, 4), (17, 95), (47, 33)):
        tile = int(matrix["weight"]) + (n // 16 * blocks + k // block) * 16 * block // 2
        group = k % block // 4
        byte = raw[tile + group // 2 * 64 + n % 16 * 4 + k % 4]
        assert (byte >> 4 if group % 2 else byte & 15) - 8 == integers[n, k]
        row = np.frombuffer(raw, "<f2", 16, scales + (n // 16 * blocks + k // block) * 32)
        assert row[n % 16] == expected[n, k // block]


# --- numbers without sense -----------------------------------------------------------------------


def _layer(**fields: Any) -> Architecture:
    changed = replace(SANDWICH, self_attention=replace(SANDWICH.self_attention, **fields))
    return replace(RICH, decoder=replace(RICH.decoder, layers=(changed,)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_layer(scale=1e300), "scale is 1e"),
        (_layer(softcap=-1e39), "softcap is -1e"),
        (replace(RICH, embed=replace(RICH.embed, scale=1e39)), "embed_scale"),
        (_layer(rope=replace(YARN, theta=0.0)), "rotary positions"),
        (_layer(rope=replace(YARN, theta=1.0)), "rotary positions"),
        (_layer(rope=replace(YARN, theta=-1.0)), "rotary positions"),
    ],
)
def test_what_the_engine_cannot_hold(model: Architecture, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        spec.encode(manifest(model), places(manifest(model)))


def test_odd_frequencies_make_no_noise() -> None:
    scaling = LongRopeScaling(factors=(0.0,) * 4, magnitude=1.0)
    model = _layer(rope=replace(YARN, scaling=scaling))
    spec.encode(manifest(model), places(manifest(model)))
