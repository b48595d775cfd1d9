"""Which form of a module runs: the one that mypyc compiled (setup.py), or its source.

The compiled one where there is one, unless EDGEDEC_COMPILED=0 says otherwise, or somebody changed a
source in a checkout since. It knows files, and nothing of what is in them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent


class Sources:
    """Finds the sources of modules that have been compiled as well, as a finder of `sys.meta_path`.

    It derives from nothing: `importlib.abc` takes longer to import than all the rest of `edgedec`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The source's spec; None where there is only one form, which others find."""
        package, _, name = fullname.rpartition(".")
        if package.partition(".")[0] != "edgedec":
            return None
        found = PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None or not is_library(Path(found.origin)):
            return None
        source = Path(found.origin).with_name(f"{name}.py")
        return spec_from_file_location(fullname, source) if source.is_file() else None


def is_compiled() -> bool:
    """Whether the loop runs in its compiled form."""
    module = sys.modules.get("edgedec.decode")
    origin = None if module is None else module.__file__
    return origin is not None and is_library(Path(origin))


def choose() -> None:
    """Let sources run where they are wanted, or newer than what was made of them."""
    if os.environ.get("EDGEDEC_COMPILED") == "0" or is_stale():
        sys.meta_path.insert(0, Sources())


def is_library(path: Path) -> bool:
    """Whether a file is a module that was compiled."""
    return path.name.endswith(tuple(EXTENSION_SUFFIXES))


def is_stale() -> bool:
    """Whether this is a checkout in which a source is newer than what was compiled of it."""
    checkout = PACKAGE.parent
    if not (checkout / "setup.py").is_file():
        # What was installed lies as it was made, whatever the files' times are.
        return False
    return any(
        source.is_file() and source.stat().st_mtime > library.stat().st_mtime
        for library, source in _pairs(PACKAGE, checkout / "runtimes")
    )


def _pairs(*folders: Path) -> Iterator[tuple[Path, Path]]:
    """What was compiled, and its source."""
    for folder in folders:
        for library in folder.rglob("*"):
            if is_library(library):
                yield library, library.with_name(library.name.partition(".")[0] + ".py")
