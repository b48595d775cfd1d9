"""Saved sessions: a safetensors file that says what it belongs to.

A file may come from anywhere, so its identity, sizes, shapes and types are checked before any of it
is used. It knows no model and no session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.errors import StateError, WriteError

LAYOUT = "1"

Tensors = dict[str, NDArray[Any]]
Shapes = Callable[[int], Mapping[str, tuple[int, ...]]]
"""The tensors that a state of so many tokens has, besides `tokens` and `positions`: floats, or
bytes where a shape has one dimension."""


def write(path: Path, tensors: Tensors, identity: Mapping[str, str]) -> None:
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
    try:
        save_file(whole, partial, metadata={"layout": LAYOUT, **identity})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WriteError(f"the session cannot be saved to {path}: {reason}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read(
    path: Path, identity: Mapping[str, str], shapes: Shapes, limits: tuple[int, int]
) -> Tensors:
    """Read a state back; `limits` are the number of positions and of token ids there are.

    Raises:
        StateError: it is damaged, or belongs to something else; the message names both.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise StateError(f"the saved session {path} cannot be read: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            _check_identity(path, file.metadata() or {}, {"layout": LAYOUT, **identity})
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            forms = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in found.items()}
            _check_forms(path, forms, shapes, limits[0])
            tensors = {name: file.get_tensor(name) for name in forms}
    except (OSError, SafetensorError) as error:
        raise StateError(f"the saved session {path} cannot be read: {error}") from None
    _check_values(path, tensors, limits)
    return tensors


def _check_identity(path: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise StateError(
                f"the saved session {path} has {key} {_short(found.get(key))}, here it is "
                f"{_short(value)}: start a new session"
            )


def _short(value: str | None) -> str:
    return "missing" if value is None else value[:40]


def _check_forms(
    path: Path, found: Mapping[str, tuple[tuple[int, ...], str]], shapes: Shapes, longest: int
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


def _check_values(path: Path, tensors: Tensors, limits: tuple[int, int]) -> None:
    for name, limit in zip(("positions", "tokens"), limits, strict=True):
        values = tensors[name]
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise StateError(
                f"the saved session {path} holds {name} outside 0..{limit}: it is damaged or was "
                "made by a larger model, start a new session"
            )
