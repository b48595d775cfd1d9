"""Profiles on disk: whole or not there, found only by their key, and never a reason to fail."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from edgedec.bundle import cache_folder
from edgedec.profiler import store
from edgedec.profiler.store import Profile


def path_of(profile: Profile) -> Path:
    return cache_folder() / "profiles" / profile.key.name


def changed(profile: Profile, **fields: Any) -> str:
    return json.dumps(msgspec.to_builtins(profile) | fields)


def test_a_round_trip(stored: Profile) -> None:
    assert store.read(stored.key) == (None, None)
    assert store.write(stored)
    assert store.read(stored.key) == (stored, None)
    assert os.listdir(cache_folder() / "profiles") == [stored.key.name]


def test_no_path_of_this_machine_is_in_it(stored: Profile) -> None:
    store.write(stored)
    assert "/root" not in path_of(stored).read_text()
    assert str(Path.home()) not in path_of(stored).read_text()


@pytest.mark.parametrize(
    "other",
    [
        {"runtime": "onnx"},
        {"version": "0.2.0"},
        {"device": "gpu"},
        {"bundle": "cd" * 32},
        {"threads": 2},
        {"kv_type": "int8"},
        *({"fingerprint": each} for each in (
            {"processor": "Another"}, {"isa": "avx512"}, {"cores": 2}, {"processors": 4},
            {"memory_gib": 8}, {"system": "Darwin arm64"},
        )),
    ],
)  # fmt: skip
def test_another_key_is_another_profile(stored: Profile, other: dict[str, Any]) -> None:
    store.write(stored)
    if "fingerprint" in other:
        other = {"fingerprint": replace(stored.key.fingerprint, **other["fingerprint"])}
    key = replace(stored.key, **other)
    assert store.read(key) == (None, None)
    # Even under its name, what was measured for another key is not taken.
    path_of(stored).rename(path_of(replace(stored, key=key)))
    found, problem = store.read(key)
    assert found is None
    assert problem is not None


HOSTILE: dict[str, Any] = {
    "nan": {"head": [float("nan"), 0.1, 0.1]},
    "infinite": {"head": [float("inf"), 0.1, 0.1]},
    "negative": {"layers": [[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]},
    "zero": {"layers": [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]},
    "huge": {"head": [1e300, 1e300, 1e300]},
    "ragged": {"layers": [[1.0, 1.0], [1.0, 1.0, 1.0]]},
    "falling rows": {"rows": [64, 4, 1]},
    "rows of 0": {"rows": [0, 4, 64]},
    "huge rows": {"rows": [1, 4, 10**12]},
    "a million rows": {"rows": list(range(1, 20_001))},
    "too many pasts": {"pasts": list(range(100)), "layers": [[1.0, 1.0, 1.0]] * 100},
    "words for numbers": {"rows": ["1", "4", "64"]},
    "an unknown field": {"extra": 1},
    "another schema": {"schema": 2},
    "no rows": {"rows": []},
    "null": {"key": None},
    "bandwidth 0": {"bandwidth": 0},
    "depth 0": {"depth": 0},
    "unknown effort": {"effort": "heroic"},
    "control characters": {"made": "\x1b[2J"},
    "a draft cost below 0": {"draft_ms": {"plain": -1}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_told_and_not_taken(stored: Profile, name: str) -> None:
    store.write(stored)
    path_of(stored).write_text(changed(stored, **HOSTILE[name]))
    found, problem = store.read(stored.key)
    assert found is None
    assert problem


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b" " * (1 << 20),
        b"NaN",
        b"1e999",
    ],
    ids=["empty", "open", "null", "list", "binary", "deep", "large", "nan", "number"],
)
def test_broken_files_are_told_and_not_taken(stored: Profile, text: bytes) -> None:
    store.write(stored)
    path_of(stored).write_bytes(text)
    found, problem = store.read(stored.key)
    assert found is None
    assert problem


def test_a_file_cut_anywhere_is_not_taken(stored: Profile) -> None:
    store.write(stored)
    whole = path_of(stored).read_bytes()
    for size in range(0, len(whole.rstrip()), 7):
        path_of(stored).write_bytes(whole[:size])
        assert store.read(stored.key)[0] is None


def test_what_is_no_file_is_not_waited_for(stored: Profile) -> None:
    path_of(stored).parent.mkdir(parents=True)
    os.mkfifo(path_of(stored))
    assert store.read(stored.key) == (None, None)
    path_of(stored).unlink()
    path_of(stored).mkdir()
    assert store.read(stored.key) == (None, None)
    assert not store.write(stored)
    assert os.listdir(path_of(stored).parent) == [stored.key.name]


@pytest.mark.parametrize("place", ["/dev/null", "/proc/none"])
def test_a_cache_that_cannot_be_written(
    stored: Profile, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDEC_CACHE", place)
    assert not store.write(stored)
    assert store.read(stored.key) == (None, None)


def test_a_failed_write_leaves_the_old_one(
    stored: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(stored)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not store.write(replace(stored, rounds=99))
    assert store.read(stored.key) == (stored, None)
    assert os.listdir(path_of(stored).parent) == [stored.key.name]


def test_writers_at_once_and_a_reader_between_them(stored: Profile) -> None:
    store.write(stored)
    done = threading.Event()
    failures: list[object] = []

    def write(rounds: int) -> None:
        for _ in range(60):
            if not store.write(replace(stored, rounds=rounds)):
                failures.append("write")

    def read() -> None:
        while not done.is_set():
            found, problem = store.read(stored.key)
            if found is None or found.rounds not in (stored.rounds, 1, 2):
                failures.append(problem)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(rounds,)) for rounds in (1, 2)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert os.listdir(path_of(stored).parent) == [stored.key.name]


def test_the_folder_does_not_grow_for_ever(stored: Profile) -> None:
    for index in range(store.MAX_FILES + 5):
        profile = replace(stored, key=replace(stored.key, bundle=f"{index:064}"))
        store.write(profile)
        os.utime(path_of(profile), (index, index))
    store.write(stored)
    assert len(os.listdir(path_of(stored).parent)) == store.MAX_FILES
    assert store.read(stored.key)[0] == stored


def test_the_floor_is_the_weights_at_the_bandwidth(stored: Profile) -> None:
    assert stored.roofline == pytest.approx(1e-3)
    assert replace(stored, bandwidth=None).roofline is None
