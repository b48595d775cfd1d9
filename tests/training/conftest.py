"""A tiny model with random weights that writes bytes, as a native bundle, and prompts for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedec import costs
from edgedec.bundle import Bundle, open_bundle
from edgedec.export.pipeline import ExportOptions, export_model
from tests.decode.selfdrafted import model, texts_of
from tests.native import variants

from ..export.conftest import CONFIG, write_checkpoint  # noqa: TID252

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts

ANIMALS = ("a cat", "a dog", "an owl", "a fox", "a hen", "a bee", "an ant", "a cow", "a pig")
PROMPTS = [f"Once upon a time {animal}" for animal in ANIMALS]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 3 layers, 64 wide, 300 ids, with 96 tokens of context."""
    root = tmp_path_factory.mktemp("trained")
    checkpoint = write_checkpoint(root / "checkpoint", CONFIG | {"eos_token_id": 2})
    options = ExportOptions(forms=("native",), kind="int8", block=32, name="tiny", verify=False)
    export_model(str(checkpoint), root / "tiny", options)
    return root / "tiny"


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> variants.Model:
    """A tiny model in native form, without and with an encoder."""
    return model(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def frozen(made: variants.Model) -> Frozen:
    """Its twin."""
    # Here and below: this file is read where there is no torch as well.
    import torch

    from edgedec.training.frozen import Frozen

    torch.set_num_threads(1)
    return Frozen.of(made.bundle)


@pytest.fixture(scope="module")
def texts(made: variants.Model) -> Texts:
    """Texts that it might have written."""
    return texts_of(made, 12)


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The same, opened, on a device that needs no measuring."""
    monkeypatch.setattr("edgedec.profiler.costs_for", lambda *_: costs.flat())
    return open_bundle(tiny_folder)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Nine prompts."""
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


Stopper = Callable[[int], Callable[[], bool]]


@pytest.fixture
def stop_after() -> Stopper:
    """Something to ask whether to stop, which says so from the n-th time on."""

    def make(times: int) -> Callable[[], bool]:
        asked: list[int] = []

        def stop() -> bool:
            asked.append(0)
            return len(asked) > times

        return stop

    return make
