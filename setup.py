"""The C engine, built where there is a compiler; without one the install goes on without it."""

from __future__ import annotations

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "edgedec.runtimes.native._engine",
            sources=sorted(glob("runtimes/native/*.c")),
            depends=sorted(glob("runtimes/native/*.h")),
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno",
                                "-fvisibility=hidden", "-pthread", "-g0"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,
        )
    ]
)  # fmt: skip
