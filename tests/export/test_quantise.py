"""Quantisation against the plain scale that just reaches each block's extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
    Tokens,
)
from edgedec.errors import CheckpointError, UsageError
from edgedec.export import quantise
from edgedec.manifest import Format

KINDS = ("int4", "int8")
matrices = st.tuples(st.integers(1, 4), st.sampled_from((32, 64, 96, 128, 160))).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))
)


def form(kind: Any, block: int = 32) -> Format:
    return Format(kind=kind, block=block)


def block_error(matrix: NDArray[Any], other: NDArray[Any], block: int = 32) -> NDArray[Any]:
    rest = matrix.astype(np.float64) - other
    return np.square(rest).reshape(-1, block).sum(axis=1)


def plain(matrix: NDArray[Any], kind: str) -> NDArray[Any]:
    """The textbook way: absolute maximum over the largest integer, rounded to float16."""
    limit = {"int4": 7, "int8": 127}[kind]
    blocks = matrix.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / limit).astype(np.float16)
    scale = scale.astype(np.float64)
    integers = np.rint(np.divide(blocks, scale, out=np.zeros(blocks.shape), where=scale > 0))
    return (np.clip(integers, -limit, limit) * scale).reshape(matrix.shape)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(matrix=matrices)
def test_never_worse_than_the_plain_scale(kind: str, matrix: NDArray[np.float32]) -> None:
    integers, scales = quantise.quantise(matrix, form(kind))
    low, high = quantise.RANGES[kind]
    assert integers.min() >= low and integers.max() <= high
    assert np.isfinite(scales).all()
    ours = block_error(matrix, quantise.dequantise(integers, scales))
    theirs = block_error(matrix, plain(matrix, kind))
    size = np.square(matrix.astype(np.float64)).reshape(-1, 32).sum(axis=1)
    assert (ours <= theirs * (1 + 1e-4) + size * 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-6, 1e-30, 4e5])
def test_constant_blocks(kind: str, value: float) -> None:
    matrix = np.full((2, 64), value, np.float32)
    back = quantise.dequantise(*quantise.quantise(matrix, form(kind)))
    # A scale is a multiple of 6e-8, so seven times half of that cannot be avoided.
    np.testing.assert_allclose(back, matrix, rtol=2e-3, atol=2.1e-7)


def test_int4_gains_much_over_the_plain_scale() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    ours = block_error(matrix, quantise.dequantise(*quantise.quantise(matrix, form("int4")))).sum()
    assert ours < 0.8 * block_error(matrix, plain(matrix, "int4")).sum()


def test_rows_do_not_depend_on_their_neighbours() -> None:
    matrix = np.random.default_rng(1).standard_normal((700, 128), dtype=np.float32)
    integers, scales = quantise.quantise(matrix, form("int4", 64))
    alone, scale = quantise.quantise(matrix[613:614], form("int4", 64))
    assert (integers[613] == alone[0]).all() and (scales[613] == scale[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_unusable_values_are_refused_by_name(kind: str, value: float) -> None:
    matrix = np.ones((3, 64), np.float32)
    matrix[1, 40] = value
    with pytest.raises(CheckpointError, match=r"layers\.0\.up"):
        quantise.quantise(matrix, form(kind), "layers.0.up")


def test_fp16_refuses_what_does_not_fit() -> None:
    with pytest.raises(CheckpointError, match="embed"):
        quantise.floats(np.array([[1e6]], np.float32), Format(kind="fp16"), "embed")


def test_blocks_must_divide() -> None:
    with pytest.raises(UsageError, match="48 inputs"):
        quantise.quantise(np.ones((1, 48), np.float32), form("int4"))


def test_packing_for_onnx_runtime() -> None:
    integers = np.array([[-8, 7, 0, -1]], np.int8)
    assert quantise.packed(integers, "int4").tolist() == [[0xF0, 0x78]]
    integers = np.array([[-127, 0, 127]], np.int8)
    assert quantise.packed(integers, "int8").tolist() == [[1, 128, 255]]


def model(dim: int, width: int, tied: bool = True) -> Architecture:
    layer = Layer(
        self_attention=Attention(heads=2, kv_heads=1, head_dim=32, scale=1.0),
        mlp=Mlp(width=width, activation="relu", gated=False),
        norm=Norm(kind="rms", eps=1e-5),
    )
    return Architecture(
        family="test",
        embed=Embedding(vocab=8, dim=dim),
        decoder=Stack(layers=(layer,)),
        head=Head(tied=tied),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=8),
    )


def test_the_plan_keeps_what_is_sensitive() -> None:
    plan = quantise.plan(model(128, 256, tied=False), "int4", 64)
    assert {name for name, f in plan.items() if f.kind == "int8"} == {"embed", "head", "v"}
    assert plan["down"] == form("int4", 64)


def test_the_plan_can_be_overridden_by_role() -> None:
    keep = {"down": Format(kind="fp16"), "v": form("int4", 32)}
    plan = quantise.plan(model(128, 256), "int4", 128, keep)
    assert plan["down"] == Format(kind="fp16") and plan["v"] == form("int4", 32)


def test_the_plan_takes_the_largest_block_that_divides() -> None:
    plan = quantise.plan(model(96, 40), "int8", 128)
    assert plan["q"] == form("int8", 32) and plan["o"] == form("int8", 64)
    assert plan["down"] == Format(kind="fp16")


def test_a_plan_without_blocks() -> None:
    assert set(quantise.plan(model(64, 64), "fp16", 64).values()) == {Format(kind="fp16")}


@pytest.mark.parametrize(("block", "keep"), [(48, {}), (64, {"gate": Format(kind="fp32")})])
def test_a_plan_that_makes_no_sense(block: int, keep: dict[str, Format]) -> None:
    with pytest.raises(UsageError, match=r"48|gate"):
        quantise.plan(model(64, 64), "int4", block, keep)
