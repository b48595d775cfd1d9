"""What this device is: the part of a profile's key that says on which machine it holds.

No paths, no names of people or hosts, nothing that an update of the kernel changes.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from edgedec import cores
from edgedec.architecture import Count, Spec
from edgedec.manifest import Line

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Fingerprint(Spec, frozen=True):
    """A device: equal where steps can be expected to take equal times.

    `isa` is the instruction set in use ("" where a runtime does not tell), `cores` the physical
    ones that this process may use, `processors` the logical ones, `memory_gib` the machine's
    memory in GiB (0 where the system does not tell).
    """

    processor: Line
    isa: Line
    cores: Count
    processors: Count
    memory_gib: Count
    system: Line

    def __str__(self) -> str:
        parts = [
            self.processor,
            self.isa,
            f"{self.cores} core{'' if self.cores == 1 else 's'}",
            f"{self.memory_gib} GiB" if self.memory_gib else "",
            self.system,
        ]
        return ", ".join(part for part in parts if part)


def fingerprint(isa: str = "") -> Fingerprint:
    """This device, for a runtime that uses an instruction set."""
    return Fingerprint(
        processor=processor(),
        isa=isa,
        cores=cores.physical(),
        processors=len(cores.allowed()),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}",
    )


def processor(cpuinfo: Path = CPUINFO, board: Path = BOARD) -> str:
    """What the system calls the processor; cloud machines hide names, so numbers stand beside."""
    fields = _first_block(cpuinfo)
    if "model name" in fields:
        numbers = [fields.get(name, "?") for name in ("cpu family", "model", "stepping")]
        told = f" ({'/'.join(numbers)})" if "cpu family" in fields else ""
        return _plain(fields["model name"] + told)
    if "CPU part" in fields:
        named = f"Arm {fields.get('CPU implementer', '?')}/{fields['CPU part']}"
        model = _read(board).strip("\0\n ")
        return _plain(f"{model} ({named})" if model else named)
    return _plain(_from_sysctl() or platform.processor() or platform.machine() or "unknown")


def cache_bytes(caches: Path = CACHES) -> int:
    """The size of the largest cache of the first processor; 0 where the system does not tell."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    found = [0]
    for path in caches.glob("index*/size"):
        text = _read(path).strip()
        if text[:-1].isdigit() and text[-1:] in units:
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found)


def _first_block(cpuinfo: Path) -> dict[str, str]:
    """The fields of the first processor; the kernel makes the other blocks only when read."""
    fields: dict[str, str] = {}
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if not colon:
                    break
                fields[name.strip()] = value.strip()
    except OSError:
        return {}
    return fields


def _from_sysctl() -> str:
    """The name that macOS has for the processor."""
    if platform.system() != "Darwin":
        return ""
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    size = ctypes.c_size_t(len(buffer))
    found = ctypes.CDLL(None).sysctlbyname(
        b"machdep.cpu.brand_string", buffer, ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return "" if found else buffer.value.decode("utf-8", "replace")


def _memory_gib() -> int:
    """Rounded up, since the kernel keeps some of it for itself, now more, now less."""
    try:
        return math.ceil(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    except (AttributeError, OSError, ValueError):
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _plain(text: str) -> str:
    """One line of printable text, in spite of what a system says."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:256]
