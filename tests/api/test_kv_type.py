"""How keys and values are kept is the caller's choice, and a runtime says what it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import edgedec
from edgedec.architecture import Architecture, Attention, Embedding, Mlp
from edgedec.bundle import open_bundle, write_bundle
from edgedec.errors import StateError, UsageError
from edgedec.export import to_native
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format, Forms
from edgedec.runtimes import native
from edgedec.text import FILE
from edgedec.weights import ROLES, shapes

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, plain_bundle: Path) -> Path:
    """The bytes of `plain_bundle` with random weights in native form."""
    given = open_bundle(plain_bundle).manifest
    model = _widened(given.architecture)
    random = np.random.default_rng(0)
    arrays = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in shapes(model).items()
    }
    formats = {str(role): Format(kind="int8", block=32) for role in ROLES}
    target = tmp_path_factory.mktemp("kv") / "small"
    with write_bundle(target) as writer:
        (writer.path / FILE).write_bytes((plain_bundle / FILE).read_bytes())
        form = to_native.write(writer.path, model, Arrays(model, arrays), formats)
        forms = Forms(native=form)
        writer.finish(replace(given, architecture=model, quantisation=formats, forms=forms))
    return target


def _widened(model: Architecture) -> Architecture:
    """At least as wide as the engine wants its models."""
    layer = replace(
        model.decoder.layers[0],
        self_attention=Attention(heads=4, kv_heads=2, head_dim=8, scale=8**-0.5),
        mlp=Mlp(width=32, activation="silu", gated=True),
    )
    decoder = replace(model.decoder, layers=(layer,) * 2)
    return replace(model, embed=Embedding(vocab=model.vocab, dim=32), decoder=decoder)


@needs_engine
@pytest.mark.parametrize(
    ("written", "read", "fits"),
    [
        (None, "fp16", True),
        ("int8", "int8", True),
        ("int8", "fp16", False),
        ("fp16", "int8", False),
    ],
)
def test_a_saved_session_knows_how_its_keys_are_kept(
    bundle: Path, tmp_path: Path, written: str | None, read: str, fits: bool
) -> None:
    with edgedec.load(bundle, runtime="native", kv_type=written) as model:
        model.generate("Hello", max_new_tokens=3)
        model.save(tmp_path / "state")
    with edgedec.load(bundle, runtime="native", kv_type=read) as model:
        if fits:
            model.load(tmp_path / "state")
            return
        with pytest.raises(StateError, match=f"keys_and_values {written}, here it is {read}"):
            model.load(tmp_path / "state")


@needs_engine
def test_an_unknown_type_is_refused_with_those_there_are(bundle: Path) -> None:
    with pytest.raises(UsageError, match="'int4'; there is fp16, int8"):
        edgedec.load(bundle, runtime="native", kv_type="int4")


def test_onnx_has_one_type() -> None:
    with edgedec.load("stories", runtime="onnx", kv_type="fp32") as model:
        assert model.generate("Once", max_new_tokens=1).new_tokens == 1
    for other in ("fp16", "int8"):
        with pytest.raises(UsageError, match=f"as fp32, not as '{other}'"):
            edgedec.load("stories", runtime="onnx", kv_type=other)
