"""How much memory this process has used at most. Knows nothing about what it was used for."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Peak resident memory in MB (10^6 bytes); 0 where the system does not tell."""
    return round(_peak_bytes() / 1e6, 1)


def _peak_bytes() -> int:
    # Linux hands a parent's ru_maxrss on to a child across exec; VmHWM is this program's own.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
