"""Batches made by other processes are those that one process would make."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.training.made_ahead import MadeAhead  # noqa: E402 - needs torch
from edgedec.training.pretrain import Batch, on_device  # noqa: E402


class Plain:
    """A batch that says its step."""

    def batch(self, step: int) -> Batch:
        rows = torch.full((2, 3), step)
        return Batch(rows, rows + 1)


class Broken:
    """Has no batches."""

    def batch(self, step: int) -> Batch:
        raise ValueError(f"no batch {step}")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_that_of_the_steps_also_after_a_jump(workers: int) -> None:
    made = MadeAhead(Plain(), workers)
    for step in (5, 6, 7, 8, 2, 3, 2):
        batch = made.batch(step)
        assert torch.equal(batch.tokens, Plain().batch(step).tokens)


def test_what_goes_wrong_in_a_worker_is_told() -> None:
    with pytest.raises(ValueError, match="no batch 3"):
        MadeAhead(Broken(), 1).batch(3)


def test_a_batch_moves_with_what_it_lacks() -> None:
    moved = on_device(Plain().batch(1), torch.device("meta"))
    assert moved.tokens.is_meta
    assert moved.weights is None
