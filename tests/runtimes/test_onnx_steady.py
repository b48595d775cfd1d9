"""Whether the ONNX runtime finds out that rows depend on what shares their step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedec.runtimes.onnx.session import OnnxSession
from edgedec.runtimes.onnx.trying import WIDTHS, is_steady

if TYPE_CHECKING:
    from conftest import Maker


@pytest.mark.parametrize("width", [None, *WIDTHS])
def test_rows_that_depend_on_their_step_are_found(
    make: Maker, monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    """Logits are the row's position, but for one bit of the last row in steps of one width."""
    real = OnnxSession.step

    def step(self: OnnxSession, rows: Any, *args: Any, **given: Any) -> Any:
        first, count = len(self.tokens), len(rows.tokens)
        result = real(self, rows, *args, **given)
        result._logits[:] = np.arange(first, first + count)[:, None] + 1
        if count == width:
            result._logits[-1, 7] = np.nextafter(result._logits[-1, 7], np.float32(100))
        return result

    monkeypatch.setattr(OnnxSession, "step", step)
    assert is_steady(make("whole").engine.session()) == (width is None)


def test_it_is_tried_once(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make("whole").engine
    found = engine.steady()
    monkeypatch.setattr(engine, "session", lambda: pytest.fail("tried again"))
    assert engine.steady() == found
