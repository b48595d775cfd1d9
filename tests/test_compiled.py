"""What is compiled at install gives the same words as its source, and never lags behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from edgedec import compiled

ROOT = Path(__file__).parents[1]
TELL = """
import json, sys
import edgedec
found = edgedec.load("stories", strategy="auto").generate(
    "Once upon a time", max_new_tokens=80, temperature=float(sys.argv[1]), seed=5)
from edgedec import compiled
print(json.dumps([compiled.is_compiled(), found.tokens]))
"""


def named() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[str] = settings["tool"]["edgedec"]["compiled"]
    return found


def libraries(source: Path) -> list[Path]:
    return [path for path in source.parent.glob(f"{source.stem}.*") if compiled.is_library(path)]


def test_what_is_named_exists_and_is_named_once() -> None:
    assert sorted(set(named())) == named()
    assert [name for name in named() if not (ROOT / name).is_file()] == []


def test_all_are_compiled_or_none_is() -> None:
    made = [name for name in named() if libraries(ROOT / name)]
    assert made in ([], named())


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_sources_write_the_same_words(temperature: str) -> None:
    shown = []
    for form in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", TELL, temperature],
            capture_output=True, text=True, check=True, env=os.environ | {"EDGEDEC_COMPILED": form},
        )  # fmt: skip
        shown.append(json.loads(done.stdout))
    (first, words), (second, same) = shown
    made = bool(libraries(ROOT / "edgedec" / "decode.py"))
    assert first == (made and not compiled.is_stale())
    assert not second
    assert len(words) > 20
    assert words == same


def checkout(folder: Path) -> tuple[Path, Path]:
    """A package in a checkout: a source and what was compiled of it."""
    package = folder / "edgedec"
    package.mkdir()
    (folder / "setup.py").touch()
    source, library = package / "loop.py", package / f"loop{EXTENSION_SUFFIXES[0]}"
    source.write_text("FORM = 'source'\n")
    library.write_bytes(b"no library")
    return source, library


@pytest.mark.parametrize(("source_time", "stale"), [(100, False), (300, True)])
def test_a_source_that_was_changed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source_time: int, stale: bool
) -> None:
    source, library = checkout(tmp_path)
    os.utime(source, (source_time, source_time))
    os.utime(library, (200, 200))
    monkeypatch.setattr(compiled, "PACKAGE", source.parent)
    assert compiled.is_stale() is stale
    (tmp_path / "setup.py").unlink()
    # As it is installed, files have the times at which they were written.
    assert not compiled.is_stale()


def test_sources_are_found_beside_what_was_compiled(tmp_path: Path) -> None:
    source, library = checkout(tmp_path)
    alone = library.with_name(f"engine{EXTENSION_SUFFIXES[0]}")
    alone.write_bytes(b"written in C")
    finder, path = compiled.Sources(), [str(source.parent)]
    found = finder.find_spec("edgedec.loop", path)
    assert found is not None and found.origin == str(source)
    assert finder.find_spec("edgedec.engine", path) is None
    assert finder.find_spec("edgedec.nothing", path) is None
    assert finder.find_spec("other.loop", path) is None
