"""Models in native form, written once in a run of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from edgedec.runtimes import native

if TYPE_CHECKING:
    from . import variants

Maker = Callable[[str], "variants.Model"]

# Without a compiler there is no engine; test_kernels.py says itself that it cannot run.
collect_ignore_glob = [] if native.built() else ["test_[!k]*.py"]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Models by the name of a variant or a family."""
    from . import variants

    folder = tmp_path_factory.mktemp("native")
    made: dict[str, variants.Model] = {}

    def one(name: str) -> variants.Model:
        if name not in made:
            made[name] = variants.write(folder, name)
        return made[name]

    return one
