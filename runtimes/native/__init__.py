"""Our own CPU engine: a step of up to eight rows costs little more than one of a single row.

engine.py      a bundle's packed weights, mapped into memory, and the C engine on them
session.py     one conversation
result.py      the outcome of a step
packed.py      the file of weights, checked before anything reads it
part.py        what a strategy was trained to: its matrices and layers on the same threads
spec.py        the architecture as the engine reads it
edgedec.h      the C library's public header; the other C files are its rooms
"""

from __future__ import annotations

import os
from importlib import util
from typing import TYPE_CHECKING

from edgedec import cores
from edgedec.devices import Device, EngineOptions
from edgedec.errors import DeviceError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine
    from edgedec.parts import Part

    from .engine import Native

PREFERENCE = 10
FORM = "native"

_MISSING = (
    "the C engine was not built: install a C compiler (Debian: apt install gcc python3-dev) "
    "and edgedec again; until then the runtime onnx serves"
)


def isa() -> str | None:
    """The instruction set asked for by EDGEDEC_ISA, None for the best one.

    Raises:
        DeviceError: this machine does not have it.
    """
    from ._engine import isas

    wanted = os.environ.get("EDGEDEC_ISA") or None
    if wanted is not None and wanted not in isas():
        raise DeviceError(
            f"EDGEDEC_ISA is {wanted!r}, this machine has {', '.join(isas())}: unset it or choose "
            "one of those"
        )
    return wanted


def built() -> bool:
    """Whether the C engine is there."""
    return util.find_spec("edgedec.runtimes.native._engine") is not None


def devices() -> list[Device]:
    """The CPU."""
    if not built():
        return [Device("cpu", "native", "our own engine", _MISSING)]
    from ._engine import isas

    try:
        used, problem = isa() or isas()[0], None
    except DeviceError as error:
        used, problem = isas()[0], str(error)
    return [Device("cpu", "native", f"our own engine, {used}, {cores.best()} cores", problem)]


def open(bundle: Bundle, options: EngineOptions) -> Native:
    """Open the native form of a bundle.

    Raises:
        DeviceError: another device than "cpu", or the engine is not there.
        UsageError: fewer than one thread, or an unknown storage of keys and values.
        BundleError: the bundle has no native form, or a damaged one.
    """
    if options.device != "cpu":
        raise DeviceError(f"the native runtime runs on the cpu, not on {options.device!r}")
    if not built():
        raise DeviceError(f"the native runtime cannot be used: {_MISSING}")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"{options.threads} threads cannot compute: give 1 or more")
    from .engine import Native

    return Native(bundle, options.threads or cores.best(), options.kv_type, isa())


def open_part(path: Path, bundle: Bundle, engine: Engine | None, threads: int | None) -> Part:
    """Open what a strategy was trained to; it shares the threads of a native `engine`.

    Where another runtime runs the model, the part has threads of its own.

    Raises:
        StateError: the file is damaged, or was made for another bundle.
        UnsupportedError: the engine was not built, or the bundle has no native form.
    """
    if not built():
        raise UnsupportedError(f"trained strategies are run by the C engine: {_MISSING}")
    from .engine import Native
    from .part import NativePart

    if not isinstance(engine, Native):
        if bundle.manifest.forms.native is None:
            raise UnsupportedError(
                f"trained strategies need the native form, which {bundle.path.name} does not "
                "have: export it again"
            )
        engine = Native(bundle, threads or cores.best(), None, isa())
    return NativePart(path, bundle, engine)
