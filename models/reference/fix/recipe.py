"""The fixed numbers of the `fix` recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgedec.training.sizes import MuShape

SHAPE = MuShape(layers=6, decoder_layers=3, hidden=384, ffn=1024, heads=6, kv_heads=2)


@dataclass(frozen=True)
class Bucket:
    """Texts of up to `length` tokens, and their share of the batches."""

    length: int
    share: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the texts and the weights of `stories`."""

    shape: MuShape = SHAPE
    steps: int = 4755
    batch_tokens: int = 24576  # on each side
    warmup: int = 200
    decay_share: float = 0.6
    final_rate: float = 0.01
    muon_rate: float = 3e-3
    adam_rate: float = 2e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    # what an edit touched counts more in the loss: by how much, in the first part of the run
    # and at its end, with a straight fall in between
    edit_weight: float = 2.0
    edit_weight_end: float = 1.0
    edit_weight_until: float = 0.4
    pointer_weight: float = 0.1  # of the cross-attention heads that are shown where to look
    clean_share: float = 0.25
    careless_share: float = 0.25  # of damaged texts in the shortest bucket, half of it in the next
    fragment_share: float = 0.15  # of texts in the shortest bucket
    seed: int = 21
    buckets: tuple[Bucket, ...] = (
        Bucket(32, 0.12),
        Bucket(64, 0.20),
        Bucket(128, 0.28),
        Bucket(192, 0.20),
        Bucket(320, 0.20),
    )
    streams: dict[str, float] = field(
        default_factory=lambda: {
            "tiny": 0.17,
            "fairy": 0.20,
            "books": 0.38,
            "wiki": 0.21,
            "dialogue": 0.04,
        }
    )

    def weight(self, step: int) -> float:
        """What the tokens that an edit touched count at a step."""
        flat = self.edit_weight_until * self.steps
        fallen = min(1.0, max(0.0, (step - flat) / max(1.0, self.steps - flat)))
        return self.edit_weight + fallen * (self.edit_weight_end - self.edit_weight)
