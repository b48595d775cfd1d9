"""Integers and scales in the order in which the engine reads them, and back.

16 outputs make a tile. Inside one block of a tile four inputs stand together: of output 0, of
output 1, ...: 64 bytes of int8. Of int4 (raised by 8) two such groups share 64 bytes, the even one
in the low halves. It knows no files and no tensors; `edgedec.h` says the same in C.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.manifest import Format
from edgedec.runtimes.native.packed import TILE

GROUP = 4
ZERO = 8
"""What is added to int4, so that it is 0..15."""

# Four bytes move as one word; no shift below carries a bit from one byte into the next.
WORD = np.dtype("<u4")


def pack(integers: NDArray[np.int8], form: Format) -> NDArray[np.uint8]:
    """Integers [N, K], whole tiles and blocks of them, as bytes [tiles, blocks, 2 B bits]."""
    block = form.block or integers.shape[1]
    raised = integers + np.int8(ZERO) if form.kind == "int4" else integers
    words = np.ascontiguousarray(raised).view(WORD)
    tiled = words.reshape(-1, TILE, integers.shape[1] // block, block // GROUP)
    groups = tiled.transpose(0, 2, 3, 1)
    if form.kind == "int4":
        groups = groups[:, :, 0::2] | (groups[:, :, 1::2] << WORD.type(4))
    return np.ascontiguousarray(groups).view(np.uint8).reshape(*groups.shape[:2], -1)


def unpack(packed: NDArray[np.uint8], form: Format) -> NDArray[np.int8]:
    """The integers [N, K] of packed bytes: the inverse of `pack`."""
    tiles, blocks, _ = packed.shape
    groups = np.ascontiguousarray(packed).view(WORD).reshape(tiles, blocks, -1, TILE)
    if form.kind == "int4":
        low, high = WORD.type(0x0F0F0F0F), WORD.type(4)
        pairs = np.stack([groups & low, (groups >> high) & low], axis=3)
        groups = pairs.reshape(tiles, blocks, -1, TILE)
    words = np.ascontiguousarray(groups.transpose(0, 3, 1, 2))
    integers = words.view(np.int8).reshape(tiles * TILE, -1)
    return integers - np.int8(ZERO) if form.kind == "int4" else integers


def pack_scales(scales: NDArray[np.float16]) -> NDArray[np.float16]:
    """Scales [N, blocks] of whole tiles as [tiles * blocks, 16]."""
    blocks = scales.shape[1]
    tiled = scales.reshape(-1, TILE, blocks).transpose(0, 2, 1)
    return np.ascontiguousarray(tiled).reshape(-1, TILE)


def unpack_scales(packed: NDArray[np.float16], tiles: int, blocks: int) -> NDArray[np.float16]:
    """The scales [N, blocks] again; a row that only fills up is left out."""
    tiled = packed[: tiles * blocks].reshape(tiles, blocks, TILE).transpose(0, 2, 1)
    return np.ascontiguousarray(tiled).reshape(-1, blocks)


def filled(matrix: NDArray[Any], form: Format) -> NDArray[Any]:
    """A matrix [N, K] with zeros up to whole tiles and blocks."""
    rows, inputs = matrix.shape
    more = -rows % TILE, -inputs % (form.block or 1)
    return np.pad(matrix, ((0, more[0]), (0, more[1]))) if any(more) else matrix
