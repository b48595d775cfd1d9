"""How many threads compute well here. It knows no runtime."""

from __future__ import annotations

import os
from pathlib import Path

from edgedec.errors import UsageError

MOST_THREADS = 64
"""More are refused, unless there are more processors."""

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Physical cores that this process may use; siblings of one core count once."""
    cores = {_siblings(topology, cpu) for cpu in allowed()}
    return max(1, min(len(cores), _granted(quota)))


def best(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Physical cores of the fastest kind, where the system tells them apart.

    A step waits for its slowest thread, so a slow core among fast ones holds all of them back.
    """
    speeds = {cpu: _speed(topology, cpu) for cpu in allowed()}
    fastest = {cpu for cpu, speed in speeds.items() if speed >= 0.8 * max(speeds.values())}
    cores = {_siblings(topology, cpu) for cpu in fastest}
    return max(1, min(len(cores), _granted(quota)))


def check_threads(threads: int | None) -> None:
    """Refuse what would bring the machine to a halt: threads that wait keep a core busy.

    Raises:
        UsageError: no whole number, fewer than 1, or more than a machine like this can use.
    """
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= most):
        raise UsageError(f"threads is {threads!r}; it must be a whole number from 1 to {most}")


def _speed(topology: Path, cpu: int) -> float:
    """What the kernel says of a processor: its capacity (Arm), else its highest frequency."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return float((topology / f"cpu{cpu}" / name).read_text())
        except (OSError, ValueError):
            continue
    return 1.0


def allowed() -> set[int]:
    """The logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(topology: Path, cpu: int) -> str:
    try:
        return (topology / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _granted(quota: Path) -> int:
    """Whole processors that a container grants; a share of one is one."""
    try:
        limit, period = quota.read_text().split()
        return max(1, round(int(limit) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
