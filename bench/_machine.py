"""What the machine can do at most, measured, and what a process takes.

The rates come from loops in C that are compiled for this machine when a compiler is there, else
from numpy (which is lower). The best of several tries counts: these are limits, not times.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edgedec.bundle import cache_folder

LOOPS = r"""
#include <stddef.h>
#include <stdint.h>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

typedef float Lane __attribute__((vector_size(WIDTH)));
typedef int64_t Word __attribute__((vector_size(WIDTH)));

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
/* Named, since compilers keep arrays in memory; KEEP has them do all that they are told. */
#define KEEP(x) __asm__("" : "+v"(x));

/* Four streams, as several tiles of a matrix are read at once. */
int64_t read_all(const void *bytes, size_t size) {
    const Word *a = (const Word *)(((uintptr_t)bytes + 63) & ~(uintptr_t)63);
    size_t part = (size - 64) / 4 / (4 * sizeof(Word)) * 4;
    const Word *b = a + part, *c = b + part, *d = c + part;
    Word w = {0}, x = {0}, y = {0}, z = {0};
#define READ(sum, from)                                                                            \
    __builtin_prefetch((const char *)(from + i) + 4096);                                           \
    __builtin_prefetch((const char *)(from + i) + 4096 + 64);                                      \
    __builtin_prefetch((const char *)(from + i) + 4096 + 128);                                     \
    __builtin_prefetch((const char *)(from + i) + 4096 + 192);                                     \
    sum ^= (from[i] ^ from[i + 1]) ^ (from[i + 2] ^ from[i + 3]);
    for (size_t i = 0; i < part; i += 4) {
        READ(w, a) READ(x, b) READ(y, c) READ(z, d)
    }
    w ^= x ^ y ^ z;
    return w[0] ^ w[1];
}

/* Fused multiply-adds of fp32, 12 chains so that none waits for the one before. */
float multiply_add(size_t rounds, float x) {
    Lane a = {0}, b = {0}, all = {0};
    a += x, b += 0.5f * x;
#define BEGIN(i) Lane sum##i = b * (float)i;
#define ADD(i) sum##i = sum##i * a + b; KEEP(sum##i)
#define END(i) all += sum##i;
    EACH(BEGIN)
    for (size_t r = 0; r < rounds; r++) { EACH(ADD) }
    EACH(END)
    return all[0] + all[1];
}

/* Products of 8-bit numbers, 4 to a 32-bit lane; 0 where there is no instruction for it. */
int bytes_per_dot(void) {
#if defined(__AVX512VNNI__)
    return 64;
#else
    return 0;
#endif
}

int dot_bytes(size_t rounds, int x) {
#if defined(__AVX512VNNI__)
    __m512i a = _mm512_set1_epi32(x), b = _mm512_set1_epi32(x + 1), all = a;
#define BEGIN_DOT(i) __m512i sum##i = _mm512_set1_epi32(i);
#define DOT(i) sum##i = _mm512_dpbusd_epi32(sum##i, a, b); KEEP(sum##i)
#define END_DOT(i) all = _mm512_add_epi32(all, sum##i);
    EACH(BEGIN_DOT)
    for (size_t r = 0; r < rounds; r++) { EACH(DOT) }
    EACH(END_DOT)
    return _mm512_reduce_add_epi32(all);
#else
    return (int)rounds + x;
#endif
}
"""
CHAINS = 12


class Limits:
    """A contestant (`_worker.py`) that does nothing but what no step can do without."""

    def __init__(self, threads: int) -> None:
        self._threads, self._loops = threads, _compiled()
        self._pool = ThreadPoolExecutor(threads)
        self._bytes = np.zeros(0, np.int64)
        loops = "numpy" if self._loops is None else "C"
        self.about = {"runtime": "limits of the machine", "isa": processor(), "loops": loops}

    def seconds(self, what: str, count: int, tries: int = 3) -> float:
        """The best of some tries: `count` bytes read, or multiply-adds done ("fp32", "int8").

        8-bit products take no time where there is no way to measure them.
        """
        if what == "read":
            return self._read(count, tries)
        lanes = _width() // 4 if what == "fp32" else self._loops and self._loops.bytes_per_dot()
        if self._loops is None or not lanes:
            return count / 1e9 / _numpy_products() if what == "fp32" else 0.0
        loop = self._loops.multiply_add if what == "fp32" else self._loops.dot_bytes
        rounds = [max(1, count // (CHAINS * lanes * self._threads))] * self._threads
        return best(lambda: list(self._pool.map(lambda n: loop(n, 1), rounds)), tries)

    def _read(self, size: int, tries: int) -> float:
        if self._bytes.nbytes < size:
            self._bytes = np.ones(-(-size // 8) + 8 * self._threads, np.int64)
        parts = np.array_split(self._bytes[: -(-size // 8)], self._threads)
        loops = self._loops
        if loops is None:
            return best(lambda: list(self._pool.map(np.max, parts)), tries)
        return best(
            lambda: list(
                self._pool.map(lambda part: loops.read_all(part.ctypes.data, part.nbytes), parts)
            ),
            tries,
        )


def best(work: Callable[[], Any], repetitions: int = 9) -> float:
    """Seconds of the fastest repetition."""
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _width() -> int:
    """Bytes of the widest registers."""
    return 64 if "avx512f" in _cpuinfo("flags") else 32 if "avx2" in _cpuinfo("flags") else 16


def _compiled() -> ctypes.CDLL | None:
    flags = ["-O3", "-march=native", f"-DWIDTH={_width()}", "-ffp-contract=fast"]
    key = hashlib.sha256((LOOPS + str(flags) + processor()).encode()).hexdigest()[:16]
    target = cache_folder() / "bench" / f"loops-{key}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        command = ["cc", *flags, "-shared", "-fPIC", "-x", "c", "-", "-o", str(partial)]
        try:
            subprocess.run(command, input=LOOPS.encode(), check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        partial.replace(target)
    loops = ctypes.CDLL(str(target))
    loops.read_all.argtypes = ctypes.c_void_p, ctypes.c_size_t
    loops.read_all.restype = ctypes.c_int64
    loops.multiply_add.argtypes = ctypes.c_size_t, ctypes.c_float
    loops.multiply_add.restype = ctypes.c_float
    loops.dot_bytes.argtypes = ctypes.c_size_t, ctypes.c_int
    return loops


def _numpy_products() -> float:
    edge = 2048
    one = np.ones((edge, edge), np.float32)
    return edge**3 / best(lambda: one @ one) / 1e9


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def processor() -> str:
    """What the system calls the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


# --- memory of this process ----------------------------------------------------------------------


def resident_mb() -> float:
    """Megabytes of this process that are in memory now."""
    return _status("VmRSS") or peak_mb()


def peak_mb() -> float:
    """The most that this process had; what its parent had before it began does not count."""
    scale = 1024 if platform.system() != "Darwin" else 1024 * 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _status(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)
