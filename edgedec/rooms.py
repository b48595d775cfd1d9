"""A folder is a registry: one file is one family, strategy, runtime or command.

Knows nothing about what the files contain.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgedec.errors import UnsupportedError


def names(room: str) -> list[str]:
    """The public modules in the package `room` (such as "edgedec.models"), sorted."""
    paths = importlib.import_module(room).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def load(room: str, name: str) -> ModuleType:
    """Import one module of a room.

    Raises:
        UnsupportedError: there is no such module; the message lists those there are.
    """
    known = names(room)
    if name not in known:
        what = room.rsplit(".", 1)[-1]
        raise UnsupportedError(f"no {name!r} in {what}; there is: {', '.join(known)}")
    return importlib.import_module(f"{room}.{name}")
