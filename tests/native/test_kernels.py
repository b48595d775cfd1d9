"""Every instruction set gives the bits of the plain C one, and that one is right.

The comparison itself is kernels_check.c: here it is compiled and run. Arm runs under emulation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

# Compilers under sanitizers are slow on a busy machine.
pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "runtimes" / "native"
FLAGS = ("-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"


def _run(*command: str | Path) -> str:
    """What a command prints; its complaint where it fails. Leaks cannot be sought in a debugger."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def _level(source: Path, flags: Sequence[str]) -> str:
    """Plain loops over lanes take ten seconds to optimise under sanitizers."""
    if SANITIZERS[0] not in flags:
        return "-O2"
    return "-O0" if source.stem in {"isa_portable", "kernels_check"} else "-O1"


def _build(compiler: str, flags: Sequence[str], folder: Path) -> Path:
    sources = [*NATIVE.glob("isa*.c"), HERE / "kernels_check.c"]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        level = _level(source, flags)
        _run(compiler, *FLAGS, *flags, level, f"-I{NATIVE}", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(2) as workers:
        objects = list(workers.map(compiled, sources))
    program = folder / "kernels_check"
    _run(compiler, *flags, *objects, "-lm", "-o", program)
    return program


def _has_sanitizers(compiler: str, folder: Path) -> bool:
    source = folder / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    command = (compiler, *SANITIZERS, source, "-o", folder / "empty")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_all_sets_of_this_machine_agree_under_sanitizers(tmp_path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    if not _has_sanitizers(compiler, tmp_path):
        pytest.skip(f"{compiler} lacks the address sanitizer's library")
    program = _build(compiler, ("-g1", *SANITIZERS), tmp_path)
    assert "portable" in _run(program).split()


def test_arm_agrees_under_emulation(tmp_path: Path) -> None:
    for tool, package in ((CROSS, "gcc-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian package {package})")
    program = _build(CROSS, ("-static",), tmp_path)
    printed = _run(EMULATOR, "-cpu", "max", program, "i8mm", "neon")
    assert printed.split() == ["i8mm", "neon", "portable"]
