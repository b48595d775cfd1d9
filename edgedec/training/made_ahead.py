"""Batches that other processes make before they are needed, for devices that outrun one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from edgedec.training.pretrain import Batches, Counted

_END = 1 << 40  # more steps than any run has
_EACH = 3


class MadeAhead:
    """The same batches in the same order, a few of them ready in each of `workers` processes."""

    def __init__(self, batches: Batches, workers: int) -> None:
        self._batches, self._workers = batches, workers
        self._next = -1
        self._ready: Iterator[Counted] = iter(())

    def batch(self, step: int) -> Counted:
        """The batch of this step; steps that do not follow one another begin anew."""
        if self._workers == 0:
            return self._batches.batch(step)
        if step != self._next:
            self._ready = iter(self._loader(step))
        self._next = step + 1
        return next(self._ready)

    def _loader(self, step: int) -> DataLoader[Counted]:
        return DataLoader(
            _Steps(self._batches),
            batch_size=None,
            sampler=range(step, _END),
            num_workers=self._workers,
            prefetch_factor=_EACH,
            collate_fn=_as_it_is,
        )


class _Steps(Dataset[Counted]):
    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Counted:
        return self._batches.batch(step)


def _as_it_is(batch: Any) -> Any:
    return batch
