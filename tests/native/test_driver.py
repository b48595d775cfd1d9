"""The engine as a C library, under sanitizers and on Arm: driver.c plays scripts and prints hashes.

The sanitizers see every read outside of what the engine was given, of right models and of wrong
ones: each number of a description is spoilt in turn.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedec.runtimes.native import _engine, spec
from edgedec.runtimes.native.engine import KV_TYPES
from edgedec.runtimes.native.packed import open_packed

from .played import play, play_briefly
from .test_golden import HASHES

if TYPE_CHECKING:
    from .conftest import Maker

# Compilers under sanitizers are slow on a busy machine.
pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "runtimes" / "native"
FLAGS = ("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror",
         "-pthread", "-g1")  # fmt: skip
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1",
           "TSAN_OPTIONS": "halt_on_error=1"}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """A model and a script, as the driver reads them."""

    description: Path
    encoder: Path
    data: Path
    script: Path
    kv_type: str

    def words(self, threads: int, sessions: int = 1, isa: str = "best") -> list[str]:
        paths = (self.description, self.encoder, self.data, self.script)
        kv_type = KV_TYPES.index(self.kv_type)
        return [*map(str, paths), str(kv_type), str(threads), str(sessions), isa]


def files(make: Maker, folder: Path, name: str, kv_type: str, *, brief: bool = False) -> Files:
    engine, opened = make(name).open(1, kv_type), make(name).bundle
    tensors = open_packed(opened).tensors
    description, script = folder / f"{name}.spec", folder / f"{name}.{kv_type}.script"
    description.write_bytes(spec.encode(opened.manifest, tensors))
    stack, encoder = opened.manifest.architecture.encoder, folder / f"{name}.encoder"
    encoder.write_bytes(spec.encode_encoder(opened.manifest, stack, tensors) if stack else b"")
    script.write_bytes(play_briefly(engine) if brief else play(engine).script)
    return Files(description, encoder, opened.file("native.safetensors"), script, kv_type)


# --- building ----------------------------------------------------------------------------------


def attempt(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | OPTIONS
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def run(*command: str | Path) -> str:
    """What a command prints; all that it said where it fails."""
    done = attempt(*command)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done.stdout


def build(compiler: str, flags: Sequence[str], folder: Path) -> Path:
    """The engine and the driver; plain loops over lanes take long to optimise under sanitizers."""
    sources = [path for path in NATIVE.glob("*.c") if not path.stem.startswith("binding")]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        level = "-O0" if flags[0] != "-static" and source.stem == "isa_portable" else "-O1"
        run(compiler, *FLAGS, *flags, level, f"-I{NATIVE}", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(2) as workers:
        objects = list(workers.map(compiled, [*sources, HERE / "driver.c"]))
    program = folder / "driver"
    run(compiler, "-pthread", *flags, *objects, "-lm", "-o", program)
    return program


@cache
def compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")


def sanitised(kinds: str, folder: Path) -> Path:
    """The driver under sanitizers, where this compiler has them and this system runs them."""
    found, flags = compiler(), (f"-fsanitize={kinds}", "-fno-sanitize-recover=all")
    if found is None:
        pytest.skip("no C compiler here")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    made = attempt(found, *flags, folder / "empty.c", "-o", folder / "empty")
    if not made.returncode and attempt(folder / "empty").returncode:
        OPTIONS["ASAN_OPTIONS"] = "detect_leaks=0"  # they cannot be sought in a debugger
    if made.returncode or attempt(folder / "empty").returncode:
        pytest.skip(f"programs that {found} makes with {flags[0]} do not run here")
    return build(found, flags, folder)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitised("address,undefined,float-cast-overflow", tmp_path_factory.mktemp("addresses"))


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitised("thread", tmp_path_factory.mktemp("threads"))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool, package in ((CROSS, "gcc-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian package {package})")
    return build(CROSS, ("-static",), tmp_path_factory.mktemp("arm"))


# --- right models ------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("name", ["plain4", "windows", "gemma", "neox-like", "post", "groups",
                                  "gpt2", "phi3", "t5-like", "whisper-like",
                                  "t5gemma-like"])  # fmt: skip
def test_no_address_is_wrong(
    make: Maker, addresses: Path, tmp_path: Path, name: str, kv_type: str
) -> None:
    played = files(make, tmp_path, name, kv_type)
    expected = HASHES[name][kv_type]
    assert run(addresses, *played.words(1)).split() == [_engine.isas()[0], expected]
    assert run(addresses, *played.words(3, 2)).split()[1] == expected


@pytest.mark.parametrize("isa", _engine.isas()[1:])
def test_no_address_is_wrong_on_any_instruction_set(
    make: Maker, addresses: Path, tmp_path: Path, isa: str
) -> None:
    for name, kv_type in (("interleaved", "int8"), ("groups", "fp16"), ("mu-like", "int8"),
                          ("beside-like", "fp16")):  # fmt: skip
        played = files(make, tmp_path, name, kv_type)
        expected = HASHES[name][kv_type]
        assert run(addresses, *played.words(2, isa=isa)).split() == [isa, expected]


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("sessions", [1, 3])
def test_threads_do_not_race(
    make: Maker, threads: Path, tmp_path: Path, kv_type: str, sessions: int
) -> None:
    for name in ("plain4", "gemma", "bart-like"):
        played = files(make, tmp_path, name, kv_type)
        printed = run(threads, *played.words(4, sessions))
        assert printed.split()[1] == HASHES[name][kv_type]


@pytest.mark.parametrize("isa", ["portable", "neon", "i8mm"])
def test_arm_computes_the_same_bits(make: Maker, arm: Path, tmp_path: Path, isa: str) -> None:
    kinds = {"plain": "int8", "plain4": "fp16", "windows": "fp16", "gemma": "int8",
             "gpt2-like": "fp16", "neox-like": "int8", "interleaved": "fp16", "groups": "int8",
             "post": "fp16", "phi3": "fp16", "llama": "int8", "t5-like": "fp16",
             "mu-like": "int8", "whisper-like": "fp16", "bart-like": "int8", "t5gemma-like": "fp16",
             "beside-like": "int8"}  # fmt: skip
    found: dict[str, str] = {}
    for name, kv_type in kinds.items():
        played = files(make, tmp_path, name, kv_type)
        used, found[name] = run(EMULATOR, "-cpu", "max", arm, *played.words(2, isa=isa)).split()
        assert used == isa
    assert found == {name: HASHES[name][kind] for name, kind in kinds.items()}


def test_an_unknown_instruction_set_is_refused(
    make: Maker, addresses: Path, tmp_path: Path
) -> None:
    played = files(make, tmp_path, "plain", "fp16", brief=True)
    assert "no instruction set 'sse9'" in run(addresses, *played.words(1, isa="sse9"))


# --- wrong models ------------------------------------------------------------------------------


def numbers(kind: np.dtype[Any], start: int = 0) -> Iterator[tuple[int, np.dtype[Any]]]:
    """Offset and type of every number of a struct."""
    assert kind.fields is not None
    for inner, place, *_ in kind.fields.values():
        offset = start + int(place)
        if inner.names:
            yield from numbers(inner, offset)
        else:
            yield offset, inner


def spoilt(kind: np.dtype[Any], old: bytes, size: int) -> set[int]:
    """Other values of a number, as unsigned integers."""
    if kind.kind == "f":
        values = [0.0, -1.0, np.inf, np.nan, 1e38, 1e-40]
        return {int.from_bytes(kind.type(value).tobytes(), "little") for value in values}
    was, bits = int.from_bytes(old, "little"), 8 * kind.itemsize
    small = {0, 1, 2, 3, 7, 16, 64, -1, -64, 1 << (bits - 1), (1 << (bits - 1)) - 1, 1 << 24}
    near = {was + 1, was - 1, was + 64, was - 64, 2 * was, was // 2}
    ends = {size, size - 64, size + 64, (1 << 64) - 64} if bits == 64 else set()
    return {value % (1 << bits) for value in small | near | ends} - {was}


def changes(description: bytes, size: int, start: int = 0) -> list[tuple[int, int, int]]:
    """Every number of the model, its first rope and its first and last layer, spoilt.

    `start` is where the description stands behind another one.
    """
    layers = int(np.frombuffer(description, spec.MODEL, 1)["layers"][0])
    ropes = int(np.frombuffer(description, spec.MODEL, 1)["ropes"][0])
    starts = [(spec.MODEL, 0), *[(spec.ROPE, spec.MODEL.itemsize)] * min(ropes, 1)]
    first = spec.MODEL.itemsize + ropes * spec.ROPE.itemsize
    starts += [(spec.LAYER, first + index * spec.LAYER.itemsize) for index in {0, layers - 1}]
    return [
        (start + offset, kind.itemsize, value)
        for struct_kind, place in starts
        for offset, kind in numbers(struct_kind, place)
        for value in sorted(spoilt(kind, description[offset : offset + kind.itemsize], size))
    ]


def outcomes(program: Path, played: Files, wrong: Sequence[tuple[int, int, int]]) -> list[str]:
    path = played.script.with_suffix(".changes")
    path.write_bytes(b"".join(struct.pack("<IIQ", *change) for change in wrong))
    lines = run(program, *played.words(2), path).splitlines()
    assert len(lines) == len(wrong)
    return lines


@pytest.mark.parametrize(
    ("name", "kv_type"),
    [("windows", "fp16"), ("gemma", "int8"), ("gpt2-like", "fp16"), ("t5-like", "int8")],
)
def test_wrong_descriptions_are_refused_or_harmless(
    make: Maker, addresses: Path, tmp_path: Path, name: str, kv_type: str
) -> None:
    played = files(make, tmp_path, name, kv_type, brief=True)
    description, encoder = played.description.read_bytes(), played.encoder.read_bytes()
    wrong = changes(description, played.data.stat().st_size)
    if encoder:
        wrong += changes(encoder, played.data.stat().st_size, len(description))
    lines = outcomes(addresses, played, wrong)
    refused = [line for line in lines if "refused: " in line]
    assert len(refused) > len(lines) / 2
    assert all(line.partition("refused: ")[2] for line in refused)


@pytest.mark.parametrize("name", ["plain", "gpt2-like"])
def test_data_that_are_cut_off_are_refused(
    make: Maker, addresses: Path, tmp_path: Path, name: str
) -> None:
    played = files(make, tmp_path, name, "fp16", brief=True)
    size, whole = played.data.stat().st_size, played.description.stat().st_size
    wrong = [(0, 0, at) for at in (0, 1, 64, size // 2, size - 4096, size - 1024)]
    for line in outcomes(addresses, played, wrong):
        assert "refused: " in line and "outside of the data" in line
    for cut in (0, 3, 100, whole - 1, whole + 1):
        raw = played.description.read_bytes()
        other = tmp_path / "cut"
        other.write_bytes((raw + b"\0")[:cut])
        again = Files(other, played.encoder, played.data, played.script, "fp16")
        assert run(addresses, *again.words(1)).startswith("refused: the description")
