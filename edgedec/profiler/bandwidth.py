"""How fast memory can be read, and what a step would take if it did nothing else.

Reading is numpy's, with several threads (it lets them run side by side): on two cores of an AMD
EPYC 51 GB/s, where a loop in C reads 50.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgedec.manifest import Manifest
from edgedec.profiler.device import cache_bytes
from edgedec.weights import role, shapes

Clock = Callable[[], float]

LEAST_BYTES, MOST_BYTES = 64 << 20, 256 << 20
TRIES = 12


def read_bandwidth(threads: int, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Bytes per second that `threads` threads read from memory: the best of some tries.

    Two tries are always made; further ones begin within `seconds`.
    """
    # Much larger than the caches; filled, because untouched pages are all one page of zeros.
    size = min(max(4 * cache_bytes(), LEAST_BYTES), MOST_BYTES)
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    best, started = math.inf, clock()
    with ThreadPoolExecutor(threads) as pool:
        for tried in range(TRIES):
            begun = clock()
            if tried >= 2 and begun - started > seconds:
                break
            list(pool.map(np.max, parts))
            best = min(best, clock() - begun)
    return size / max(best, 1e-9)


def weight_bytes(manifest: Manifest) -> int:
    """Bytes of weights that a step of the decoder reads, whatever its number of rows.

    Without an embedding that is looked up only, tables of positions, and what is read once for a
    source: the encoder, and the keys and values that the decoder makes of it.
    """
    model, total = manifest.architecture, 0
    for name, shape in shapes(model).items():
        looked_up = name == "embed.weight" and not model.head.tied
        once = name.startswith(("encoder.", "frontend.")) or ".cross_attention.k" in name
        if looked_up or once or ".cross_attention.v" in name or name.endswith(".positions"):
            continue
        numbers = math.prod(shape)
        if role(name) is None:
            total += 4 * numbers
            continue
        form = manifest.format_of(name)
        scales = 2 * numbers // form.block if form.block else 0
        total += numbers * form.bits // 8 + scales
    return total
