"""Batches from token streams, stories and the task generator. Knows no model.

A batch is decided by the seed and the step alone, so that a run resumes with nothing to restore
and other processes can make batches ahead. Rows of a stream do not repeat within an epoch. Stories
that are recast are drawn one by one, with other names and other requests each time.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedec.models.reference.stories.data import ASSISTANT, END, USER, Tokens, as_chat
from edgedec.models.reference.stories.recast import recast
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


class Mixture:
    """Draws the rows that the recipe's phase asks for."""

    def __init__(
        self,
        streams: dict[str, Tokens],
        stories: list[str],
        pool: Pool,
        tokenizer: Tokenizer,
        recipe: Recipe,
    ) -> None:
        self._streams, self._stories, self._pool = streams, stories, pool
        self._tokenizer, self._recipe = tokenizer, recipe
        self._made = {"tasks", "tiny", "chat"} if recipe.recast_share > 0.0 else {"tasks"}
        self._order: dict[str, tuple[int, Starts]] = {}

    def batch(self, step: int) -> Batch:
        """The batch of a step, rows shuffled; targets are the inputs moved by one."""
        phase = self._recipe.phase(step)
        drawn = list(self._rows(phase, step))
        order = np.random.default_rng((self._recipe.seed, step)).permutation(len(drawn))
        block = torch.from_numpy(np.stack([row for row, _ in drawn])[order].astype(np.int64))
        scored = torch.from_numpy(np.stack([weights for _, weights in drawn])[order])
        return Batch(block[:, :-1].contiguous(), block[:, 1:].contiguous(), scored)

    def _rows(self, phase: Phase, step: int) -> Iterator[tuple[Tokens, Weights]]:
        for name, count in phase.rows.items():
            first = self._recipe.drawn(name, phase.length, step)
            for index in range(first, first + count):
                row = self._row(name, index, phase.length)
                weights = np.ones(phase.length, dtype=np.float32)
                if name == "tasks":
                    weights[in_answer(row)[:-1]] = self._recipe.answer_weight
                yield row, weights

    def _row(self, name: str, index: int, length: int) -> Tokens:
        if name in self._made:
            return self._making(name, index, length)
        key = f"{name}/{length}"
        epoch, place = divmod(index, (len(self._streams[name]) - length) // length)
        start = int(self._starts(key, epoch)[place])
        return self._streams[name][start : start + length + 1]

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

    def _making(self, name: str, index: int, length: int) -> Tokens:
        """Stories, answers to requests for stories, or tasks, one behind the other."""
        rng = random.Random(f"{self._recipe.seed}/{name}/{length}/{index}")
        ids: list[int] = []
        while len(ids) <= length:
            more = self._tokenizer.encode(self._text(name, rng)).ids
            # A story is entered anywhere, else its end would stand in few rows.
            cut = rng.randrange(len(more)) if name == "tiny" and not ids else 0
            ids += more[cut:]
        return np.asarray(ids[: length + 1], dtype=np.uint16)

    def _text(self, name: str, rng: random.Random) -> str:
        if name == "tasks":
            return task_text(make_task(rng, self._pool))
        story = rng.choice(self._stories)
        if rng.random() < self._recipe.recast_share:
            story = recast(story, rng)
        return (as_chat(story, rng) if name == "chat" else story) + END
