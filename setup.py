"""The C parts, built where there is a compiler; without one the install goes on without them."""

from __future__ import annotations

from glob import glob

from setuptools import Extension, setup


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


setup(
    ext_modules=[
        extension("edgedec.runtimes.native._engine", "runtimes/native"),
        extension("edgedec._tree._fast", "edgedec/_tree/csrc"),
    ]
)
