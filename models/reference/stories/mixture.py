"""Batches from the token streams and the task generator; the position can be saved.

Knows no model. Rows of a stream are drawn without repetition within an epoch.
"""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedec.models.reference.stories.data import ASSISTANT, END, USER, Tokens
from edgedec.models.reference.stories.recipe import Phase, Recipe
from edgedec.models.reference.stories.tasks import Pool, Task, make_task
from edgedec.training.pretrain import Batch

Starts = NDArray[np.int64]
Weights = NDArray[np.float32]
END_ID, ASSISTANT_ID = 0, 2


def task_text(task: Task) -> str:
    """A task as one turn of the chat format."""
    return f"{USER}{task.prompt}{ASSISTANT}{task.answer}{END}"


def in_answer(ids: Tokens) -> NDArray[np.bool_]:
    """Where the next token is one of an answer, or its end."""
    opened: NDArray[np.bool_] = np.cumsum(ids == ASSISTANT_ID) > np.cumsum(ids == END_ID)
    return opened


def _names(phase: Phase) -> list[str]:
    return [name for name, count in phase.rows.items() for _ in range(count)]


class Mixture:
    """Draws the rows that the recipe's phase asks for."""

    def __init__(
        self, streams: dict[str, Tokens], pool: Pool, tokenizer: Tokenizer, recipe: Recipe
    ) -> None:
        self._streams, self._pool, self._tokenizer, self._recipe = streams, pool, tokenizer, recipe
        self._drawn: dict[str, int] = {}
        self._order: dict[str, tuple[int, Starts]] = {}

    def state(self) -> dict[str, int]:
        """How many rows each (stream, length) has given so far."""
        return dict(self._drawn)

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._drawn = dict(state)

    def batch(self, step: int) -> Batch:
        """The next batch, rows shuffled; targets are the inputs moved by one."""
        phase = self._recipe.phase(step)
        rows = [self._row(name, phase) for name in _names(phase)]
        weights = [self._weights(name, row) for name, row in zip(_names(phase), rows, strict=True)]
        order = np.random.default_rng((self._recipe.seed, step)).permutation(len(rows))
        block = torch.from_numpy(np.stack(rows)[order].astype(np.int64))
        scored = torch.from_numpy(np.stack(weights)[order])
        return Batch(block[:, :-1].contiguous(), block[:, 1:].contiguous(), scored)

    def _weights(self, name: str, row: Tokens) -> Weights:
        weights = np.ones(len(row) - 1, dtype=np.float32)
        if name == "tasks":
            weights[in_answer(row)[:-1]] = self._recipe.answer_weight
        return weights

    def _row(self, name: str, phase: Phase) -> Tokens:
        key = f"{name}/{phase.length}"
        index = self._drawn.get(key, 0)
        self._drawn[key] = index + 1
        if name == "tasks":
            return self._tasks(index, phase.length)
        epoch, place = divmod(index, (len(self._streams[name]) - phase.length) // phase.length)
        start = int(self._starts(key, epoch)[place])
        return self._streams[name][start : start + phase.length + 1]

    def _starts(self, key: str, epoch: int) -> Starts:
        """Row starts of one epoch: a new offset and a new order each time."""
        known = self._order.get(key)
        if known is not None and known[0] == epoch:
            return known[1]
        name, text = key.split("/")
        length = int(text)
        rng = np.random.default_rng((self._recipe.seed, zlib.crc32(key.encode()), epoch))
        rows = (len(self._streams[name]) - length) // length
        starts: Starts = int(rng.integers(length)) + length * rng.permutation(rows)
        starts = np.minimum(starts, len(self._streams[name]) - length - 1)
        self._order[key] = (epoch, starts)
        return starts

    def _tasks(self, index: int, length: int) -> Tokens:
        rng = random.Random(f"{self._recipe.seed}/{length}/{index}")
        ids: list[int] = []
        while len(ids) <= length:
            ids += self._tokenizer.encode(task_text(make_task(rng, self._pool))).ids
        return np.asarray(ids[: length + 1], dtype=np.uint16)
