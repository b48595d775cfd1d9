"""The C parts, built where there is a compiler; without one the install goes on without them.

Two are written in C. A third is made by mypyc from the Python modules that run in every turn
(`[tool.edgedec]` in pyproject.toml names them): the same code, a tenth to a fifth faster.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
SETTINGS = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]
# Where mypyc works: the packages as they are imported, which is not how the checkout has them.
WORK = Path("build") / "compiled"


def extension(name: str, folder: str) -> Extension:
    """One optional extension module from all C files of a folder."""
    return Extension(
        name,
        sources=sorted(glob(f"{folder}/*.c")),
        depends=sorted(glob(f"{folder}/*.h")),
        extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno",
                            "-fno-trapping-math", "-fvisibility=hidden", "-pthread", "-g0"],
        extra_link_args=["-pthread"],
        libraries=["m"],
        optional=True,
    )  # fmt: skip


def gathered() -> list[str]:
    """Copy the Python code to where it is imported from; the files there that are compiled."""
    shutil.rmtree(WORK, ignore_errors=True)
    folders = {"edgedec": "edgedec", **SETTINGS["setuptools"]["package-dir"]}
    moved = {folder: Path(*package.split(".")) for package, folder in folders.items()}
    for folder, package in moved.items():
        for source in (HERE / folder).rglob("*.py"):
            target = WORK / package / source.relative_to(HERE / folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    named = [Path(name) for name in SETTINGS["edgedec"]["compiled"]]
    return [str(WORK / moved[path.parts[0]] / Path(*path.parts[1:])) for path in named]


def compiled() -> list[Extension]:
    """The modules that mypyc makes; none where it cannot, which costs nothing but time."""
    try:
        from mypyc.build import mypycify

        os.environ["MYPYPATH"] = str(WORK)
        options = ["--config-file=", "--explicit-package-bases", "--ignore-missing-imports",
                   "--follow-imports=silent"]  # fmt: skip
        found: list[Extension] = mypycify(
            [*options, *gathered()], group_name="edgedec._compiled", target_dir=str(WORK / "c"),
            opt_level="2", debug_level="0",
        )  # fmt: skip
    except (ImportError, SystemExit) as error:
        print(f"edgedec: nothing is compiled by mypyc ({error})")
        return []
    for each in found:
        each.optional = True
    return found


class Build(build_ext):
    """Runs mypyc when something is built, and not whenever this file is read."""

    def finalize_options(self) -> None:
        """Add what mypyc makes to the other extensions; all are built side by side."""
        self.parallel = True
        if "sdist" not in self.distribution.commands:
            self.distribution.ext_modules += compiled()
        super().finalize_options()


setup(
    ext_modules=[
        extension("edgedec.runtimes.native._engine", "runtimes/native"),
        extension("edgedec._tree._fast", "edgedec/_tree/csrc"),
    ],
    cmdclass={"build_ext": Build},
)
