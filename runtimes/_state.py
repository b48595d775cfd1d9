"""Saved sessions: a safetensors file that says what it belongs to, and which source was read.

A file may come from anywhere, so its identity, sizes, shapes and types are checked before any of it
is used. It knows no model and no session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.errors import StateError, WriteError

LAYOUT = "1"

Tensors = dict[str, NDArray[Any]]
Shapes = Callable[[int, int], Mapping[str, tuple[int, ...]]]
"""The tensors that a state of so many tokens and source rows has, besides `tokens` and `positions`:
floats, or bytes where a shape has one dimension."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the encoder has read: how many rows it gave, and the source's key; nothing by default.

    The two are the session's `source_rows` and `source_key`. `states` are the rows [rows, D], where
    they are kept; no file holds them.
    """

    rows: int = 0
    key: str = ""
    states: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most there can be of positions, of token ids and of source rows."""

    context: int
    ids: int
    source: int = 0


def write(
    path: Path, tensors: Tensors, identity: Mapping[str, str], heard: Heard = Heard()
) -> None:
    """Write a state; it appears complete or not at all.

    Raises:
        WriteError: the place is read-only or full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if not path.parent.is_dir():
        raise WriteError(f"the session cannot be saved to {path}: there is no such folder")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    source = {"source_rows": str(heard.rows), "source_key": heard.key}
    try:
        save_file(whole, partial, metadata={"layout": LAYOUT, **source, **identity})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WriteError(f"the session cannot be saved to {path}: {reason}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read(
    path: Path, identity: Mapping[str, str], shapes: Shapes, limits: Limits
) -> tuple[Tensors, Heard]:
    """Read a state back.

    Raises:
        StateError: it is damaged, or belongs to something else; the message names both.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise StateError(f"the saved session {path} cannot be read: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_identity(path, metadata, {"layout": LAYOUT, **identity})
            heard = _heard(path, metadata, limits)
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            forms = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in found.items()}
            _check_forms(path, forms, lambda tokens: shapes(tokens, heard.rows), limits.context)
            tensors = {name: file.get_tensor(name) for name in forms}
    except (OSError, SafetensorError) as error:
        raise StateError(f"the saved session {path} cannot be read: {error}") from None
    _check_values(path, tensors, limits)
    if limits.source and len(tensors["tokens"]) and not heard.rows:
        raise StateError(
            f"the saved session {path} holds a text without its source: it is damaged, start a "
            "new session"
        )
    return tensors, heard


def _check_identity(path: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise StateError(
                f"the saved session {path} has {key} {_short(found.get(key))}, here it is "
                f"{_short(value)}: start a new session"
            )


def _heard(path: Path, metadata: Mapping[str, str], limits: Limits) -> Heard:
    rows, key = metadata.get("source_rows", "0"), metadata.get("source_key", "")
    count = int(rows) if re.fullmatch("[0-9]{1,9}", rows) else -1
    if not 0 <= count <= limits.source or not re.fullmatch("[0-9a-f]{32}" if count else "", key):
        raise StateError(
            f"the saved session {path} holds {_short(rows)} rows of a source {_short(key)!r}, the "
            f"model reads up to {limits.source}: it is damaged or was made by a larger model, "
            "start a new session"
        )
    return Heard(count, key)


def _short(value: str | None) -> str:
    return "missing" if value is None else value[:40]


def _check_forms(
    path: Path,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    shapes: Callable[[int], Mapping[str, tuple[int, ...]]],
    longest: int,
) -> None:
    count = (found.get("tokens", ((), ""))[0] or (0,))[0]
    if count > longest:
        raise StateError(
            f"the saved session {path} holds {count} tokens, the context {longest}: it is damaged "
            "or was made by a larger model, start a new session"
        )
    row = ((count,), "I64")
    floats = {
        name: (shape, "F32" if len(shape) > 1 else "U8") for name, shape in shapes(count).items()
    }
    expected = {"tokens": row, "positions": row, **floats}
    for name in [*expected, *sorted(found.keys() - expected.keys())]:
        if found.get(name) != expected.get(name):
            raise StateError(
                f"the saved session {path} has {name} as {found.get(name, 'nothing')}, expected "
                f"is {expected.get(name, 'nothing')}: it is damaged, start a new session"
            )


def _check_values(path: Path, tensors: Tensors, limits: Limits) -> None:
    for name, limit in (("positions", limits.context), ("tokens", limits.ids)):
        values = tensors[name]
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise StateError(
                f"the saved session {path} holds {name} outside 0..{limit}: it is damaged or was "
                "made by a larger model, start a new session"
            )
