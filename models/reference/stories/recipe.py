"""The fixed numbers of the `stories` recipe."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Phase:
    """Up to `until` (share of the run): row length, and rows of each stream in a batch."""

    until: float
    length: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the texts and the seed weights."""

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
        share = step / self.steps
        return next((phase for phase in self.phases if share < phase.until), self.phases[-1])
