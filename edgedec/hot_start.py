"""Hot starts on disk: what a drafter's table begins with, laid out as `edgedec.mapped` says.

A hot start only changes what is guessed, so a wrong one costs speed, never words. The file is not
trusted all the same: sizes, types and ids are checked before anything is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec import _tree
from edgedec.errors import StateError, WriteError
from edgedec.mapped import HOT_START, LINE, Mapped, Tensor, layout, open_mapped
from edgedec.replacing import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Host
    from edgedec.written import Contexts

LARGEST = 64 << 20
_LAYOUT = "3"
_SCALE = np.float32(255)
_ROOM = LINE // 8
"""Contexts are stored in multiples of so many, so that every tensor begins at a line."""
_AT_ONCE = 1024


def write(path: Path, contexts: Contexts, vocab: int) -> None:
    """Write keys [n], ids [n, 8] and weights [n, 8] in 8 bit, shares of their sum.

    Raises:
        WriteError: the file cannot be written.
    """
    shares = contexts.shares / np.maximum(contexts.shares.sum(axis=1, keepdims=True), 1e-9)
    columns: dict[str, NDArray[Any]] = {
        "keys": contexts.keys,
        "ids": np.maximum(contexts.ids, 0).astype(_dtype(vocab)[1]),
        "weights": np.rint(shares * _SCALE).astype(np.uint8),
    }
    count = -(-len(contexts.keys) // _ROOM) * _ROOM
    about = {
        "layout": _LAYOUT,
        "vocab": str(vocab),
        "longest": str(contexts.longest),
        "contexts": str(count),
    }
    header, places = layout(_tensors(count, vocab), about)
    data = bytearray(header)
    for name, place in places.items():
        # Keys that fill up are 0, which is none.
        data += columns[name].tobytes().ljust(place.size, b"\0")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from None


def warm(table: _tree.Successors, given: str | None, host: Host, strategy: str) -> None:
    """Fill a table from the file that is `given`, or (None) from the bundle's own for a strategy.

    Raises:
        StateError: there is no such file, it is damaged, or it belongs to another vocabulary.
    """
    path = host.data(strategy) if given is None else Path(given) if given else None
    if path is not None:
        read(path, table, host.architecture.vocab)


def read(path: Path, table: _tree.Successors, vocab: int) -> None:
    """Fill a table from a file, a little at a time: two tables of a model take 4 MB as it is.

    Raises:
        StateError: there is no such file, it is damaged, or it belongs to another vocabulary.
    """
    file, longest = _opened(path, vocab)
    keys, ids, weights = (file.array(name) for name in ("keys", "ids", "weights"))
    if ids.max(initial=0) >= vocab:
        raise StateError(f"{path} names ids of another vocabulary: {HOT_START.remedy}")
    for first in range(0, len(keys), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        shares = weights[some].astype(np.float32) / _SCALE
        named = ids[some].astype(np.int32)
        table.load(keys[some].tobytes(), named.tobytes(), shares.tobytes(), longest)


def _opened(path: Path, vocab: int) -> tuple[Mapped, int]:
    """The file, and the tokens of its longest context."""
    said: dict[str, int] = {}

    def expected(about: Mapping[str, str]) -> dict[str, Tensor]:
        if about.get("layout") != _LAYOUT or about.get("vocab") != str(vocab):
            raise StateError(
                f"the hot start {path.name} is for a vocabulary of {about.get('vocab')} in layout "
                f"{about.get('layout')}, this model has {vocab}: make one with `edgedec warm`"
            )
        for name in ("contexts", "longest"):
            number = about.get(name, "")
            if not (number.isascii() and number.isdecimal() and len(number) < 10):
                raise StateError(f"{path} does not say its {name}: {HOT_START.remedy}")
            said[name] = int(number)
        return _tensors(said["contexts"], vocab)

    if path.is_file() and path.stat().st_size > LARGEST:
        raise StateError(f"{path.name} is larger than {LARGEST >> 20} MiB: no hot start")
    file = open_mapped(path, expected, HOT_START)
    return file, said["longest"]


def _tensors(count: int, vocab: int) -> dict[str, Tensor]:
    shape = (count, _tree.WIDTH)
    return {
        "keys": Tensor("U64", (count,)),
        "ids": Tensor(_dtype(vocab)[0], shape),
        "weights": Tensor("U8", shape),
    }


def _dtype(vocab: int) -> tuple[str, type[np.unsignedinteger[Any]]]:
    return ("U16", np.uint16) if vocab <= 1 << 16 else ("U32", np.uint32)
