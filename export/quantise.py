"""Matrices as small integers: one scale for every block of inputs, chosen by squared error.

Symmetric: value = scale * integer, int8 in -127..127, int4 in -8..7, the scale a float16. It knows
nothing about files; how integers are packed for a runtime stands at the end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError, UsageError
from edgedec.manifest import Format
from edgedec.weights import role, shapes

Floats = NDArray[np.float32]
Kind = Literal["fp32", "fp16", "int8", "int4"]

FLOATS: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
RANGES: dict[str, tuple[int, int]] = {"int8": (-127, 127), "int4": (-8, 7)}
BLOCKS = (32, 64, 128)

SENSITIVE = ("embed", "head", "v")
"""Roles that int4 hurts most for their size. In an all-int4 `stories` embedding and head make half
of the divergence, and values a fifth of the rest for 3 % more bytes."""

SMALLEST, LARGEST = np.float32(2.0**-24), np.float32(65504)
"""The positive values that float16 can hold."""

CHUNK = 1 << 16
"""Numbers that one thread works on at a time: they and their copies stay in its cache."""

# Scales to try, as parts of the one that just reaches the block's extreme. With few levels it
# pays to clip the extreme; with 255 of them hardly.
SHRINKS = {"int8": (1.01, 1.0, 0.99, 0.98), "int4": (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)}


def quantise(
    matrix: Floats, form: Format, name: str = "matrix"
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Integers [N, K] and scales [N, K / block] of a matrix [N, K].

    Each block's error is at most that of the plain scale, which just reaches the extreme.

    Raises:
        CheckpointError: a value is not finite, or too large for a float16 scale; names the tensor.
        UsageError: the format has no blocks, or they do not divide K.
    """
    rows, inputs = matrix.shape
    if form.block is None or inputs % form.block:
        raise UsageError(f"{name} with {inputs} inputs cannot be stored as {form}")
    integers = np.empty((rows, inputs), np.int8)
    scales = np.empty((rows, inputs // form.block), np.float16)
    step = max(1, CHUNK // inputs)

    def chunk(first: int) -> None:
        part = slice(first, first + step)
        blocks = matrix[part].reshape(-1, form.block or 1)
        _check(blocks, form.kind, name)
        chosen, scale = _quantise(blocks, form.kind)
        integers[part] = chosen.reshape(-1, inputs)
        scales[part] = scale.reshape(-1, inputs // (form.block or 1))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(chunk, range(0, rows, step)))
    return integers, scales


def floats(matrix: Floats, form: Format, name: str = "matrix") -> NDArray[np.floating[Any]]:
    """A matrix as fp32 or fp16.

    Raises:
        CheckpointError: a value is not finite, or too large for fp16; names the tensor.
    """
    with np.errstate(over="ignore"):
        stored = matrix.astype(FLOATS[form.kind], copy=False)
    if not np.isfinite(stored).all():
        raise CheckpointError(
            f"{name} has values that are not finite in {form}: the checkpoint is damaged, or needs "
            "fp32"
        )
    return stored


def dequantise(integers: NDArray[np.int8], scales: NDArray[np.float16]) -> Floats:
    """The matrix [N, K] that integers and scales stand for."""
    rows, blocks = scales.shape
    values = integers.reshape(rows, blocks, -1) * scales.astype(np.float32)[:, :, None]
    return values.reshape(rows, -1)


def fitted(form: Format, inputs: int, pad: bool = False) -> Format:
    """The format with the largest block that is allowed and divides.

    Where none does: float16, or with `pad` the smallest block, the last one filled with zeros.
    """
    if form.block is None:
        return form
    blocks = [block for block in BLOCKS if block <= form.block and inputs % block == 0]
    if not blocks and not pad:
        return Format(kind="fp16")
    return Format(kind=form.kind, block=blocks[-1] if blocks else BLOCKS[0])


def plan(
    architecture: Architecture,
    kind: Kind,
    block: int,
    keep: Mapping[str, Format] | None = None,
    pad: bool = False,
) -> dict[str, Format]:
    """The format of every matrix: by role, and by name where a role has several.

    With int4, what is `SENSITIVE` is int8. `keep` overrides roles. `pad` is for a form that can
    fill up the last block of a row (`fitted`).

    Raises:
        UsageError: a block that is not 32, 64 or 128, or a role that does not exist.
    """
    if block not in BLOCKS:
        raise UsageError(f"no blocks of {block}; there are {', '.join(map(str, BLOCKS))}")
    default = Format(kind=kind, block=block if kind in RANGES else None)
    wanted: dict[str, Format] = (
        dict.fromkeys(SENSITIVE, Format(kind="int8", block=block)) if kind == "int4" else {}
    )
    wanted.update(keep or {})
    by_role: dict[str, Format] = {}
    by_name: dict[str, Format] = {}
    for name, shape in shapes(architecture).items():
        what = role(name)
        if what is None:
            continue
        form = fitted(wanted.get(what, default), shape[1], pad)
        if by_role.setdefault(what, form) != form:
            by_name[name] = form
    unknown = sorted(set(keep or {}) - set(by_role))
    if unknown:
        raise UsageError(f"no {', '.join(unknown)} in this model; there is {', '.join(by_role)}")
    return {**by_role, **by_name}


def packed(integers: NDArray[np.int8], kind: str) -> NDArray[np.uint8]:
    """Integers [N, K] as ONNX Runtime reads them: zero point 128, or 8 and two to a byte."""
    if kind == "int8":
        return integers.view(np.uint8) ^ np.uint8(128)
    raised = (integers + np.int8(8)).view(np.uint8)
    return raised[:, 0::2] | (raised[:, 1::2] << np.uint8(4))


def _check(blocks: Floats, kind: str, name: str) -> None:
    if not np.isfinite(blocks).all():
        raise CheckpointError(f"{name} has values that are not finite: the checkpoint is damaged")
    largest = np.abs(blocks).max()
    if largest > LARGEST * RANGES[kind][1]:
        raise CheckpointError(
            f"{name} has values up to {largest:.3g}, too large for {kind}: keep it in fp32"
        )


def _quantise(blocks: Floats, kind: str) -> tuple[Floats, NDArray[np.float16]]:
    """Integers (as floats) and scales of blocks [n, block]."""
    best = _rounded_scale(_search(blocks, kind))
    chosen = _integers(blocks, best, kind)
    refined = _rounded_scale(_least_squares(blocks, chosen))
    candidates = [(best, chosen), (refined, _integers(blocks, refined, kind))]
    plain = _rounded_scale(np.abs(blocks).max(axis=1) / np.float32(RANGES[kind][1]))
    candidates.append((plain, _integers(blocks, plain, kind)))
    scale, chosen = candidates[0]
    error = _error(blocks, scale, chosen)
    for other, integers in candidates[1:]:
        other_error = _error(blocks, other, integers)
        better = other_error < error
        scale = np.where(better, other, scale)
        chosen = np.where(better[:, None], integers, chosen)
        error = np.minimum(error, other_error)
    return chosen, scale.astype(np.float16)


def _search(blocks: Floats, kind: str) -> Floats:
    """The best scale [n] among some that reach the extreme, or nearly, on either end.

    With the best multiple of the integers q a block x is off by |x|^2 - (x.q)^2 / |q|^2, so the
    last term ranks the candidates.
    """
    low, high = RANGES[kind]
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    best = np.zeros_like(extreme)
    gain = np.full_like(extreme, -1.0)
    for reach in {low, high} if low != -high else {high}:
        for shrink in SHRINKS[kind]:
            scale = extreme * np.float32(shrink / reach)
            integers = _integers(blocks, scale, kind)
            dot = np.einsum("ij,ij->i", blocks, integers)
            norm = np.einsum("ij,ij->i", integers, integers)
            fit = dot / np.where(norm > 0, norm, 1)
            better = fit * dot > gain
            gain = np.where(better, fit * dot, gain)
            best = np.where(better, fit, best)
    return best


def _integers(blocks: Floats, scale: Floats, kind: str) -> Floats:
    low, high = RANGES[kind]
    divisor = np.where(scale == 0, np.float32(1), scale)[:, None]
    integers: Floats = np.divide(blocks, divisor, dtype=np.float32)
    np.rint(integers, out=integers)
    np.clip(integers, low, high, out=integers)
    integers[scale == 0] = 0
    return integers


def _least_squares(blocks: Floats, integers: Floats) -> Floats:
    norm = np.einsum("ij,ij->i", integers, integers)
    fit: Floats = np.einsum("ij,ij->i", blocks, integers) / np.where(norm > 0, norm, 1)
    return fit


def _rounded_scale(scale: Floats) -> Floats:
    """The nearest float16, never 0 unless the scale is."""
    size = np.clip(np.abs(scale), SMALLEST, LARGEST).astype(np.float16).astype(np.float32)
    rounded: Floats = np.where(scale == 0, np.float32(0), np.copysign(size, scale))
    return rounded


def _error(blocks: Floats, scale: Floats, integers: Floats) -> Floats:
    rest = blocks - integers * scale[:, None]
    error: Floats = np.einsum("ij,ij->i", rest, rest)
    return error
