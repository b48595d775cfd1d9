"""The C part of drafting with hostile numbers, and its binding with wrong arguments, sanitised.

tree_driver.c plays the pieces without Python, hostile.py calls them through it: first as they are
compiled for use, then under sanitizers, which see every read outside of what was passed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from .both import FAST, needs_c

# Compilers under sanitizers are slow on a busy machine.
pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "edgedec" / "_tree" / "csrc"
FLAGS = ("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror",
         "-pthread", "-g", "-O1", "-fno-sanitize-recover=all", f"-I{SOURCES}")  # fmt: skip
KINDS = "address,undefined,float-cast-overflow"
SCARCE = tuple(f"-D{name}=scarce_{name}" for name in ("malloc", "calloc", "realloc"))
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1",
           "TSAN_OPTIONS": "halt_on_error=1"}  # fmt: skip


def attempt(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | OPTIONS | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a command says; all of it where it fails."""
    done = attempt(*command, **variables)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done


@cache
def compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")


def sanitising(kinds: str, folder: Path) -> tuple[str, str]:
    """The compiler and its flag, where it has these sanitizers and this system runs them."""
    found, flag = compiler(), f"-fsanitize={kinds}"
    if found is None:
        pytest.skip("no C compiler here")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    made = attempt(found, flag, folder / "empty.c", "-o", folder / "empty")
    if not made.returncode and attempt(folder / "empty").returncode:
        OPTIONS["ASAN_OPTIONS"] = "detect_leaks=0"  # they cannot be sought in a debugger
    if made.returncode or attempt(folder / "empty").returncode:
        pytest.skip(f"programs that {found} makes with {flag} do not run here")
    return found, flag


def driver(kinds: str, folder: Path) -> Path:
    found, flag = sanitising(kinds, folder)
    pieces = [path for path in SOURCES.glob("*.c") if not path.stem.startswith("bind")]
    objects: list[Path] = []
    for source in [*pieces, *HERE.glob("tree_*.c")]:
        objects.append(folder / f"{source.stem}.o")
        scarce: Sequence[str] = SCARCE if source.stem == "suffixes" else ()
        run(found, *FLAGS, flag, *scarce, "-c", source, "-o", objects[-1])
    run(found, "-pthread", flag, *objects, "-lm", "-o", folder / "driver")
    return folder / "driver"


def test_no_address_is_wrong(tmp_path: Path) -> None:
    program = driver(KINDS, tmp_path)
    hashes = [run(program, seed, "2").stdout for seed in ("1", "1", "2")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_threads_do_not_race(tmp_path: Path) -> None:
    run(driver("thread", tmp_path), "4", "3")


@needs_c
def test_wrong_arguments_are_refused_or_harmless() -> None:
    assert FAST is not None and FAST.__file__ is not None
    done = run(sys.executable, HERE / "hostile.py", FAST.__file__, "100")
    assert done.stdout == "no crash\n", done.stderr[-6000:]


def test_wrong_arguments_leak_nothing_and_lead_nowhere(tmp_path: Path) -> None:
    """As above, the extension under sanitizers, and Python with an allocator that they know."""
    found, flag = sanitising(KINDS, tmp_path)
    include = Path(sysconfig.get_path("include"))
    runtime = Path(attempt(found, "-print-file-name=libasan.so").stdout.strip())
    if not (include / "Python.h").is_file():
        pytest.skip(f"no Python.h in {include}")
    if not runtime.is_absolute() or not sys.platform.startswith("linux"):
        pytest.skip(f"{found} has no libasan.so that Python could be started with")
    extension = tmp_path / "_fast.so"
    options = ("-Wno-unused-parameter", "-fPIC", "-shared", f"-I{include}")
    run(found, *FLAGS, flag, *options, *SOURCES.glob("*.c"), "-lm", "-o", extension)
    # Python itself and its packages leave a little behind: that must be nothing of ours.
    watched = {"LD_PRELOAD": str(runtime), "PYTHONMALLOC": "malloc", "LSAN_OPTIONS": "exitcode=0"}
    if attempt(sys.executable, "-c", "import numpy", **watched).returncode:
        pytest.skip(f"{sys.executable} does not run with {runtime}")
    done = run(sys.executable, HERE / "hostile.py", extension, "25", **watched)
    assert done.stdout == "no crash\n", done.stderr[-6000:]
    assert str(SOURCES) not in done.stderr, done.stderr[-6000:]
