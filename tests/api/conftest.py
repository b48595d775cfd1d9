"""A model on the fake runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import edgedec
from edgedec.model import Model


@pytest.fixture
def model(plain_bundle: Path, fake_device: None) -> Iterator[Model]:
    with edgedec.load(plain_bundle, device="fake") as loaded:
        yield loaded
