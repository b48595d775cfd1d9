"""The fixed numbers of the `stories` recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgedec.training.sizes import Shape


@dataclass(frozen=True)
class Phase:
    """Up to `until` (share of the run, 1 in the last): row length, and rows of each stream in a
    batch."""

    until: float
    length: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the texts and the weights to start from."""

    shape: Shape = field(default_factory=Shape)
    steps: int = 3100
    warmup: int = 60
    decay_share: float = 0.4
    final_rate: float = 0.02
    muon_rate: float = 2e-3
    adam_rate: float = 1.5e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    layerskip: bool = True
    answer_weight: float = 6.0  # of the answers of tasks, in the loss
    paired_share: float = 0.5  # of rename tasks, with two names in a sentence
    recast_share: float = 0.0  # of stories, whose characters get other names each time
    exit_layer: int = 3
    exit_weight: float = 0.2
    top_dropout: float = 0.1
    seed: int = 20
    task_books_share: int = 3  # tasks are made from every third book
    phases: tuple[Phase, ...] = field(
        default=(
            Phase(
                until=0.66,
                length=256,
                rows={"tiny": 4, "chat": 2, "fairy": 4, "books": 14, "wiki": 3, "dialogue": 1,
                      "tasks": 4},
            ),
            Phase(
                until=0.88,
                length=256,
                rows={"tiny": 8, "chat": 4, "fairy": 10, "books": 5, "wiki": 1, "tasks": 4},
            ),
            Phase(
                until=1.0,
                length=512,
                rows={"tiny": 4, "chat": 2, "fairy": 5, "books": 3, "tasks": 2},
            ),
        )
    )  # fmt: skip

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to."""
        return next((phase for phase in self.phases if step < self._end(phase)), self.phases[-1])

    def drawn(self, name: str, length: int, step: int) -> int:
        """How many rows of this length a stream has given before a step."""
        rows = begin = 0
        for phase in self.phases:
            end = self._end(phase)
            if phase.length == length:
                rows += phase.rows.get(name, 0) * (min(max(step, begin), end) - begin)
            begin = end
        return rows

    def _end(self, phase: Phase) -> int:
        return math.ceil(phase.until * self.steps)


WIDE = Recipe(
    shape=Shape(layers=10, hidden=384, ffn=1024, heads=6, kv_heads=2),
    steps=3029,
    warmup=150,
    decay_share=0.5,
    final_rate=0.01,
    muon_rate=3e-3,
    adam_rate=3e-3,
    recast_share=0.75,
    phases=(
        Phase(
            until=0.70,
            length=256,
            rows={"tiny": 5, "chat": 3, "fairy": 16, "books": 60, "wiki": 15, "dialogue": 9,
                  "tasks": 20},
        ),
        Phase(
            until=0.90,
            length=256,
            rows={"tiny": 16, "chat": 12, "fairy": 28, "books": 42, "wiki": 8, "dialogue": 4,
                  "tasks": 18},
        ),
        Phase(
            until=1.0,
            length=512,
            rows={"tiny": 10, "chat": 8, "fairy": 18, "books": 18, "wiki": 1, "dialogue": 1,
                  "tasks": 8},
        ),
    ),
)  # fmt: skip
"""Twice the parameters, from nothing, on a GPU: `fix` begins there. The card says what it lacks."""
