"""Every machine and every instruction set computes the bits that stand in `golden.json`.

The weights come from a counter (`counted.py`), so nothing but the engine has a part in the hashes.
Arm is asked in test_driver.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgedec.runtimes.native import _engine
from edgedec.runtimes.native.engine import KV_TYPES

from . import variants
from .played import fnv, play
from .write_golden import GOLDEN

if TYPE_CHECKING:
    from .conftest import Maker

HASHES = json.loads(GOLDEN.read_text())


def test_the_hash_is_fnv() -> None:
    assert fnv(b"") == 0xCBF29CE484222325 and fnv(b"foobar") == 0x85944171F73967E8
    assert set(HASHES) == set(variants.names())


@pytest.mark.parametrize("name", variants.names())
@pytest.mark.parametrize("isa", _engine.isas())
def test_golden(make: Maker, monkeypatch: pytest.MonkeyPatch, isa: str, name: str) -> None:
    monkeypatch.setenv("EDGEDEC_ISA", isa)
    for threads, kv_type in enumerate(KV_TYPES, start=1):
        engine = make(name).open(threads, kv_type)
        assert engine.isa == isa
        assert f"{play(engine).hash:016x}" == HASHES[name][kv_type]
