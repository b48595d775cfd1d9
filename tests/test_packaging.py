"""What is installed is what is in the tree: checked by list, and by a wheel in a clean place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"edgedec": "edgedec", "export": "edgedec.export", "models": "edgedec.models",
           "runtimes": "edgedec.runtimes"}  # fmt: skip


def settings() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return loaded


def test_every_folder_with_code_is_listed() -> None:
    listed = settings()["tool"]["setuptools"]["packages"]  # type: ignore[index]
    found = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inside)))
    assert sorted(listed) == sorted(found)


def test_the_version_stands_in_one_place() -> None:
    import edgedec

    assert settings()["project"]["version"] == edgedec.__version__  # type: ignore[index]


def test_importing_edgedec_imports_nothing_heavy() -> None:
    code = "import edgedec, sys; print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("numpy", "onnxruntime", "tokenizers", "msgspec", "jinja2", "rich", "click")
    assert [name for name in heavy if f"'{name}'" in shown.stdout] == []


def attempt(folder: Path, environment: Mapping[str, str], *command: str | Path) -> str:
    """What a command prints; all that it said where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def build(folder: Path, *command: str | Path, **more: str) -> str:
    return attempt(folder, os.environ | more, *command)


def run(folder: Path, *command: str | Path, **more: str) -> str:
    """Without what pip and pytest need to know of this machine."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "EDGEDEC_CACHE")}
    return attempt(folder, kept | more, *command)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was made of it."""
    folder = tmp_path_factory.mktemp("built")
    # A source distribution is put together in the checkout, where others may do so at this moment.
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "build", "*.so"))
    build(folder, sys.executable, "-m", "build", "--outdir", folder, checkout)
    return folder


@pytest.fixture(scope="session")
def installed(built: Path) -> Path:
    """The python of a new environment into which the built wheel was installed."""
    (wheel,) = built.glob("*.whl")
    venv.create(built / "clean", with_pip=True)
    python = built / "clean" / "bin" / "python"
    build(built, python, "-m", "pip", "install", "--quiet", wheel)
    return python


@pytest.fixture(scope="session")
def without_engine(built: Path, installed: Path) -> Path:
    """A folder with edgedec as it is installed where there is no C compiler."""
    (source,) = built.glob("*.tar.gz")
    folder = built / "without"
    pip = (installed, "-m", "pip", "install", "--quiet", "--no-deps")
    build(built, *pip, "--target", folder, source, CC=str(built / "no-compiler"))
    return folder


def has_compiler() -> bool:
    name = os.environ.get("CC", "").split() or (sysconfig.get_config_var("CC") or "cc").split()
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(name[0]) is not None and header.is_file()


def told(shown: str) -> str:
    """The runtime that told a story."""
    result = json.loads(shown)
    assert result["model"] == "stories"
    assert result["new_tokens"] == 24 or result["finish_reason"] == "stop"
    assert len(result["text"].split()) > 5
    return str(result["runtime"])


STORY = ("generate", "--json", "-n", "24", "Once upon a time")


@pytest.mark.timeout(900)
def test_the_wheel_writes_a_story_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    assert told(run(tmp_path, installed.parent / "edgedec", *STORY)) in ("native", "onnx")


@pytest.mark.timeout(900)
def test_the_wheel_has_no_recipe_and_no_test(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgedec/models/llama.py" in names
    assert [name for name in names if "/stories/" in name and name.endswith(".py")] == []
    assert [name for name in names if "tests/" in name or name.endswith((".c", ".h"))] == []


@pytest.mark.timeout(900)
def test_the_wheel_has_the_engine_where_there_is_a_compiler(built: Path, installed: Path) -> None:
    if not has_compiler():
        pytest.skip("no C compiler here, or no headers of Python")
    (wheel,) = built.glob("*.whl")
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    engine = [name.suffix for name in names if name.name.startswith("_engine")]
    assert sorted(engine) == [".pyi", ".so"]
    libraries = {name.name.partition(".")[0] for name in names if name.suffix == ".so"}
    loop = settings()["tool"]["edgedec"]["compiled"]  # type: ignore[index]
    assert libraries == {"_engine", "_fast", "_compiled__mypyc", *(Path(n).stem for n in loop)}
    shown = json.loads(run(built, installed.parent / "edgedec", "devices", "--json"))
    (native,) = (d for d in shown["devices"] if d["runtime"] == "native")
    assert native["problem"] is None


@pytest.mark.timeout(900)
def test_without_a_compiler_the_rest_is_installed(
    without_engine: Path, installed: Path, tmp_path: Path
) -> None:
    assert list(without_engine.glob("edgedec/**/*.so")) == []
    path = str(without_engine)
    edgedec = (installed, "-c", "from edgedec.cli import main; main()")
    shown = run(tmp_path, *edgedec, "devices", PYTHONPATH=path)
    assert "cpu (native): the C engine was not built: install a C compiler" in shown
    assert told(run(tmp_path, *edgedec, *STORY, PYTHONPATH=path)) == "onnx"


@pytest.mark.timeout(900)
def test_the_source_distribution_can_be_compiled(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = ROOT / "runtimes" / "native"
    needed = [path.relative_to(ROOT) for path in native.iterdir() if path.suffix in (".c", ".h")]
    assert len(needed) > 20
    assert {"setup.py", "pyproject.toml", *map(str, needed)} <= names
    assert [name for name in names if name.endswith(".so")] == []
