"""The house rules that a machine can check: who may import whom, sizes, and names."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"edgedec": "edgedec", "export": "edgedec.export", "models": "edgedec.models",
         "runtimes": "edgedec.runtimes"}  # fmt: skip

# A module may import from lower floors and from its own room, never sideways or up.
FLOORS = [
    {"edgedec.errors"},
    {"core"},
    {"edgedec.models", "edgedec.runtimes", "edgedec.strategies"},
    {"edgedec.decode", "edgedec.export"},
    {"edgedec.profiler"},
    {"edgedec.api"},
    {"edgedec.training"},
    {"edgedec.benchmark"},
    {"edgedec.cli"},
]
MEMBERS = {
    "edgedec.host": "edgedec.decode",
    "edgedec.answering": "edgedec.api",
    "edgedec.course": "edgedec.api",
    "edgedec.hearing": "edgedec.api",
    "edgedec.model": "edgedec.api",
    "edgedec.warm": "edgedec.api",
}


def sources() -> Iterator[Path]:
    for folder in ROOMS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "reference" not in path.parts:
                yield path


SOURCES = list(sources())


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts[0] = ROOMS[parts[0]]
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every edgedec module a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in lazy


def room(module: str) -> str:
    parts = module.split(".")
    top = ".".join(parts[:2])
    top = MEMBERS.get(top, top)
    return top if any(top in floor for floor in FLOORS) else "core"


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    here = room(module_name(path))
    for name, _ in imports(path):
        assert name.split(".")[0] not in ("export", "models", "runtimes"), f"{name}: say edgedec."
        if not name.startswith("edgedec.") or module_name(path) == "edgedec":
            continue
        there = room(name)
        assert there == here or floor(there) < floor(here), f"{path.name} imports {name}"


def test_no_module_needs_itself_to_be_imported() -> None:
    known = {module_name(path) for path in sources()}
    graph: dict[str, set[str]] = {}
    for path in sources():
        eager = {name for name, now in imports(path) if now}
        targets = {name if name in known else name.rpartition(".")[0] for name in eager}
        graph[module_name(path)] = (targets & known) - {module_name(path)}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_torch_stays_in_training(path: Path) -> None:
    if "training" not in path.parts:
        assert not {n for n, _ in imports(path) if n.split(".")[0] in ("torch", "transformers")}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_tests_and_measurements_stay_small_too() -> None:
    found = [path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in found if path.read_text().count("\n") > 400] == []


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_names_say_something() -> None:
    bad = re.compile(r"(^|_)(utils?|common|helpers?|misc|legacy|new|old)(_|$)")
    assert [path for path in sources() if bad.search(path.stem)] == []


def test_every_room_says_how_to_add_to_it() -> None:
    rooms = ("export", "models", "runtimes", "bench")
    for folder in (*rooms, "edgedec/strategies", "edgedec/profiler", "edgedec/cli"):
        assert (ROOT / folder / "README.md").is_file(), folder
