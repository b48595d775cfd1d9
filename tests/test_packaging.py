"""What is installed is what is in the tree: checked by list, and by a wheel in a clean place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
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


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a new environment into which the built wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "clean", with_pip=True)
    python = folder / "clean" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


@pytest.mark.timeout(900)
def test_the_wheel_writes_a_story_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "EDGEDEC_CACHE")}
    shown = subprocess.run(
        [str(installed.parent / "edgedec"), "generate", "--json", "-n", "24", "Once upon a time"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert result["model"] == "stories"
    assert result["new_tokens"] == 24 or result["finish_reason"] == "stop"
    assert len(result["text"].split()) > 5


def test_the_wheel_has_no_recipe_and_no_test(installed: Path) -> None:
    code = "import edgedec, pathlib; print(*pathlib.Path(edgedec.__file__).parent.rglob('*.py'))"
    run = [str(installed), "-c", code]
    shown = subprocess.run(
        run, capture_output=True, text=True, check=True, cwd=installed.parent
    ).stdout
    assert "edgedec/models/llama.py" in shown
    assert "/reference/stories/" not in shown
    assert "/tests/" not in shown
