"""Train EESD's layer (2406.03853): one whole layer more behind an early exit, and a head.

The frozen model teaches it (self-distillation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedec.training import exit_layers
from edgedec.training.exit_layers import ExitOptions, ExitTrainee
from edgedec.training.own_model import copied

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts

TURN = 60
"""Its place among all that is trained: what is cheap comes first."""


@dataclass(frozen=True)
class Options(ExitOptions):
    """Where rows leave, and how the layer is trained."""


def build(frozen: Frozen, options: Options, texts: Texts) -> ExitTrainee:
    """Begin with the layer that rows would go on with."""
    return exit_layers.build("eesd", frozen, options, texts, copied)
