"""Which devices there are, and which runtime serves one: found by walking the folder of runtimes.

Knows no runtime by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from edgedec import rooms
from edgedec.errors import DeviceError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine
    from edgedec.manifest import Forms
    from edgedec.parts import Part

ROOM = "edgedec.runtimes"
DEFAULT = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """One device as a runtime sees it; `problem` says why it cannot be used, and what to do."""

    name: str
    runtime: str
    description: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to open a bundle: device name, threads (None: physical cores), and how keys and values
    are stored (None: the first of the runtime's `kv_types`)."""

    device: str = "cpu"
    threads: int | None = None
    kv_type: str | None = None


class RuntimeModule(Protocol):
    """A file or folder in `runtimes/`: lists devices, opens bundles."""

    PREFERENCE: int
    """Lower is tried first where several runtimes serve a device."""

    FORM: str
    """The form of the bundle it reads: onnx, native, gguf."""

    devices: Callable[[], list[Device]]
    open: Callable[..., Engine]


def runtimes() -> dict[str, RuntimeModule]:
    """Every runtime by name, the preferred one first."""
    found = {name: cast("RuntimeModule", rooms.load(ROOM, name)) for name in rooms.names(ROOM)}
    return dict(sorted(found.items(), key=lambda item: (item[1].PREFERENCE, item[0])))


def devices() -> list[Device]:
    """Every device of every runtime, usable or not."""
    return [device for module in runtimes().values() for device in module.devices()]


def choose(forms: Forms, device: str | None, runtime: str | None) -> tuple[Device, RuntimeModule]:
    """The device and the runtime that will run a bundle present in `forms`.

    Without a runtime, the preferred one that serves the device and reads a form that is there;
    without a device, `cpu` if the runtime has one, else its first.

    Raises:
        DeviceError: no such device, or it cannot be used; the message says why.
        UnsupportedError: no such runtime, or none that reads this bundle.
    """
    modules = runtimes()
    if runtime is not None:
        modules = {runtime: cast("RuntimeModule", rooms.load(ROOM, runtime))}
    readers = {name: m for name, m in modules.items() if _reads(m, forms)}
    if not readers:
        raise UnsupportedError(_no_reader(modules, forms))
    listed = [(d, module) for module in readers.values() for d in module.devices()]
    wanted = device or _default(listed)
    named = [(d, module) for d, module in listed if d.name == wanted]
    for found, module in named:
        if found.problem is None:
            return found, module
    raise DeviceError(_problem(wanted, [d for d, _ in named], [d for d, _ in listed]))


def open_part(path: Path, bundle: Bundle, engine: Engine | None, threads: int | None) -> Part:
    """What a strategy was trained to for a bundle, from its file.

    It is opened by the runtime that runs such parts, whatever runs the model; where that is
    `engine`, they share its threads.

    Raises:
        StateError: it is damaged, or was made for another bundle.
        UnsupportedError: no runtime here runs such parts; the message says what to do.
    """
    for module in runtimes().values():
        opening: Callable[..., Part] | None = getattr(module, "open_part", None)
        if opening is not None:
            return opening(path, bundle, engine, threads)
    raise UnsupportedError("no runtime here runs what a strategy was trained to")


def trained(bundle: Bundle, engine: Engine, threads: int | None) -> Callable[[str], Part | None]:
    """What opens the part of a strategy by its name; None where the bundle holds none of it."""

    def opened(strategy: str) -> Part | None:
        path = bundle.strategy_file(strategy)
        return None if path is None else open_part(path, bundle, engine, threads)

    return opened


def _reads(module: RuntimeModule, forms: Forms) -> bool:
    # A runtime that needs no weights (form "none") counts only where it offers a device.
    if module.FORM == "none":
        return bool(module.devices())
    return getattr(forms, module.FORM, None) is not None


def _default(listed: list[tuple[Device, RuntimeModule]]) -> str:
    known = [device.name for device, _ in listed]
    return DEFAULT if DEFAULT in known or not known else known[0]


def _no_reader(modules: dict[str, RuntimeModule], forms: Forms) -> str:
    present = [name for name in forms.__struct_fields__ if getattr(forms, name) is not None]
    if all(module.FORM == "none" for module in modules.values()):
        return f"the runtime {', '.join(modules)} is for tests and has no device here: leave it out"
    wanted = ", ".join(
        f"{name} reads {module.FORM}" for name, module in modules.items() if module.FORM != "none"
    )
    return f"this bundle holds the forms: {', '.join(present) or 'none'}; {wanted}: export it again"


def _problem(wanted: str, named: list[Device], listed: list[Device]) -> str:
    if named:
        return "; ".join(
            f"the device {d.name!r} of the runtime {d.runtime!r} cannot be used: {d.problem}"
            for d in named
        )
    there = ", ".join(dict.fromkeys(d.name for d in listed if d.problem is None)) or "none"
    return f"no device {wanted!r}; there is: {there} (see `edgedec devices`)"
