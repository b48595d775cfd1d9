"""How many threads compute well here. It knows no runtime."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Physical cores that this process may use; siblings of one core count once."""
    cores = {_siblings(topology, cpu) for cpu in _allowed()}
    return max(1, min(len(cores), _granted(quota)))


def best(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Physical cores of the fastest kind, where the system tells them apart.

    A step waits for its slowest thread, so a slow core among fast ones holds all of them back.
    """
    speeds = {cpu: _speed(topology, cpu) for cpu in _allowed()}
    fastest = {cpu for cpu, speed in speeds.items() if speed >= 0.8 * max(speeds.values())}
    cores = {_siblings(topology, cpu) for cpu in fastest}
    return max(1, min(len(cores), _granted(quota)))


def _speed(topology: Path, cpu: int) -> float:
    """What the kernel says of a processor: its capacity (Arm), else its highest frequency."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return float((topology / f"cpu{cpu}" / name).read_text())
        except (OSError, ValueError):
            continue
    return 1.0


def _allowed() -> set[int]:
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
