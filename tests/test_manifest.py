"""Manifests round-trip, and what a manifest should not say is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgedec import manifest as manifests
from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    LinearScaling,
    Llama3Scaling,
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
from edgedec.manifest import File, Format, Forms, Manifest, OnnxForm, Provenance, Quality, Segment
from edgedec.weights import ROLES, role, shapes

finite = st.floats(1e-6, 1e6)
small = st.integers(1, 8)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12)

norms = st.builds(
    Norm, kind=st.sampled_from(["rms", "layer"]), eps=finite, offset=finite, bias=st.booleans()
)
scalings = st.one_of(
    st.none(),
    st.builds(LinearScaling, factor=finite),
    st.builds(
        Llama3Scaling,
        factor=finite,
        low_frequency_factor=finite,
        high_frequency_factor=finite,
        original_context=small,
    ),
    st.builds(
        YarnScaling,
        factor=finite,
        beta_fast=finite,
        beta_slow=finite,
        original_context=small,
        magnitude=finite,
    ),
    st.builds(LongRopeScaling, factors=st.tuples(finite, finite), magnitude=finite),
)
ropes = st.builds(
    Rope, theta=finite, fraction=finite, layout=st.sampled_from(["half", "interleaved"]),
    scaling=scalings,
)  # fmt: skip


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    groups = draw(small)
    return Attention(
        heads=groups * draw(small),
        kv_heads=groups,
        head_dim=draw(small),
        scale=draw(finite),
        biases=tuple(draw(st.lists(st.sampled_from("qkvo"), unique=True))),  # type: ignore[arg-type]
        qk_norm=draw(st.none() | norms),
        rope=draw(st.none() | ropes),
        window=draw(st.none() | small),
        softcap=draw(st.none() | finite),
    )


mlps = st.builds(
    Mlp,
    width=small,
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]),
    gated=st.booleans(),
    bias=st.booleans(),
)
layers = st.builds(
    Layer,
    self_attention=attentions(),
    mlp=mlps,
    norm=norms,
    norm_order=st.sampled_from(["pre", "post", "sandwich", "parallel"]),
)
positions = st.builds(
    Positions, kind=st.sampled_from(["learned", "sinusoidal"]), count=small, offset=small
)


@st.composite
def stacks(draw: st.DrawFn, *, encoder: bool, reads: bool) -> Stack:
    """Layers that see as those of an encoder or a decoder do; one at least that attends across."""
    drawn = draw(st.lists(layers, min_size=1, max_size=3))
    across = draw(st.integers(0, len(drawn) - 1)) if reads else -1
    seen = [
        replace(
            layer,
            self_attention=replace(layer.self_attention, causal=not encoder),
            cross_attention=draw(crossings) if reads and index >= across else None,
        )
        for index, layer in enumerate(drawn)
    ]
    return Stack(
        layers=tuple(seen),
        positions=draw(st.none() | positions),
        embed_norm=draw(st.none() | norms),
        final_norm=draw(st.none() | norms),
    )


crossings = attentions().map(lambda attention: replace(attention, rope=None, window=None))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    reads, dim = draw(st.booleans()), draw(small)
    own = st.none() | st.builds(Embedding, vocab=small, dim=st.just(dim))
    return Architecture(
        family=draw(names),
        embed=Embedding(vocab=draw(small), dim=dim, scale=draw(finite)),
        decoder=draw(stacks(encoder=False, reads=reads)),
        encoder=draw(stacks(encoder=True, reads=False)) if reads else None,
        source_embed=draw(own) if reads else None,
        head=draw(st.builds(Head, tied=st.booleans(), bias=st.booleans())),
        tokens=draw(st.builds(Tokens, eos=st.tuples(small), bos=st.none() | small)),
        limits=Limits(context=draw(small)),
    )


formats = st.builds(
    Format,
    kind=st.sampled_from(["fp32", "int8", "int4"]),
    block=st.sampled_from([None, 32, 64, 128]),
)
manifest_values = st.builds(
    Manifest,
    name=names,
    architecture=architectures(),
    quantisation=st.dictionaries(st.sampled_from(ROLES), formats),
    forms=st.builds(
        Forms,
        onnx=st.none()
        | st.builds(
            OnnxForm,
            segments=st.tuples(st.builds(Segment, file=names, first=small, last=small)),
        ),
    ),
    files=st.dictionaries(names, st.builds(File, size=small, sha256=names)),
    provenance=st.builds(Provenance, source=names, created=names, exporter=names),
    cuts=st.lists(small, max_size=3).map(tuple),
    quality=st.none()
    | st.builds(Quality, max_error=finite, kl=finite, top1=finite, tokens=small, text=names),
)


@given(manifest_values)
def test_json_round_trips(manifest: Manifest) -> None:
    assert manifests.decode(manifests.encode(manifest)) == manifest


@given(architectures())
def test_every_tensor_has_one_name_and_every_matrix_a_role(architecture: Architecture) -> None:
    named = shapes(architecture)
    assert "embed.weight" in named
    assert ("head.weight" in named) == (not architecture.head.tied)
    matrices = {name for name, shape in named.items() if len(shape) == 2}
    tables = {name for name in matrices if name.endswith((".positions", ".bias_table"))}
    assert {name for name in named if role(name)} == matrices - tables


def example() -> dict[str, object]:
    norm = Norm(kind="rms", eps=1e-5)
    layer = Layer(
        self_attention=Attention(heads=2, kv_heads=1, head_dim=4, scale=0.5),
        mlp=Mlp(width=16, activation="silu", gated=True),
        norm=norm,
    )
    manifest = Manifest(
        name="tiny",
        architecture=Architecture(
            family="llama",
            embed=Embedding(vocab=10, dim=8),
            decoder=Stack(layers=(layer,), final_norm=norm),
            head=Head(tied=True),
            tokens=Tokens(eos=(0,)),
            limits=Limits(context=32),
        ),
        quantisation={"q": Format(kind="int4", block=32)},
        forms=Forms(),
        files={},
        provenance=Provenance(source="x", created="2026-01-01", exporter="edgedec"),
    )
    loaded: dict[str, object] = json.loads(manifests.encode(manifest))
    return loaded


def refused(change: dict[str, object]) -> str:
    with pytest.raises(BundleError) as caught:
        manifests.decode(json.dumps({**example(), **change}).encode())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_not_known_is_refused_by_name() -> None:
    assert "update edgedec" in refused({"schema": 2})
    assert "colour" in refused({"colour": "red"})
    assert "name" in refused({"name": 3})
    assert "name" in refused({"name": "tiny\x1b[2J"})
    assert "files" in refused({"files": {"a\0b": {"size": 1, "sha256": "0"}}})
    assert "files" in refused({"files": {"a\nb": {"size": 1, "sha256": "0"}}})
    architecture = example()["architecture"]
    assert isinstance(architecture, dict)
    assert "rotation" in refused({"architecture": {**architecture, "rotation": 1}})
    layer = architecture["decoder"]["layers"][0]
    odd = {**layer, "self_attention": {**layer["self_attention"], "kv_heads": 3}}
    assert "divide" in refused({"architecture": {**architecture, "decoder": {"layers": [odd]}}})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("limits.context", 10**12),
        ("limits.context", 0),
        ("embed.dim", 10**12),
        ("embed.vocab", -1),
        ("decoder.layers", []),
        ("tokens.eos", [-1]),
    ],
)
def test_sizes_that_no_model_has_are_refused(place: str, value: object) -> None:
    data = example()
    *path, last = f"architecture.{place}".split(".")
    inner: Any = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    assert place in refused(data)


@pytest.mark.parametrize(
    "change",
    [
        {"decoding": {"forced": {"0": 10}}},
        {"decoding": {"suppressed": [3, 10]}},
        {"decoding": {"suppressed_first": [10]}},
        {"decoding": {"forced_last": 10}},
        {"speech": {"languages": {"en": 10}}},
        {"speech": {"tasks": {"transcribe": 10}}},
        {"speech": {"first_timestamp": 10}},
    ],
)
def test_ids_beyond_the_vocabulary_are_refused(change: dict[str, object]) -> None:
    assert "names the token 10, but the vocabulary has 10 ids" in refused(change)


def test_a_billion_layers_are_refused() -> None:
    architecture: Any = example()["architecture"]
    architecture["decoder"]["layers"] *= 10_001
    assert "decoder.layers" in refused({"architecture": architecture})


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        manifests.decode(b'{"schema": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(BundleError):
        manifests.decode(noise)


def test_the_format_of_a_tensor_is_its_own_then_its_roles() -> None:
    data = example()
    name = "decoder.layers.0.self_attention.q.weight"
    data["quantisation"] = {"q": {"kind": "int4", "block": 32}, name: {"kind": "fp16"}}
    manifest = manifests.decode(json.dumps(data).encode())
    assert str(manifest.format_of(name)) == "fp16"
    assert str(manifest.format_of(name.replace(".0.", ".1."))) == "int4/32"
    assert str(manifest.format_of("decoder.final_norm.weight")) == "fp32"
