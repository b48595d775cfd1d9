"""Drafting by parts of the model in ONNX Runtime, where it was cut for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedec.architecture import Architecture
from edgedec.contracts import Context, Rows
from edgedec.export.checkpoint import Arrays
from edgedec.runtimes.onnx.engine import Onnx
from edgedec.sampling import Sampling
from edgedec.strategies.early_exit import EarlyExit
from edgedec.strategies.layer_skip import LayerSkip
from tests.decode.selfdrafted import Given, skipped, started, written

from .conftest import Maker, Model

TEXT = [3, 17, 4, 40, 3, 17, 22, 9]
MASKS = np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32)
PART = Given({"start": 1, "end": 4, "masks": 2, "exit": 2, "depth": 3}, MASKS)


class Cut:
    """A model in the form that the tests of drafting take."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.architecture: Architecture = model.engine.architecture
        self.weights: Arrays = model.weights

    def open(self) -> Onnx:
        return self._model.engine


@pytest.fixture
def made(make: Maker) -> Any:
    return Cut(make("cut"))


@pytest.mark.parametrize("held", [7, 5, 0])
def test_a_pass_that_skips_is_the_reference(made: Any, held: int) -> None:
    session, host = started(made, PART)
    if held:
        rows = Rows(np.array(TEXT[:held], np.int32), np.arange(-1, held - 1, dtype=np.int32))
        session.keep([session.step(rows).handles[-1]])
    LayerSkip().open(host).propose(Context(TEXT, 2, 0, pending=len(TEXT) - held), 20)
    ((_, _, logits),) = host.steps
    expected = skipped(made, TEXT, held, MASKS, range(1, 4))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("strategy", [LayerSkip(), EarlyExit(confidence=0.0), EarlyExit(exit=4)])
def test_no_word_changes(made: Any, strategy: Any, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    found, tally = written(made, strategy, TEXT, sampling, PART)
    assert found == plain
    assert tally.evaluated > len(plain)
