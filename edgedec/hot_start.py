"""Hot starts on disk: what a drafter's table had learned, as a safetensors file.

A hot start only changes what is guessed, so a wrong one costs speed, never words. The file is not
trusted all the same: sizes, types, ids and weights are checked before anything is taken over.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec import _tree
from edgedec.errors import StateError, WriteError
from edgedec.replacing import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Host
    from edgedec.written import Contexts

    Array = NDArray[Any]

LARGEST = 64 << 20
_LAYOUT = "2"
_SCALE = np.float32(255)


def write(path: Path, contexts: Contexts, vocab: int) -> None:
    """Write keys [n], ids [n, 8] and weights [n, 8] in 8 bit, shares of their sum.

    Raises:
        WriteError: the file cannot be written.
    """
    from safetensors.numpy import save

    shares = contexts.shares / np.maximum(contexts.shares.sum(axis=1, keepdims=True), 1e-9)
    small = np.uint16 if vocab <= 1 << 16 else np.uint32
    data = save(
        {
            "keys": contexts.keys,
            "ids": np.maximum(contexts.ids, 0).astype(small),
            "weights": np.rint(shares * _SCALE).astype(np.uint8),
        },
        {"layout": _LAYOUT, "vocab": str(vocab), "longest": str(contexts.longest)},
    )
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
    """Fill a table from a file.

    Raises:
        StateError: there is no such file, it is damaged, or it belongs to another vocabulary.
    """
    keys, ids, weights, longest = _arrays(path, vocab)
    table.load(keys.tobytes(), ids.astype(np.int32).tobytes(), weights.tobytes(), longest)


def _arrays(
    path: Path, vocab: int
) -> tuple[NDArray[np.uint64], NDArray[np.integer[Any]], NDArray[np.float32], int]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > LARGEST:
            raise StateError(f"{path.name} is larger than {LARGEST >> 20} MiB: no hot start")
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StateError(f"the hot start {path.name} cannot be read: {reason}") from None
    if about.get("layout") != _LAYOUT or about.get("vocab") != str(vocab):
        raise StateError(
            f"the hot start {path.name} is for a vocabulary of {about.get('vocab')} in layout "
            f"{about.get('layout')}, this model has {vocab}: make one with `edgedec warm`"
        )
    keys, ids, weights = (found.get(name) for name in ("keys", "ids", "weights"))
    longest = about.get("longest", "0")
    if (
        keys is None
        or ids is None
        or weights is None
        or not (longest.isdecimal() and _fits(keys, ids, weights, vocab))
    ):
        raise StateError(f"the hot start {path.name} is damaged: make it anew with `edgedec warm`")
    return keys, ids, weights.astype(np.float32) / _SCALE, int(longest)


def _fits(keys: Array, ids: Array, weights: Array, vocab: int) -> bool:
    shape = (len(keys) if keys.ndim == 1 else -1, _tree.WIDTH)
    kinds = keys.dtype == np.uint64 and ids.dtype in (np.uint16, np.uint32)
    return bool(
        kinds
        and weights.dtype == np.uint8
        and ids.shape == weights.shape == shape
        and (ids.size == 0 or ids.max() < vocab)
    )
