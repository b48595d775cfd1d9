"""The vectors that stand for token ids beyond the vocabulary. It knows no runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Floats


def checked(vectors: Floats, width: int) -> Floats:
    """A copy [count, width] that a runtime may keep.

    Raises:
        UsageError: another width, or no vector at all.
    """
    learned = np.array(vectors, np.float32, order="C")
    if learned.ndim != 2 or learned.shape[1] != width or not len(learned):
        raise UsageError(f"learned embeddings are [count, {width}], these {learned.shape}")
    return learned
