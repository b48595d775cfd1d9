"""The vectors that stand for token ids beyond the vocabulary. It knows no runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.errors import UsageError

if TYPE_CHECKING:
    from edgedec.contracts import Floats


class Learned:
    """The embeddings [count, width] of the ids `vocab`, `vocab` + 1, ...; it only grows."""

    def __init__(self, vocab: int, width: int) -> None:
        self._vocab = vocab
        self._first: dict[bytes, int] = {}
        self.vectors: Floats = np.zeros((0, width), np.float32)

    @property
    def ids(self) -> int:
        """How many ids there are: the vocabulary's and these."""
        return self._vocab + len(self.vectors)

    def learn(self, vectors: Floats) -> int:
        """The first id of these vectors; new ones are appended, the same have the same ids.

        Raises:
            UsageError: another width, or no vector at all.
        """
        found = np.array(vectors, np.float32, order="C")
        width = self.vectors.shape[1]
        if found.ndim != 2 or found.shape[1] != width or not len(found):
            raise UsageError(f"learned embeddings are [count, {width}], these {found.shape}")
        key = found.tobytes()
        if key not in self._first:
            self._first[key] = self.ids
            self.vectors = np.concatenate([self.vectors, found])
        return self._first[key]
