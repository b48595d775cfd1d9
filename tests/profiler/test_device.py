"""The device, as systems describe themselves, and its memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec import cores
from edgedec.architecture import Head
from edgedec.bundle import open_bundle, shipped
from edgedec.errors import UsageError
from edgedec.manifest import Manifest
from edgedec.profiler import bandwidth, device

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD  EPYC
stepping\t: 1

processor\t: 1
model name\t: Another
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
"""


@pytest.mark.parametrize(
    ("text", "board", "expected"),
    [
        (X86, None, "AMD EPYC (26/2/1)"),
        ("model name : A\x1b[2J\x07B\n", None, "A [2J B"),
        ("model name : " + "x" * 1000, None, "x" * 256),
        (ARM, None, "Arm 0x41/0xd0b"),
        (
            ARM,
            "Raspberry Pi 5 Model B Rev 1.0\0",
            "Raspberry Pi 5 Model B Rev 1.0 (Arm 0x41/0xd0b)",
        ),
    ],
)
def test_processors(tmp_path: Path, text: str, board: str | None, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    if board is not None:
        (tmp_path / "model").write_text(board)
    assert device.processor(tmp_path / "cpuinfo", tmp_path / "model") == expected


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert device.processor(tmp_path / "none", tmp_path / "none")
    assert device.cache_bytes(tmp_path) == 0


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "32M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert device.cache_bytes(tmp_path) == 32 << 20


def test_the_fingerprint_is_steady_and_says_what_is_here() -> None:
    found = device.fingerprint("avx2")
    assert found == device.fingerprint("avx2") != device.fingerprint("avx512")
    assert found.cores == cores.physical() <= found.processors
    assert found.memory_gib > 0
    assert str(found).startswith(f"{found.processor}, avx2, {found.cores} core")


@pytest.mark.parametrize("threads", [0, -1, 10**6, 2.5, "4"])
def test_numbers_of_threads_that_make_no_sense(threads: int) -> None:
    with pytest.raises(UsageError, match="a whole number from 1 to"):
        cores.check_threads(threads)


def test_numbers_of_threads_that_do() -> None:
    for threads in (None, 1, 64):
        cores.check_threads(threads)


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def stories() -> Manifest:
    return open_bundle(shipped()["stories"]).manifest


def test_weights_are_counted_as_they_are_stored(stories: Manifest) -> None:
    """What a step reads is the whole native file but for padding, since the head is tied."""
    assert stories.architecture.head.tied
    file = stories.files["native.safetensors"].size
    assert file * 0.97 < bandwidth.weight_bytes(stories) <= file


def test_an_embedding_that_is_only_looked_up_is_not_read(stories: Manifest) -> None:
    """A head of its own, stored as the embedding is, takes the embedding's place."""
    formats = stories.quantisation | {"head": stories.format_of("embed.weight")}
    untied = replace(stories.architecture, head=Head(tied=False))
    changed = replace(stories, architecture=untied, quantisation=formats)
    assert bandwidth.weight_bytes(changed) == bandwidth.weight_bytes(stories)


def test_bandwidth_is_the_best_of_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "cache_bytes", lambda: 0)
    reads = iter([0.5, 0.25, 1.0, 0.5])
    now, read = [0.0], []

    def clock() -> float:
        return now[0]

    def read_part(part: np.ndarray) -> int:
        assert part.dtype == np.int64
        read.append(part.nbytes)
        now[0] += next(reads)
        return int(part[0])

    monkeypatch.setattr(np, "max", read_part)
    # The third try begins within the time, the fourth would not.
    found = bandwidth.read_bandwidth(1, seconds=1.0, clock=clock)
    assert read == [bandwidth.LEAST_BYTES] * 3
    assert found == pytest.approx(bandwidth.LEAST_BYTES / 0.25)


def test_every_thread_reads_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "cache_bytes", lambda: 0)
    monkeypatch.setattr(bandwidth, "TRIES", 1)
    read: list[int] = []
    monkeypatch.setattr(np, "max", lambda part: read.append(part.nbytes))
    assert bandwidth.read_bandwidth(3, seconds=0.0) > 0
    assert len(read) == 3
    assert sum(read) == bandwidth.LEAST_BYTES
