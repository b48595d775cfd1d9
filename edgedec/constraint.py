"""The hook for constrained decoding: which tokens may come next. Knows no grammar itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedec.errors import UsageError


class Constraint(Protocol):
    """What a user gives: pure, so that every branch of a draft can be asked.

    The state is any value; `advance` returns a new one and leaves the old one as it was.
    """

    def start(self) -> Any:
        """The state before the first new token."""
        ...

    def advance(self, state: Any, token: int) -> Any:
        """The state after a token."""
        ...

    def mask(self, state: Any) -> NDArray[np.bool_] | Sequence[int] | None:
        """The tokens allowed next: True at each of them [V], or their ids, or None for all."""
        ...


@dataclass(frozen=True, slots=True)
class Allowed:
    """The processor that masks what a constraint does not allow."""

    constraint: Constraint

    def start(self, prompt: Sequence[int]) -> Any:
        """The constraint's own first state."""
        return self.constraint.start()

    def apply(self, state: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mask the rest.

        Raises:
            UsageError: the mask has another length or type, or an id outside the vocabulary.
        """
        mask = self.constraint.mask(state)
        if mask is None:
            return logits
        kept = _kept(np.asarray(mask), logits.size)
        return np.where(kept, logits, np.float32(-np.inf))

    def advance(self, state: Any, token: int, logits: NDArray[np.float32]) -> Any:
        """The constraint's own next state."""
        return self.constraint.advance(state, token)


def _kept(mask: NDArray[Any], vocab: int) -> NDArray[np.bool_]:
    if mask.dtype == bool and mask.shape == (vocab,):
        return mask
    kept = np.zeros(vocab, bool)
    if mask.size == 0:
        return kept
    if mask.ndim != 1 or not np.issubdtype(mask.dtype, np.integer):
        raise UsageError(
            f"a constraint's mask must be {vocab} booleans or a list of ids, "
            f"found {mask.dtype} of shape {mask.shape}"
        )
    if mask.min() < 0 or mask.max() >= vocab:
        raise UsageError(
            f"a constraint allows id {mask.min() if mask.min() < 0 else mask.max()}, "
            f"but ids are 0 to {vocab - 1}"
        )
    kept[mask] = True
    return kept
